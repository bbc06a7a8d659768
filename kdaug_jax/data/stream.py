"""Batches of images and crops, read and cut ahead of the step."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.errors import ConfigError
from kdaug_jax.images.batches import (
    STORED,
    BatchPlan,
    CropPlan,
    Layout,
    block_bytes,
    check_plan,
    layout_of,
)
from kdaug_jax.images.crew import Processes, Threads, available
from kdaug_jax.images.memory import memory_limit

# Batches that are filled at the same time, so that none of the crew waits for the last part of one.
AHEAD = 3
# They, the batch that a step waits for, and the one whose copy to the devices may not be done.
HELD = AHEAD + 2
# Python's lock is held for a sixth of the work on a JPEG, so more threads would wait for it.
MOST_THREADS = 8
MOST_CORES_OF_THREADS = 4
# Pixels of a part of a batch: some 25 ms of decoding, against 0.1 ms for its task and report.
PART_PIXELS = 3 << 20


class Stream:
    """The images of one batch after another, made ahead of the step.

    What is made is a function of the plan alone: the same bytes with any number of threads or
    processes, from any start.

    Memory: the arrays that `next` returns belong to the caller. Nothing writes to them again, so
    they may be handed to `jax.device_put`, which on the CPU backend keeps using the memory that it
    is given. Beside them, a stream holds `AHEAD` batches.

    A stream is used by one thread. It ends its threads, processes and descriptors in `close`, after
    its last batch, and when `next` raises.
    """

    def __init__(
        self, split: Split, plan: Callable[[int], BatchPlan], start: int, workers: int = -1,
        end: int | None = None, field: str = "data.batch_size",
    ):
        """Starts to read ahead.

        Args:
          split: the images.
          plan: `plan(number)` returns what a batch holds; pure, and called once for each batch, in
            order, by the thread that uses the stream. All batches have the outputs of the first,
            and no more rows.
          start: number of the first batch.
          workers: processes that read, decode and cut; 0 for threads of this process; -1 to choose,
            see `choose_workers`. Images that lie in memory are always cut by threads.
          end: one after the last batch; None for a stream without end.
          field: that says how many rows a batch has, see `check_memory`.

        Raises:
          ConfigError: there are no worker processes on this system, or batches do not fit into
            memory.
          DataError: the images cannot be sent to worker processes.
        """
        self._plan, self._end = plan, end
        self._number = self._begun = start  # of the next batch, and of the next to begin
        self._waiting: dict[int, set[int]] = {}  # starts of the parts that are not done
        self._failures: dict[int, dict[int, Exception]] = {}
        self._crew = None
        if start == end:
            return
        first = plan(start)
        layout = self._layout = layout_of(first, split.size)
        check_memory(layout, field)
        workers = choose_workers(workers, split)
        crew_size = workers or min(cores(), MOST_THREADS)
        pixels = split.size_bytes // (3 * len(split))
        self._part = max(min(PART_PIXELS // pixels, -(-layout.count // crew_size)), 1)
        if workers:
            self._crew = Processes(split.reader, layout, workers, AHEAD)
        else:
            self._crew = Threads(split.reader, layout, crew_size)
        try:
            self._begin(first)
            self._read_ahead()
        except BaseException:
            self.close()
            raise

    def _begin(self, plan: BatchPlan) -> None:
        check_plan(self._layout, plan)
        count = len(plan.rows)
        parts = [
            slice(start, min(start + self._part, count)) for start in range(0, count, self._part)
        ]
        self._waiting[self._begun] = {part.start for part in parts}
        self._crew.begin(self._begun, plan, parts)
        self._begun += 1

    def _read_ahead(self) -> None:
        last = self._number + AHEAD
        while self._begun < (last if self._end is None else min(last, self._end)):
            self._begin(self._plan(self._begun))

    def next(self) -> dict[str, np.ndarray]:
        """Returns the images of the next batch of n rows, which are the caller's to keep.

        Returns:
          The stored images under `STORED`, `u8[n,H,W,3]`, if the plan wants them, and each output
          of D crops by its name, `[n*D,H,W,3]`: draw d of image b lies in row b*D+d.

        Raises:
          DataError: an image is corrupt, the first of the batch is named; or a worker process died.
          ValueError: the stream has ended.
        """
        if self._crew is None:
            raise ValueError("the stream has ended")
        try:
            images = self._finish(self._number)
            self._number += 1
            self._read_ahead()
        except BaseException:
            self.close()
            raise
        if self._number == self._end:
            self.close()
        return images

    def _finish(self, number: int) -> dict[str, np.ndarray]:
        while self._waiting[number]:
            reported, start, failure = self._crew.report()
            self._waiting[reported].discard(start)
            if failure is not None:
                self._failures.setdefault(reported, {})[start] = failure
        del self._waiting[number]
        if failures := self._failures.pop(number, None):
            raise failures[min(failures)]
        return self._crew.take(number)

    def close(self) -> None:
        """Ends reading ahead, threads and processes; a second call does nothing."""
        if self._crew is not None:
            crew, self._crew = self._crew, None
            crew.close()


def check_memory(layout: Layout, field: str = "data.batch_size") -> None:
    """Validates that the batches which lie in memory at a time fit there.

    Otherwise the kernel would end the run, or another one, without a word.

    Args:
      layout: of the largest batch.
      field: that says how many rows a batch has, "data.batch_size" or "eval.batch_size".

    Raises:
      ConfigError: they do not.
    """
    needed = HELD * block_bytes(layout)
    memory = memory_limit()
    if needed > memory:
        views = "eval.view begin with a smaller crop" if field.startswith("eval") else (
            "views begin with smaller crops"
        )
        raise ConfigError(
            field, f"the {HELD} batches of {layout.count} examples that lie in memory at a time "
            f"take {needed / 1e9:,.1f} GB, and there are {memory / 1e9:,.1f} GB",
            f"take a smaller one, or let {views}",
        )


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(workers: int, split: Split, available_cores: int | None = None) -> int:
    """Returns the number of worker processes; 0 stands for threads.

    Threads share Python's lock, so they serve up to `MOST_CORES_OF_THREADS` cores; above that, all
    cores but one get a process.

    Args:
      workers: the number, or -1 to choose.
      split: images that lie in memory are cut by threads, since processes would each copy them;
        a reader of the program that runs cannot be loaded by a process, so threads are chosen.
      available_cores: by default `cores()`.
    """
    if split.in_memory:
        return 0
    if workers >= 0:
        return workers
    count = cores() if available_cores is None else available_cores
    alone = type(split.reader).__module__ == "__main__"
    return 0 if count <= MOST_CORES_OF_THREADS or alone or not available() else count - 1


__all__ = ["AHEAD", "STORED", "BatchPlan", "CropPlan", "Stream", "check_memory", "choose_workers",
           "cores", "layout_of"]
