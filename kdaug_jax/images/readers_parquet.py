"""Images in a column of parquet files, read by row group."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from kdaug_jax.errors import DataError
from kdaug_jax.files import open_file
from kdaug_jax.images.encoded import EncodedReader, check_unchanged

# Bytes of the row groups that a process keeps. Reading in the order of rows needs those that its
# threads are at; a shuffled order gains little from more of them (ImageNet has thousands).
KEPT_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class ParquetReader(EncodedReader):
    """Images in a column of parquet files; the rows of all files follow each other.

    Parquet is read by row group. No file stays open between two of them; those read last stay in
    memory, at most `KEPT_BYTES` for all readers of a process (one if it is larger).

    Attributes:
      files: paths.
      stamps: bytes and modification time (ns) of each when it was indexed.
      column: path of the column of bytes, such as "image.bytes".
      file_start: `i64[F+1]`, first row of each file, and the number of all rows.
      file_group: `i64[F+1]`, first row group of each file, and the number of all.
      group_start: `i64[G+1]`, first row of each row group, and the number of all rows.
    """

    files: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    column: str
    file_start: np.ndarray
    file_group: np.ndarray
    group_start: np.ndarray

    def content(self, position: int) -> bytes:
        """Returns the encoded image at a position of the base split.

        Raises:
          DataError: its file cannot be read or has changed, or the value is null.
        """
        file = self._file(position)
        group = _last_start(self.group_start, position)
        in_file = group - int(self.file_group[file])
        values = _groups.read(self.files[file], self.stamps[file], in_file, self.column)
        content = values[position - int(self.group_start[group])].as_py()
        if content is None:
            raise DataError(
                self.name(position), f"has no bytes in {self.column}",
                "null, or only the path of a file of the writer: use a set with embedded images",
            )
        return content

    def name(self, position: int) -> str:
        """Returns the file and the row of an image of the base split."""
        file = self._file(position)
        return row_name(self.files[file], position - int(self.file_start[file]))

    def _file(self, position: int) -> int:
        return _last_start(self.file_start, position)


def _last_start(start: np.ndarray, position: int) -> int:
    return int(np.searchsorted(start, position, side="right")) - 1


def row_name(path: str, row: int) -> str:
    """Returns how messages name a row of a file."""
    return f"{path} row {row}"


class _Groups:
    """The row groups that were read last; threads that want the same one read it once."""

    def __init__(self):
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple, _Entry] = OrderedDict()
        self._footers: dict[tuple, Any] = {}

    def read(self, path: str, stamp: tuple[int, int], group: int, column: str) -> Any:
        key = path, stamp, group, column
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.values is None:
                footer = self._footer(path, stamp)
                entry.values = _read_group(path, footer, group, column)
                self._drop_oldest()
            return entry.values

    def _drop_oldest(self) -> None:
        with self._lock:
            while len(self._entries) > 1 and sum(map(_Entry.size, self._entries.values())) > (
                KEPT_BYTES
            ):
                self._entries.popitem(last=False)

    def _footer(self, path: str, stamp: tuple[int, int]) -> Any:
        """Returns a file's metadata: parsing it takes longer than reading a small group."""
        import pyarrow
        import pyarrow.parquet

        try:
            check_unchanged(path, stamp, os.stat(path))
            if (path, stamp) not in self._footers:
                with open_file(path, "shard") as file:
                    self._footers[path, stamp] = pyarrow.parquet.read_metadata(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise unreadable(path, error) from None
        return self._footers[path, stamp]


class _Entry:
    """One row group: a lock for those who wait for it, and its values once they are read."""

    def __init__(self):
        self.lock, self.values = threading.Lock(), None

    def size(self) -> int:
        return 0 if self.values is None else self.values.nbytes


_groups = _Groups()


def _read_group(path: str, footer: Any, group: int, column: str) -> Any:
    """Reads one column of one row group as a chunked array of pyarrow."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        with open_file(path, "shard") as file:
            parquet = pyarrow.parquet.ParquetFile(file, metadata=footer)
            values = parquet.read_row_group(group, columns=[column], use_threads=False).column(0)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(path, error) from None
    for name in column.split(".")[1:]:
        kind = values.type.field(name).type
        values = pyarrow.chunked_array(
            [pyarrow.compute.struct_field(chunk, name) for chunk in values.chunks], type=kind
        )
    return values


def unreadable(path: str, error: Exception) -> DataError:
    """Returns the error that a parquet file cannot be read."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(path, f"cannot be read as parquet ({line})", "fetch the file again")
