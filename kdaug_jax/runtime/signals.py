"""SIGTERM, which clusters send some time before they take a machine away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax

from kdaug_jax.errors import Preempted
from kdaug_jax.runtime import processes


class Interrupted(Exception):
    """The run received SIGTERM; the loop saves and raises `errors.Preempted`."""


@contextlib.contextmanager
def nothing_to_save() -> Iterator[None]:
    """Raises `Preempted` on SIGTERM within the block, while there is nothing to save.

    `Preemption` replaces this handler once there is.
    """

    def leave(number: int, frame: Any) -> None:
        raise Preempted("SIGTERM", "nothing was being trained", "run again")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Preemption:
    """Handles SIGTERM; use it as a context manager.

    Python runs a handler only between its own instructions, so a signal that comes while XLA
    compiles or the devices work is handled when they are done. Outside the main thread, where no
    handler can be set, it is not handled. Of several processes all leave at the same check, one
    after the signal is handled, even if only one of them received it.
    """

    def __init__(self):
        self._votes: deque[jax.Array] = deque()
        self._requested = False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, number: int, frame: Any) -> None:
        self._requested = True

    def check(self) -> None:
        """Checks whether the run is to end.

        Raises:
          Interrupted: SIGTERM has come.
        """
        if jax.process_count() == 1:
            agreed = self._requested
        else:
            # Reads the vote of the last check, so as not to wait for the devices.
            self._votes.append(processes.vote(self._requested))
            agreed = len(self._votes) > 1 and bool(self._votes.popleft())
        if agreed:
            raise Interrupted
