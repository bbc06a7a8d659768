"""The console: lines, one progress bar and tables, printed from process 0 only.

Names, as of classes, files and members, may hold line ends and escape codes; a terminal would obey
them. What a stream does not take is dropped: no reader, no room, no such letter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import jax

from kdaug_jax.errors import printable

BAR_CELLS = 20


def write_lines(*lines: str, stream: TextIO | None = None) -> None:
    """Prints lines that may hold names of users.

    Args:
      lines: each stays one line: line ends, control characters and escape codes within are shown
        as Python writes them.
      stream: where to print, by default standard output.
    """
    _write(stream or sys.stdout, "".join(printable(line) + "\n" for line in lines))


class Console:
    """Prints lines, and on a terminal a progress bar below them that overwrites itself."""

    def __init__(self, stream: TextIO | None = None):
        """Prints nothing yet.

        Args:
          stream: where to print, by default standard output.
        """
        self._stream = stream or sys.stdout
        self._bar_open = False

    def say(self, *lines: str) -> None:
        """Prints lines, below the progress bar if one is open; see `write_lines`."""
        if jax.process_index() == 0:
            self.end_bar()
            write_lines(*lines, stream=self._stream)

    def progress(self, done: float, text: str) -> None:
        """Prints a line of progress; on a terminal it overwrites the line before.

        Args:
          done: fraction of the run, 0..1.
          text: such as step, epoch, loss, speed and remaining time.
        """
        if jax.process_index() != 0:
            return
        if not self._is_terminal():
            write_lines(text, stream=self._stream)
            return
        filled = round(BAR_CELLS * done)
        bar = "█" * filled + "·" * (BAR_CELLS - filled)
        _write(self._stream, f"\r\x1b[K{bar} {printable(text)}")
        self._bar_open = True

    def end_bar(self) -> None:
        """Ends the line of an open progress bar, so that whatever follows starts a new line."""
        if self._bar_open:
            _write(self._stream, "\n")
            self._bar_open = False

    def _is_terminal(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # as Python has it where a descriptor is closed
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        pass


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text aligned in columns, the first row as the header.

    Args:
      rows: cells of text, equally many in each row; the first column is aligned left, the others
        right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str], fill: str = " ") -> str:
        cells = [row[0].ljust(widths[0], fill)]
        cells += [cell.rjust(width, fill) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), line([""] * len(widths), "-"), *map(line, rows[1:])])
