"""SIGTERM: clusters send it some time before they take a machine away."""

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
    """The run was asked to end; the loop saves and turns it into `errors.Preempted`."""


@contextlib.contextmanager
def nothing_to_save() -> Iterator[None]:
    """Makes SIGTERM an error, `Preempted`, where there is nothing to save.

    `Preemption` takes its place where there is.
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
    """Notices SIGTERM; use it as a context manager.

    Python runs a handler only between its own instructions, so a signal that comes while XLA
    compiles or the devices work is noticed when they are done. Outside the main thread, where no
    handler can be set, nothing is noticed. Of several processes all leave at the same check, one
    after the signal is noticed, however few of them it reached.
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
        """Does nothing, until SIGTERM has come.

        Raises:
          Interrupted: it has.
        """
        if jax.process_count() == 1:
            agreed = self._requested
        else:
            # The answer to the last check is read, so that the devices need not be waited for.
            self._votes.append(processes.vote(self._requested))
            agreed = len(self._votes) > 1 and bool(self._votes.popleft())
        if agreed:
            raise Interrupted
