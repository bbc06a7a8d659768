"""Signals that end a process: SIGTERM, which clusters send ahead of the end, SIGHUP and Ctrl-C.

The first one is kept until somebody obeys it: it belongs to the process, not to one call. While a
run has something to save it waits for the next check; otherwise it raises `Stop` where it comes. A
second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from kdaug_jax.errors import Interrupted, Preempted
from kdaug_jax.runtime import processes
from kdaug_jax.runtime.streams import ENDING

TWICE = "\ninterrupted twice: ended at once; the last checkpoint is whole\n"
# Stands beside the numbers of signals: `train.max_minutes` are over.
OUT_OF_TIME = 1 << 16
# What `_watch` reads beside the numbers of signals.
_OBEYED, _END = b"\0", b"\xff"


class Stop(BaseException):
    """A signal ends what is under way.

    It is no Exception, so that no library in the middle of something takes it for its own failure.
    """


class _Process:
    """What this process was asked, and how it is told.

    Attributes:
      requested: the first signal that has come and was not obeyed yet.
      deferred: whether a signal waits for the next check.
      pipe: where the system notes the numbers of signals as they come, and `_OBEYED`; None while
        nothing is handled.
    """

    requested: int | None = None
    deferred = False
    pipe: int | None = None


_process = _Process()


@contextlib.contextmanager
def handled(what: str = "the command was stopped") -> Iterator[None]:
    """Raises `Preempted` on a signal within the block, unless a `Preemption` in it has.

    Args:
      what: says what the signal ended.

    Raises:
      Preempted: a signal has come; `Interrupted` for Ctrl-C.
    """
    with _installed():
        try:
            yield
        except Stop:
            raise preempted(what, "run again") from None
        finally:
            _process.requested, _process.deferred = None, False  # the work is done


def check() -> None:
    """Raises Stop if a signal has come that nobody obeyed yet."""
    if _process.requested is not None:
        raise Stop


def wait_for_peers() -> None:
    """Lets signals wait until all processes of the run learn of them, see `check_together`."""
    _process.deferred = True


def check_together(exchange: Callable[[int], Sequence[int]]) -> None:
    """Raises Stop in every process if a signal has come to any of them.

    Args:
      exchange: gives the others a number and returns those of all processes.
    """
    requested = max(exchange(_process.requested or 0))
    if requested:
        _process.requested = requested
        raise Stop


def preempted(what: str, remedy: str) -> Preempted:
    """Obeys the signal that has come: returns the error to end with.

    Args:
      what: is saved.
      remedy: how to go on.
    """
    number, _process.requested = _process.requested, None
    if _process.pipe is not None:
        os.write(_process.pipe, _OBEYED)
    if number == signal.SIGINT:
        return Interrupted("Ctrl-C", what, remedy)
    if number == OUT_OF_TIME:
        return Preempted("train.max_minutes", what, remedy)
    return Preempted(signal.Signals(number or signal.SIGTERM).name, what, remedy)


class Preemption:
    """Handles signals while a run trains; use it as a context manager.

    Python runs a handler only between its own instructions, so a signal that comes while XLA
    compiles or the devices work is handled when they are done. Outside the main thread, where no
    handler can be set, none is handled. Of several processes all leave at the same check, one
    after the signal is handled, even if only one of them received it.
    """

    def __init__(self):
        self._votes: deque[jax.Array] = deque()
        self._started, self._ends = time.monotonic(), float("inf")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Preemption:
        self._outermost = self._stack.enter_context(_installed())
        self._before = _process.deferred
        # One of several processes must not leave where the others do not.
        _process.deferred = jax.process_count() > 1
        return self

    def __exit__(self, *error: Any) -> None:
        _process.deferred = self._before
        self._stack.close()
        number = _process.requested
        if number is not None and self._outermost and error[0] is None:
            _process.requested = None
            if number != OUT_OF_TIME:
                signal.raise_signal(number)  # it came too late for the run, and is for its caller

    def defer(self, minutes: float = 0.0) -> None:
        """Lets signals wait for the next check: from now on there is something to save.

        Args:
          minutes: after the beginning at which the run is to end as by a signal; 0 for none.
        """
        _process.deferred = True
        if minutes:
            self._ends = self._started + 60.0 * minutes

    def check(self) -> None:
        """Checks whether the run is to end.

        Raises:
          Stop: a signal has come, or the time is over.
        """
        if _process.requested is None and time.monotonic() >= self._ends:
            _process.requested = OUT_OF_TIME
        if jax.process_count() > 1:
            # Reads the vote of the last check, so as not to wait for the devices.
            self._votes.append(processes.vote(_process.requested or 0))
            agreed = len(self._votes) > 1 and int(self._votes.popleft())
            if not agreed:
                return
            _process.requested = agreed
        check()


@contextlib.contextmanager
def _installed() -> Iterator[bool]:
    """Sets the handlers, unless an outer block has; yields whether this one has.

    What the process was told to ignore stays ignored: nohup, jobs in the background.
    """
    if _process.pipe is not None or threading.current_thread() is not threading.main_thread():
        yield False
        return
    read, _process.pipe = os.pipe()
    os.set_blocking(_process.pipe, False)
    watch = threading.Thread(target=_watch, args=(read,), daemon=True)
    watch.start()
    known = {number: signal.getsignal(number) for number in ENDING}
    replaced = {
        number: handler for number, handler in known.items()
        if handler not in (signal.SIG_IGN, None)
    }
    for number in replaced:
        signal.signal(number, _notice)
    other = signal.set_wakeup_fd(_process.pipe, warn_on_full_buffer=False)
    try:
        yield True
    finally:
        signal.set_wakeup_fd(other)
        for number, handler in replaced.items():
            signal.signal(number, handler)
        pipe, _process.pipe = _process.pipe, None
        os.write(pipe, _END)
        watch.join()
        os.close(pipe)
        os.close(read)


def _notice(number: int, frame: Any) -> None:
    if _process.requested is None:
        _process.requested = number
    if not _process.deferred:
        raise Stop


def _watch(pipe: int) -> None:
    """Ends the process at the second Ctrl-C, even while no instruction of Python runs."""
    count = 0
    while (got := os.read(pipe, 1)) != _END:
        count = 0 if got == _OBEYED else count + (got[0] == signal.SIGINT)
        if count == 2:
            _write_error(TWICE)
            os._exit(Interrupted.exit_code)
        if count == 1 and got[0] == signal.SIGINT and _process.deferred and _is_terminal():
            _write_error("\ninterrupted: saving; Ctrl-C again ends at once\n")


def _is_terminal() -> bool:
    with contextlib.suppress(OSError):
        return os.isatty(2)
    return False


def _write_error(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
