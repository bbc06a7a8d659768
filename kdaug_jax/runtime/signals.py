"""SIGTERM: clusters send it some time before they take a machine away."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupted(Exception):
    """The run was asked to end; the loop saves and turns it into `errors.Preempted`."""


class Preemption:
    """Notices SIGTERM; use it as a context manager.

    Python runs a handler only between its own instructions, so a signal that comes while XLA
    compiles or the devices work is noticed when they are done. Outside the main thread, where no
    handler can be set, nothing is noticed.
    """

    def __init__(self):
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
        if self._requested:
            raise Interrupted
