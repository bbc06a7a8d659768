"""Images in tar archives, read by their offsets."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from kdaug_jax.errors import DataError
from kdaug_jax.files import open_file
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
      names: of the images of the base split below the archives' common folder, such as
        "train-0000.tar: 0001.jpg".
    """

    shards: tuple[str, ...]
    stamps: tuple[tuple[int, int], ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    names: Names

    def content(self, position: int) -> bytes:
        """Returns the encoded image at a position of the base split.

        Raises:
          DataError: its archive cannot be read, or has changed.
        """
        shard = int(self.shard[position])
        path = self.shards[shard]
        try:
            with open_file(path, "shard") as file:
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
        return os.path.join(common_folder(self.shards), self.names[position])


def common_folder(paths: Sequence[str]) -> str:
    """Returns the deepest folder below which all of these files lie."""
    return os.path.commonpath([os.path.dirname(path) for path in paths])
