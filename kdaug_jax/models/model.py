"""What a network is to the rest of the package: two pure functions and a few facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Variables = dict[str, Any]

# Types of the computation.
DTYPES = ("float32", "bfloat16")


class Model(NamedTuple):
    """A network as a pair of pure functions; `help(model.apply)` shows their arguments in full.

    Attributes:
      init: `init(key, (height, width)) -> variables`, nested dicts `{"params": ...,
        "batch_stats": ...}` ("batch_stats" is `{}` for a network without BatchNorm).
      apply: `apply(variables, image[B*V,H,W,C], *, train, branches=(0,), key=None, groups=0,
        record=False) -> (Outputs, batch_stats)`. Images are in pixel units 0..255 (uint8 or
        float); the network normalises them. V = `len(branches)` views of each example are stacked
        on axis 1 of `[B,V] -> [B*V]`; view v uses BatchNorm branch `branches[v]` and, in training
        mode, its own statistics. `key` feeds dropout and the like. `groups` is the number of groups
        of examples that BatchNorm takes statistics of; 0 for groups of `replica_batch_size`. With
        `record` the second result is a `batchnorm.Recorded`.
      name: the name it was created by.
      num_classes: width of the logits.
      min_size: the smallest legal image side in pixels.
      num_branches: number of BatchNorm branches.
      native_size: the image side in pixels that the network was made for.
      channels: number of channels of its images.
    """

    init: Callable[..., Variables]
    apply: Callable[..., Any]
    name: str
    num_classes: int
    min_size: int
    num_branches: int
    native_size: int
    channels: int
