"""How batches reach the step: arrays that stay on the devices, and arrays sent for each step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.order import indices
from kdaug_jax.data.storage import fetch, row_bytes, store
from kdaug_jax.data.stream import (
    STORED,
    BatchPlan,
    CropPlan,
    Stream,
    check_memory,
    layout_of,
)
from kdaug_jax.types import Batch

_ALL = slice(None)
# `crops(index, sizes) -> {name: (CropPlan, boxes)}` of examples.
DrawCrops = Callable[[np.ndarray, np.ndarray], dict[str, Any]]


def _nothing() -> None:
    pass


def _same(item: Any, member: int) -> Any:
    del member
    return item


class Feed(NamedTuple):
    """A source of training batches.

    Attributes:
      constants: arrays that stay on the devices for the whole run.
      item: `item(step)` returns the arrays sent for one step, examples along axis 0; a function of
        the step, fastest for one step after another.
      batch: `batch(constants, item) -> Batch`, pure, called inside the compiled step.
      close: ends reading ahead.
      select: `select(item, member)` returns the part of an item that a member of a population
        takes; members share the examples, but each seed has its own crops.
      item_bytes: bytes of the images that a process sends for a step; 0 where they stay on the
        devices.
    """

    constants: Any
    item: Callable[[int], Any]
    batch: Callable[[Any, Any], Batch]
    close: Callable[[], None] = _nothing
    select: Callable[[Any, int], Any] = _same
    item_bytes: int = 0


class HostCrops(NamedTuple):
    """The crops that are cut while images are decoded.

    Attributes:
      draw: `draw(step, index, sizes) -> {name: (CropPlan, boxes)}` for examples `i32[n]` and the
        sizes `i32[n,2]` of their images, see `data.stream.BatchPlan`; pure.
      stored: whether batches hold whole images too.
      starts: steps, ascending, from which other crops may be drawn; the first is 0.
      select: `select(crops, member) -> crops` by view, what a member takes of what `draw` named.
    """

    draw: Callable[[int, np.ndarray, np.ndarray], dict[str, tuple[CropPlan, np.ndarray]]]
    stored: bool
    starts: Sequence[int]
    select: Callable[[dict[str, Any], int], dict[str, Any]]


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
    rows: slice | np.ndarray = _ALL, crops: HostCrops | None = None, platform: str = "cpu",
) -> Feed:
    """Returns a `resident` feed of a split that fits on the devices, a `streamed` one otherwise.

    Args:
      split: the training split.
      seed: `data.seed`, of the order.
      batch_size: examples a step.
      device_bytes: the largest split, in bytes of its images as they are stored there, that is
        kept on the devices.
      workers: see `streamed`.
      rows: the positions within a batch that this process feeds to its devices.
      crops: cut on the host, so that batches are streamed.
      platform: of the devices, see `resident`.

    Returns:
      A `Feed`; both kinds give the same batches.
    """
    if crops is None and fits(split, device_bytes, platform):
        return resident(split, seed, batch_size, rows, platform)
    return streamed(split, seed, batch_size, rows, workers, crops)


def fits(split: Split, device_bytes: int, platform: str) -> bool:
    """Returns whether a split whose images have one size may be kept on the devices.

    Args:
      split: the training split.
      device_bytes: see `make_feed`.
      platform: see `resident`.
    """
    return len(split) * row_bytes(split.size, platform) <= device_bytes


def resident(
    split: Split, seed: int, batch_size: int, rows: slice | np.ndarray = _ALL,
    platform: str = "cpu",
) -> Feed:
    """Keeps the split on the devices, see `storage`, and sends only positions.

    Args:
      split: the training split, N examples.
      seed: `data.seed`, of the order.
      batch_size: examples a step, 1..N.
      rows: the positions within a batch that this process feeds to its devices.
      platform: of the devices, "cpu", "gpu" or "tpu", which decides the form of what is stored.

    Returns:
      A `Feed` whose batches follow `data.order`.
    """
    size = split.size

    def batch(constants, item) -> Batch:
        stored, label, index = constants
        image = fetch(stored, item, size)
        return Batch(image, label[item], index[item], jnp.ones(item.shape, bool))

    order = _Order(seed, len(split), batch_size, rows)
    return Feed((store(split.image, platform), split.label, split.index), order, batch)


def streamed(
    split: Split, seed: int, batch_size: int, rows: slice | np.ndarray = _ALL, workers: int = 0,
    crops: HostCrops | None = None,
) -> Feed:
    """Sends the images of each step, read ahead of it unless they lie in memory.

    Args:
      split: the training split, N examples, in memory or not.
      seed: `data.seed`, of the order.
      batch_size: examples a step, 1..N.
      rows: the positions within a batch that this process feeds to its devices.
      workers: processes that read and decode images, 0 for threads of this process, -1 to choose.
      crops: cut on the host; None for whole images.

    Returns:
      A `Feed` of the same batches as `resident`; the caller closes it.

    Raises:
      ConfigError: batches do not fit into memory.
    """
    order = _Order(seed, len(split), batch_size, rows)

    def plan(step: int) -> BatchPlan:
        positions = order(step)
        if crops is None:
            return BatchPlan(positions, True, {})
        drawn = crops.draw(step, split.index[positions], split.sizes[positions])
        return BatchPlan(positions, crops.stored, drawn)

    reads = crops is not None or not split.in_memory
    if reads:
        check_memory(layout_of(plan(0), split.size))
    starts = (0,) if crops is None else crops.starts
    ahead = _Ahead(split, plan, workers, starts) if reads else None

    def item(step: int) -> dict[str, Any]:
        positions = order(step)
        images = {STORED: split.read(positions)} if ahead is None else ahead.images(step)
        return {
            "image": images.pop(STORED, None), "crops": images, "label": split.label[positions],
            "index": split.index[positions],
        }

    def select(item: dict[str, Any], member: int) -> dict[str, Any]:
        return item if crops is None else {**item, "crops": crops.select(item["crops"], member)}

    def batch(constants, item) -> Batch:
        mask = jnp.ones(item["label"].shape, bool)
        return Batch(item["image"], item["label"], item["index"], mask, item["crops"])

    sent = plan_bytes(plan(0), split.size)
    return Feed((), item, batch, _nothing if ahead is None else ahead.close, select, sent)


class _Ahead:
    """The images of steps, from a stream that restarts where steps are not consecutive."""

    def __init__(
        self, split: Split, plan: Callable[[int], BatchPlan], workers: int, starts: Sequence[int]
    ):
        self._open = functools.partial(Stream, split, plan, workers=workers)
        self._starts = starts
        self._stream: Stream | None = None
        self._next = 0

    def images(self, step: int) -> dict[str, np.ndarray]:
        if self._stream is None or step != self._next or step in self._starts:
            self.close()
            # All batches of a stream have the same crops.
            end = next((start for start in self._starts if start > step), None)
            self._stream = self._open(start=step, end=end)
        self._next = step + 1
        return self._stream.next()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def plan_bytes(plan: BatchPlan, size: tuple[int, int] | None) -> int:
    """Returns how many bytes the images and crops of a batch take.

    Args:
      plan: of the batch.
      size: (height, width) of whole images, None where they differ.
    """
    sent = 3 * len(plan.rows) * size[0] * size[1] if plan.stored else 0
    for crop, _ in plan.crops.values():
        height, width = crop.size
        sent += 3 * len(plan.rows) * crop.draws * height * width * np.dtype(crop.dtype).itemsize
    return sent


def joined(feeds: Sequence[Feed], members: Sequence[int]) -> Feed:
    """Returns one feed of members that take their batches from several feeds of a split.

    Args:
      feeds: alike but for the order of examples; each numbers its own members from 0.
      members: for each member the number of its feed.
    """
    within = [list(members[:number]).count(feed) for number, feed in enumerate(members)]

    def item(step: int) -> dict[str, Any]:
        return {str(number): feed.item(step) for number, feed in enumerate(feeds)}

    def select(item: dict[str, Any], member: int) -> Any:
        number = members[member]
        return feeds[number].select(item[str(number)], within[member])

    def close() -> None:
        for feed in feeds:
            feed.close()

    # What stays on the devices has no order.
    return feeds[0]._replace(
        item=item, select=select, close=close, item_bytes=sum(feed.item_bytes for feed in feeds)
    )


def eval_batches(
    split: Split, batch_size: int, rows: slice | np.ndarray = _ALL,
    crops: DrawCrops | None = None, stored: bool = True, workers: int = 0,
) -> Iterator[Batch]:
    """Yields a split in order, the last batch filled up with masked copies of its first example.

    Args:
      split: the split to evaluate; images on disk are read ahead.
      batch_size: rows of every batch, over all processes.
      rows: the positions within a batch that this process feeds to its devices.
      crops: draws what is cut on the host; None for none.
      stored: whether batches hold whole images.
      workers: see `streamed`.

    Yields:
      Batches of NumPy arrays.
    """
    def unbounded(number: int) -> np.ndarray:
        return (number * batch_size + np.arange(batch_size, dtype=np.int32))[rows]

    def plan(number: int) -> BatchPlan:
        return _eval_plan(split, unbounded(number), crops, stored)

    count = -(-len(split) // batch_size)
    stream = None
    if crops is not None or not split.in_memory:
        stream = Stream(split, plan, 0, workers, end=count, field="eval.batch_size")
    try:
        for number in range(count):
            positions = _filled(split, unbounded(number))
            images = {STORED: split.read(positions)} if stream is None else stream.next()
            mask = unbounded(number) < len(split)
            stored_images = images.pop(STORED, None)
            label, index = split.label[positions], split.index[positions]
            yield Batch(stored_images, label, index, mask, images)
    finally:
        if stream is not None:
            stream.close()


def check_eval_memory(
    split: Split, batch_size: int, rows: slice | np.ndarray, crops: DrawCrops | None, stored: bool
) -> None:
    """Validates that the batches of `eval_batches` fit into memory, before there are any.

    Raises:
      ConfigError: they do not.
    """
    if crops is not None or not split.in_memory:
        plan = _eval_plan(split, np.arange(batch_size, dtype=np.int32)[rows], crops, stored)
        check_memory(layout_of(plan, split.size), "eval.batch_size")


def _filled(split: Split, positions: np.ndarray) -> np.ndarray:
    """Returns positions in a split, 0 for those behind its end."""
    return np.where(positions < len(split), positions, 0).astype(np.int32)


def _eval_plan(
    split: Split, positions: np.ndarray, crops: DrawCrops | None, stored: bool
) -> BatchPlan:
    rows = _filled(split, positions)
    drawn = {} if crops is None else crops(split.index[rows], split.sizes[rows])
    return BatchPlan(rows, stored, drawn)
