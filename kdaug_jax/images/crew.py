"""Crews that fill batches of images: threads of this process, or worker processes.

Both carry out `batches.fill` for one part of a batch at a time, in any order, and report each part.

Worker processes share one ring of batches in memory that has no name, so nothing can be left
behind and /dev/shm does not bound it. Two pairs of sockets, shared by all workers, carry tasks and
reports: each task reaches exactly one worker, whichever is free, and the end of the parent, by any
signal, is an end of file to all of them.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import mmap
import os
import pickle
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from typing import Any

import numpy as np

from kdaug_jax.errors import ConfigError, DataError, UserError
from kdaug_jax.images import memory
from kdaug_jax.images.batches import (
    Batch,
    BatchPlan,
    Layout,
    batch_in,
    block_bytes,
    fill,
    new_batch,
)

Report = tuple[int, int, Exception | None]  # number of a batch, start of the part, what failed

_TASK = struct.Struct("<qqqq")  # number of the batch, its block of the ring, start, stop
_REPORT = struct.Struct("<qq")  # number of the batch, start; a pickled error may follow
_MESSAGE_BYTES = 1 << 16
_TRACEBACK_CHARACTERS = 8000
_SETUP = -1  # stands for the number of a batch where a worker could not begin
_IGNORED = (signal.SIGINT, signal.SIGTERM)


class Threads:
    """Threads of this process; batches have memory of their own, which is handed out as it is."""

    def __init__(self, reader: Any, layout: Layout, count: int):
        """Starts `count` threads that read from `reader`."""
        memory.keep_memory()
        self._layout, self._batches = layout, {}
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._reports: queue.SimpleQueue = queue.SimpleQueue()

        def work() -> None:
            while (task := self._tasks.get()) is not None:
                number, batch, start, stop = task
                failure = None
                try:
                    fill(reader, layout, batch, start, stop)
                except Exception as error:
                    failure = error
                self._reports.put((number, start, failure))

        self._threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def begin(self, number: int, plan: BatchPlan, parts: list[slice]) -> None:
        """Hands out the parts of a batch."""
        batch = self._batches[number] = new_batch(self._layout, plan)
        for part in parts:
            self._tasks.put((number, batch, part.start, part.stop))

    def report(self) -> Report:
        """Waits until any part is done."""
        return self._reports.get()

    def take(self, number: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch whose parts are all done."""
        return self._batches.pop(number).images

    def close(self) -> None:
        """Ends the threads, after the parts in which they are."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._batches.clear()


class Processes:
    """Worker processes that fill a ring of batches; what is handed out is copied out of it."""

    def __init__(self, reader: Any, layout: Layout, count: int, ring: int):
        """Starts `count` processes.

        Args:
          reader: of the split; pickled.
          layout: of each batch.
          count: of processes.
          ring: batches that are filled at the same time.

        Raises:
          ConfigError: this is not Linux, or an old one.
          DataError: the reader cannot be pickled.
        """
        if not available():
            raise ConfigError(
                "data.workers", "worker processes need Linux 5.3 or later",
                "set data.workers=0 to use threads",
            )
        self._free, self._blocks = list(range(ring)), {}
        self._unsent: collections.deque[bytes] = collections.deque()
        with contextlib.ExitStack() as stack:
            try:
                setup = memory.dump((reader, layout))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise DataError(
                    "data.workers", f"{type(reader).__name__} cannot be sent to worker processes "
                    f"({error})", "set data.workers=0 to read in threads",
                ) from None
            stack.callback(os.close, setup)
            shared = memory.shared_memory(ring * block_bytes(layout))
            stack.callback(os.close, shared)
            blocks = np.frombuffer(mmap.mmap(shared, 0), np.uint8).reshape(ring, -1)
            self._batches = [batch_in(layout, block) for block in blocks]
            with contextlib.ExitStack() as lasting:
                (self._tasks, tasks), (self._reports, reports) = (
                    socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)
                )
                for near in (self._tasks, self._reports):
                    lasting.enter_context(near)
                for far in (tasks, reports):
                    stack.enter_context(far)
                self._poll = select.poll()
                self._poll.register(self._reports, select.POLLIN)
                self._processes = {}
                for _ in range(count):
                    process = _start([shared, setup, tasks.fileno(), reports.fileno()])
                    lasting.callback(_end, process)
                    watched = os.pidfd_open(process.pid)
                    lasting.callback(os.close, watched)
                    self._processes[watched] = process
                    self._poll.register(watched, select.POLLIN)
                self._lasting = lasting.pop_all()

    def begin(self, number: int, plan: BatchPlan, parts: list[slice]) -> None:
        """Hands out the parts of a batch; at most `ring` batches may be begun and not taken."""
        block = self._free.pop()
        self._blocks[number] = block, plan
        batch = self._batches[block]
        batch.rows[: len(plan.rows)] = plan.rows
        for name, (_, steps) in plan.crops.items():
            batch.steps[name][: len(plan.rows)] = steps
        self._unsent.extend(_TASK.pack(number, block, part.start, part.stop) for part in parts)
        self._send()

    def _send(self) -> None:
        """Sends tasks as long as the socket takes some; waiting for it could wait for ever.

        Workers that wait until their reports are read take no more tasks.
        """
        with contextlib.suppress(BlockingIOError, ConnectionError):  # `report` sees who died
            while self._unsent:
                self._tasks.send(self._unsent[0], socket.MSG_DONTWAIT)
                self._unsent.popleft()
        self._poll.register(self._tasks, select.POLLOUT if self._unsent else 0)

    def report(self) -> Report:
        """Waits until any part is done.

        Raises:
          DataError: a worker died, or cannot load the reader.
        """
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            for watched in ready & self._processes.keys():
                self._refuse_dead(self._processes[watched])
            if self._unsent:
                self._send()
            if self._reports.fileno() not in ready:
                continue
            if not (message := self._reports.recv(_MESSAGE_BYTES)):
                continue  # all have closed it: their ends are about to show
            number, start = _REPORT.unpack_from(message)
            packed = message[_REPORT.size :]
            failure = pickle.loads(packed) if packed else None
            if number == _SETUP:
                raise failure
            return number, start, failure

    def _refuse_dead(self, process: subprocess.Popen) -> None:
        raise DataError(
            "data.workers", f"a worker process died with exit code {process.wait()}",
            "check that memory suffices, and run again to go on from the last checkpoint",
        )

    def take(self, number: int) -> dict[str, np.ndarray]:
        """Returns a copy of the arrays of a batch whose parts are all done."""
        block, plan = self._blocks.pop(number)
        self._free.append(block)
        draws = {name: crop.draws for name, (crop, _) in plan.crops.items()}
        return {
            name: images[: len(plan.rows) * draws.get(name, 1)].copy()
            for name, images in self._batches[block].images.items()
        }

    def close(self) -> None:
        """Ends the processes at once and gives the memory back."""
        self._lasting.close()
        self._batches.clear()


@functools.cache
def available() -> bool:
    """Returns whether worker processes can be had: they need Linux 5.3 or later."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return hasattr(os, "memfd_create")


def _start(descriptors: list[int]) -> subprocess.Popen:
    """Starts a worker that inherits descriptors.

    Not by `multiprocessing`, which runs the user's program again in each.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OPENBLAS_NUM_THREADS": "1",  # NumPy would start a thread for each core in each worker
    }
    # Blocked signals stay blocked in the worker: it must not end before it can ignore them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "kdaug_jax.images.worker", *map(str, descriptors)],
            pass_fds=descriptors, stdin=subprocess.DEVNULL, env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen) -> None:
    process.kill()  # it has nothing to save
    process.wait()


def serve(shared: int, setup: int, tasks: int, reports: int) -> None:
    """Carries out tasks in a worker process until its parent is gone.

    Args:
      shared: descriptor of the ring of batches.
      setup: descriptor of the reader and the layout of a batch, see `memory.dump`.
      tasks: descriptor of the socket that tasks come from.
      reports: descriptor of the socket that they are reported to.
    """
    memory.keep_memory()
    for number in _IGNORED:  # a run that is told to stop still needs batches
        signal.signal(number, signal.SIG_IGN)
    inbox, outbox = socket.socket(fileno=tasks), socket.socket(fileno=reports)
    with contextlib.suppress(ConnectionError):  # the parent is gone
        try:
            reader, layout = memory.load(setup)
        except Exception as error:
            refusal = DataError(
                "data.workers", "a worker process cannot load the reader of the images "
                f"({type(error).__name__}: {error})", "set data.workers=0 to read in threads",
            )
            outbox.send(_REPORT.pack(_SETUP, 0) + pickle.dumps(refusal))
            inbox.recv(_MESSAGE_BYTES)
            return
        ring = np.frombuffer(mmap.mmap(shared, 0), np.uint8).reshape(-1, block_bytes(layout))
        batches = [batch_in(layout, block) for block in ring]
        while message := inbox.recv(_MESSAGE_BYTES):
            number, block, start, stop = _TASK.unpack(message)
            failure = _fill(reader, layout, batches[block], start, stop)
            outbox.send(_REPORT.pack(number, start) + failure)


def _fill(reader: Any, layout: Layout, batch: Batch, start: int, stop: int) -> bytes:
    """Fills a part; returns the error that another process can raise, or nothing."""
    try:
        fill(reader, layout, batch, start, stop)
        return b""
    except UserError as error:
        return pickle.dumps(error)
    except Exception as error:
        lines = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
        other = RuntimeError(f"{type(error).__name__} in a worker process: {error!s:.1000}")
        other.add_note(lines)
        return pickle.dumps(other)
