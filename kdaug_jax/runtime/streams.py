"""How a command begins and ends: streams that nothing ends, and signals outside of its work."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import Any, NoReturn, TextIO

# Signals that ask a process to end, and the status of `errors.Preempted` and `Interrupted`, which
# are written out here: nothing is imported before the first handler is set.
ENDING = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGINT: 130}


def prepare() -> None:
    """Makes the streams of this process safe; call it before anything is opened or imported.

    What cannot be written any more, to a pipe that is closed or a device that is full, is dropped,
    and a letter that the terminal's encoding lacks is replaced. Until another handler is set, a
    signal that asks the process to end does so in one line, with the status of a stop.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened, such as a checkpoint, would get it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _safe(sys.stdout), _safe(sys.stderr)
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def ignore_signals() -> None:
    """Ignores signals that ask the process to end: its work is done, and it ends."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: Any) -> NoReturn:
    """Ends the process, in the middle of an import as a rule, where no exception is safe."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"error: {name}: nothing was under way; run again\n".encode())
    os._exit(ENDING[number])


class _Dropping(io.FileIO):
    """A file that takes whatever is written, even when nobody can have it."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            pass


def _safe(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed when Python started
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Dropping):
        return stream  # it is safe
    try:
        stream.flush()
    except OSError:
        pass
    raw = _Dropping(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors="replace", line_buffering=True
    )
