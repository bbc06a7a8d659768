"""How batches reach the step: what lies on the device, what is sent for each step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.order import indices
from kdaug_jax.types import Batch


class Feed(NamedTuple):
    """A source of training batches.

    Attributes:
      constants: arrays that stay on the devices for the whole run.
      item: `item(step)` gives the arrays sent for one step, examples along axis 0.
      batch: `batch(constants, item) -> Batch`, pure, called inside the compiled step.
    """

    constants: Any
    item: Callable[[int], Any]
    batch: Callable[[Any, Any], Batch]


def resident(split: Split, seed: int, batch_size: int) -> Feed:
    """Keeps the split on the devices as uint8 and sends only indices.

    Args:
      split: the training split, N examples.
      seed: `data.seed`, of the order.
      batch_size: examples a step, 1..N.

    Returns:
      A `Feed` whose batches follow `data.order`.
    """
    size = len(split)
    per_epoch = size // batch_size
    epoch_order = functools.lru_cache(maxsize=2)(lambda epoch: indices(seed, epoch, size))

    def item(step: int) -> np.ndarray:
        epoch, position = divmod(step, per_epoch)
        return epoch_order(epoch)[position * batch_size :][:batch_size]

    def batch(constants, row) -> Batch:
        image, label, index = constants
        return Batch(image[row], label[row], index[row], jnp.ones(row.shape, bool))

    return Feed((split.image, split.label, split.index), item, batch)


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yields a split in order, the last batch filled up with masked copies of its first example.

    Args:
      split: the split to evaluate.
      batch_size: rows of every batch.

    Yields:
      Batches of NumPy arrays.
    """
    size = len(split)
    for start in range(0, size, batch_size):
        rows = np.arange(start, start + batch_size, dtype=np.int32)
        mask = rows < size
        rows = np.where(mask, rows, 0).astype(np.int32)
        yield Batch(split.read(rows), split.label[rows], split.index[rows], mask)
