"""The order of examples: a pure function of (data seed, epoch), so any step can be resumed."""

from __future__ import annotations

import numpy as np


def indices(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order in which an epoch visits the training split.

    Args:
      seed: `data.seed`, 0..2**32-1.
      epoch: number of the epoch, from 0.
      size: number of examples, N.

    Returns:
      `i32[N]`, a permutation of 0..N-1. NumPy promises never to change the stream of the legacy
      generator, so stored outputs stay valid.
    """
    return np.random.RandomState([seed, epoch]).permutation(size).astype(np.int32)

