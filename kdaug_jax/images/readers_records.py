"""Images in the records of a data source, such as those of TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from kdaug_jax.errors import DataError
from kdaug_jax.images.encoded import EncodedReader


@dataclasses.dataclass(frozen=True)
class RecordReader(EncodedReader):
    """Images that are fields of records.

    Attributes:
      records: the data source, picklable, whose `__getitems__` gives dicts.
      field: that holds an encoded image.
    """

    records: Any
    field: str

    def content(self, position: int) -> bytes:
        """Returns the encoded image at a position of the base split.

        Raises:
          DataError: its record cannot be read.
        """
        return read_records(self.records, [position], self.where)[0][self.field]

    def name(self, position: int) -> str:
        """Returns the split and the record of an image of the base split."""
        return f"{self.where} record {position}"


def read_records(records: Any, positions: Sequence[int], where: str) -> list[dict[str, Any]]:
    """Reads records.

    Args:
      records: the data source.
      positions: of the records, at least one.
      where: for messages.

    Raises:
      DataError: they cannot be read.
    """
    try:
        return list(records.__getitems__([int(position) for position in positions]))
    except Exception as error:  # array_record passes on any error of its C++ code
        what = f"record {positions[0]}" if len(positions) == 1 else (
            f"records {positions[0]} to {positions[-1]}"
        )
        raise DataError(
            where, f"{what} cannot be read ({first_line(error)})", "prepare it again"
        ) from None


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text; its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
