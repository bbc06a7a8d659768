"""Images on disk, read and decoded ahead of the step by Grain."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
from absl import flags

from kdaug_jax.data.dataset import Reader, Split
from kdaug_jax.errors import DataError

# Bytes read at once: enough to outweigh Grain's overhead, and little enough that the threads share
# a batch and the first batch comes soon.
CHUNK_BYTES = 1 << 20
MAX_THREADS = 16


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Reads the chunk of a number; each batch is `parts` of them. Sent to worker processes."""

    reader: Reader
    rows: Callable[[int], np.ndarray]
    parts: int

    def __call__(self, number: int) -> np.ndarray:
        batch, part = divmod(int(number), self.parts)
        return self.reader.read(np.array_split(self.rows(batch), self.parts)[part])


class Stream:
    """The images of one batch after another, read ahead; `close` it to end its workers."""

    def __init__(
        self, split: Split, rows: Callable[[int], np.ndarray], start: int, workers: int = 0
    ):
        """Starts reading ahead.

        Args:
          split: the images.
          rows: `rows(batch number)` returns `i[n]`, positions in the split, as many for each batch;
            pure, and picklable if there are workers.
          start: number of the first batch.
          workers: processes that read and decode; 0 for threads of this process, which is enough
            where decoding releases Python's lock, as that of PNG and JPEG does.
        """
        count = len(rows(start))
        per_batch = count * split.size_bytes // len(split)
        parts = min(max(per_batch // CHUNK_BYTES, 1), count)
        threads = _threads(workers)
        chunks = grain.MapDataset.range(start * parts, 1 << 62).map(
            _Chunk(split.reader, rows, parts)
        )
        ahead = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=2 * max(threads, parts)
        )
        stream = chunks.to_iter_dataset(ahead)
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain reads some, which notebooks never parse
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(workers, per_worker_buffer_size=2 * parts),
                worker_init_fn=_end_with_parent,
            )
        # After the workers, so that their number does not change the contents of a batch.
        self._iterator = iter(stream.batch(parts, batch_fn=_join))

    def next(self) -> np.ndarray:
        """Returns the images of the next batch, `u8[n,H,W,3]`.

        Raises:
          DataError: an image is corrupt, or a worker process died.
        """
        try:
            return next(self._iterator)
        except RuntimeError as error:
            died = re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
            if died is None:
                raise
            raise DataError(
                "data.workers", f"a worker process died with exit code {died[1]}",
                "check that memory suffices, and run again to go on from the last checkpoint",
            ) from None

    def close(self) -> None:
        """Ends reading ahead, and the worker processes."""
        self._iterator.close()


def _threads(workers: int) -> int:
    present = os.cpu_count() or 1
    return min(max(present // max(workers, 1), 1), MAX_THREADS)


def _join(chunks: Any) -> np.ndarray:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _end_with_parent(number: int, count: int) -> None:
    """Makes a worker live exactly as long as its parent.

    Signals to the process group must not end it: the parent still needs batches until it has saved.
    A parent that is killed cannot end it, so the worker watches its parent.
    """
    del number, count
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
