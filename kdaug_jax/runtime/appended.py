"""A file that grows by whole records: what a full disk does not take waits for the next flush."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Appended:
    """An open file that ends with a whole record whatever the disk does.

    What is flushed reaches the system at once, so that a killed process loses none of it.
    """

    def __init__(self, path: Path):
        """Opens a file at its end; it is made where it is absent."""
        self._file = open(path, "ab", buffering=0)
        self._length = os.fstat(self._file.fileno()).st_size
        self._waiting = bytearray()
        self._torn = False

    @property
    def waiting(self) -> bool:
        """Whether records are not written yet."""
        return bool(self._waiting)

    def status(self) -> os.stat_result:
        """Returns what the system knows of the open file."""
        return os.fstat(self._file.fileno())

    def add(self, record: bytes) -> None:
        """Adds a record, for the next flush to write."""
        self._waiting += record

    def flush(self) -> None:
        """Writes the records that wait.

        Raises:
          OSError: not all could be written; all wait, and the file ends as before.
        """
        if not self._waiting:
            return
        try:
            self._cut()
            left = memoryview(bytes(self._waiting))
            self._torn = True
            while left:  # a disk takes what it has room for, and only then refuses
                left = left[self._file.write(left):]
            self._torn = False
        except OSError:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._length += len(self._waiting)
        self._waiting.clear()

    def _cut(self) -> None:
        if self._torn:
            self._file.truncate(self._length)
            self._torn = False

    def sync(self) -> None:
        """Waits until what was flushed is on the disk itself."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; what still waits is dropped."""
        self._file.close()
