"""What a data source returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The examples of one split.

    Attributes:
      image: `u8[N,H,W,3]`, RGB pixels.
      label: `i32[N]`, class numbers.
    """

    image: np.ndarray
    label: np.ndarray


class Dataset(NamedTuple):
    """Named splits and the names of the classes, in the order of their numbers."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]
