"""Images in tar archives, read by their offsets."""

from __future__ import annotations

import dataclasses
import os
import tarfile

import numpy as np

from kdaug_jax.errors import DataError
from kdaug_jax.images.encoded import EncodedReader, check_unchanged


@dataclasses.dataclass(frozen=True)
class TarReader(EncodedReader):
    """Images that are members of tar archives ("shards").

    No file stays open between two images, so threads and processes share nothing.

    Attributes:
      shards: paths of the archives.
      stamps: bytes and time of change (ns) of each archive when it was indexed.
      shard: `i32[N]`, archive of each image.
      offset: `i64[N]`, first byte of its content there.
      length: `i64[N]`, bytes of its content.
    """

    shards: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    def content(self, row: int) -> tuple[bytes, str]:
        """Returns the bytes of an encoded image, and its shard and member for messages."""
        number = int(self.shard[row])
        path, start, length = self.shards[number], int(self.offset[row]), int(self.length[row])
        try:
            with open(path, "rb", buffering=0) as file:
                check_unchanged(path, self.stamps[number], os.fstat(file.fileno()))
                content = os.pread(file.fileno(), length, start)
        except OSError as error:
            raise DataError(
                path, f"cannot be read ({error.strerror})", "check the archive"
            ) from None
        return content, _Place(path, start)

    def take(self, rows: np.ndarray) -> TarReader:
        """Returns a reader of the images `rows`, `i[n]`, in this order; nothing is read."""
        return dataclasses.replace(
            self, index=self.index[rows], sizes=self.sizes[rows], shard=self.shard[rows],
            offset=self.offset[rows], length=self.length[rows],
        )
