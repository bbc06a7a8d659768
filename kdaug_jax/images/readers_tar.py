"""Images in tar archives, read by their offsets."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from kdaug_jax.errors import DataError
from kdaug_jax.images.encoded import EncodedReader, check_unchanged
from kdaug_jax.images.readers import Names


@dataclasses.dataclass(frozen=True)
class TarReader(EncodedReader):
    """Images that are members of tar archives ("shards").

    No file stays open between two images, so threads and processes share nothing.

    Attributes:
      shards: paths of the archives.
      stamps: bytes and modification time (ns) of each when it was indexed.
      shard: `i32[N]`, archive of each image of the base split.
      offset: `i64[N]`, first byte of its content there.
      length: `i64[N]`, bytes of its content.
      members: names of the images in their archives.
    """

    shards: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    members: Names

    def content(self, position: int) -> bytes:
        """Returns the encoded image at a position of the base split.

        Raises:
          DataError: its archive cannot be read, or has changed.
        """
        shard = int(self.shard[position])
        path = self.shards[shard]
        try:
            with open(path, "rb", buffering=0) as file:
                check_unchanged(path, self.stamps[shard], os.fstat(file.fileno()))
                return os.pread(
                    file.fileno(), int(self.length[position]), int(self.offset[position])
                )
        except OSError as error:
            raise DataError(
                path, f"cannot be read ({error.strerror})", "check the archive"
            ) from None

    def name(self, position: int) -> str:
        """Returns the archive and the member of an image of the base split."""
        return f"{self.shards[int(self.shard[position])]}: {self.members[position]}"
