"""The console: lines, one progress bar and tables, printed from process 0 only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import jax

BAR_CELLS = 20


class Console:
    """Prints lines, and on a terminal a progress bar below them that overwrites itself."""

    def __init__(self, stream: TextIO | None = None):
        """Prints nothing yet.

        Args:
          stream: where to print, by default standard output.
        """
        self._stream = stream or sys.stdout
        self._bar_open = False

    def say(self, text: str) -> None:
        """Prints a line, below the progress bar if one is open."""
        if jax.process_index() == 0:
            self.end_bar()
            print(text, file=self._stream, flush=True)

    def progress(self, done: float, text: str) -> None:
        """Prints a line of progress; on a terminal it overwrites the line before.

        Args:
          done: fraction of the run, 0..1.
          text: such as step, epoch, loss, speed and remaining time.
        """
        if jax.process_index() != 0:
            return
        if not self._stream.isatty():
            print(text, file=self._stream, flush=True)
            return
        filled = round(BAR_CELLS * done)
        bar = "█" * filled + "·" * (BAR_CELLS - filled)
        self._stream.write(f"\r\x1b[K{bar} {text}")
        self._stream.flush()
        self._bar_open = True

    def end_bar(self) -> None:
        """Ends the line of an open progress bar, so that whatever follows starts a new line."""
        if self._bar_open:
            self._stream.write("\n")
            self._bar_open = False


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of text aligned in columns, the first row as the header.

    Args:
      rows: cells of text, equally many in each row; the first column is aligned left, the others
        right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str], fill: str = " ") -> str:
        cells = [row[0].ljust(widths[0], fill)]
        cells += [cell.rjust(width, fill) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), line([""] * len(widths), "-"), *map(line, rows[1:])])
