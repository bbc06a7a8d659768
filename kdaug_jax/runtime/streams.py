"""Standard input, output and error of a command, made so that no terminal or pipe can end it."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Any, TextIO


def prepare() -> None:
    """Makes the streams of this process safe; call it before anything is opened or imported.

    What cannot be written any more, to a pipe that is closed or a device that is full, is dropped,
    and a letter that the terminal's encoding lacks is replaced. Until a handler is set, Ctrl-C ends
    the process without a traceback.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened, such as a checkpoint, would get it
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _safe(sys.stdout), _safe(sys.stderr)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    try:
        stream.flush()
    except OSError:
        pass
    raw = _Dropping(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors="replace", line_buffering=True
    )
