"""How batches reach the step: arrays that stay on the devices, and arrays sent for each step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.order import indices
from kdaug_jax.data.stream import STORED, BatchPlan, Stream
from kdaug_jax.types import Batch

_ALL = slice(None)


def _nothing() -> None:
    pass


class Feed(NamedTuple):
    """A source of training batches.

    Attributes:
      constants: arrays that stay on the devices for the whole run.
      item: `item(step)` returns the arrays sent for one step, examples along axis 0; a function of
        the step, fastest for one step after another.
      batch: `batch(constants, item) -> Batch`, pure, called inside the compiled step.
      close: ends reading ahead.
    """

    constants: Any
    item: Callable[[int], Any]
    batch: Callable[[Any, Any], Batch]
    close: Callable[[], None] = _nothing


# Two are enough: batches never cross epochs, but reading ahead does.
_epoch_order = functools.lru_cache(maxsize=2)(indices)


@dataclasses.dataclass(frozen=True)
class _Order:
    """`order(step) -> i32[n]`: the positions in the split that a process reads for a step."""

    seed: int
    size: int
    batch_size: int
    rows: Any

    def __call__(self, step: int) -> np.ndarray:
        epoch, number = divmod(step, self.size // self.batch_size)
        order = _epoch_order(self.seed, epoch, self.size)
        return order[number * self.batch_size :][: self.batch_size][self.rows]


def make_feed(
    split: Split, seed: int, batch_size: int, *, device_bytes: int, workers: int = 0,
    rows: slice | np.ndarray = _ALL,
) -> Feed:
    """Returns a `resident` feed of a split that fits on the devices, a `streamed` one otherwise.

    Args:
      split: the training split.
      seed: `data.seed`, of the order.
      batch_size: examples a step.
      device_bytes: the largest split, in bytes of its images, that is kept on the devices.
      workers: see `streamed`.
      rows: the positions within a batch that this process feeds to its devices.

    Returns:
      A `Feed`; both kinds give the same batches.
    """
    if split.size_bytes <= device_bytes:
        return resident(split, seed, batch_size, rows)
    return streamed(split, seed, batch_size, rows, workers)


def resident(
    split: Split, seed: int, batch_size: int, rows: slice | np.ndarray = _ALL
) -> Feed:
    """Keeps the split on the devices as uint8 and sends only positions.

    Args:
      split: the training split, N examples.
      seed: `data.seed`, of the order.
      batch_size: examples a step, 1..N.
      rows: the positions within a batch that this process feeds to its devices.

    Returns:
      A `Feed` whose batches follow `data.order`.
    """

    def batch(constants, item) -> Batch:
        image, label, index = constants
        return Batch(image[item], label[item], index[item], jnp.ones(item.shape, bool))

    order = _Order(seed, len(split), batch_size, rows)
    return Feed((split.image, split.label, split.index), order, batch)


def streamed(
    split: Split, seed: int, batch_size: int, rows: slice | np.ndarray = _ALL, workers: int = 0
) -> Feed:
    """Sends the images of each step, read ahead of it unless they lie in memory.

    Args:
      split: the training split, N examples, in memory or not.
      seed: `data.seed`, of the order.
      batch_size: examples a step, 1..N.
      rows: the positions within a batch that this process feeds to its devices.
      workers: processes that read and decode images on disk, 0 for threads of this process, -1 to
        choose.

    Returns:
      A `Feed` of the same batches as `resident`; the caller closes it.
    """
    order = _Order(seed, len(split), batch_size, rows)
    ahead = None if split.in_memory else _Ahead(split, order, workers)

    def item(step: int) -> dict[str, np.ndarray]:
        positions = order(step)
        image = split.read(positions) if ahead is None else ahead.images(step)
        return {"image": image, "label": split.label[positions], "index": split.index[positions]}

    def batch(constants, item) -> Batch:
        mask = jnp.ones(item["label"].shape, bool)
        return Batch(item["image"], item["label"], item["index"], mask)

    return Feed((), item, batch, _nothing if ahead is None else ahead.close)


class _Ahead:
    """The images of steps, from a stream that restarts where steps are not consecutive."""

    def __init__(self, split: Split, order: _Order, workers: int):
        def plan(step: int) -> BatchPlan:
            return BatchPlan(order(step), stored=True, crops={})

        self._open = functools.partial(Stream, split, plan, workers=workers)
        self._stream: Stream | None = None
        self._next = 0

    def images(self, step: int) -> np.ndarray:
        if self._stream is None or step != self._next:
            self.close()
            self._stream = self._open(step)
        self._next = step + 1
        return self._stream.next()[STORED]

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def eval_batches(
    split: Split, batch_size: int, rows: slice | np.ndarray = _ALL, workers: int = 0
) -> Iterator[Batch]:
    """Yields a split in order, the last batch filled up with masked copies of its first example.

    Args:
      split: the split to evaluate; images on disk are read ahead.
      batch_size: rows of every batch, over all processes.
      rows: the positions within a batch that this process feeds to its devices.
      workers: see `streamed`.

    Yields:
      Batches of NumPy arrays.
    """
    size = len(split)

    def unbounded(number: int) -> np.ndarray:
        return (number * batch_size + np.arange(batch_size, dtype=np.int32))[rows]

    def filled(number: int) -> np.ndarray:
        positions = unbounded(number)
        return np.where(positions < size, positions, 0).astype(np.int32)

    def plan(number: int) -> BatchPlan:
        return BatchPlan(filled(number), stored=True, crops={})

    batches = -(-size // batch_size)
    stream = None if split.in_memory else Stream(split, plan, 0, workers, batches)
    try:
        for number in range(batches):
            positions = filled(number)
            image = split.read(positions) if stream is None else stream.next()[STORED]
            mask = unbounded(number) < size
            yield Batch(image, split.label[positions], split.index[positions], mask)
    finally:
        if stream is not None:
            stream.close()
