"""What the readers of containers of encoded images share."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Self

import numpy as np
from PIL import Image

from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import DecodeOptions, open_image
from kdaug_jax.images.readers import check_size, common_size, read_images


@dataclasses.dataclass(frozen=True)
class EncodedReader:
    """N encoded images in a container; a subclass says how the bytes of one are read.

    Attributes:
      where: the base split, for messages.
      rows: `i64[N]`, positions of the images in the base split.
      sizes: `i32[N,2]`, height and width of each in pixels.
      options: how they are decoded.
    """

    where: str
    rows: np.ndarray
    sizes: np.ndarray
    options: DecodeOptions

    @functools.cached_property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; None where sizes differ."""
        return common_size(self.sizes)

    def content(self, position: int) -> bytes:
        """Returns the encoded image at a position of the base split."""
        raise NotImplementedError

    def name(self, position: int) -> str:
        """Returns the name of the image at a position of the base split, for messages."""
        raise NotImplementedError

    def image(self, row: int) -> Image.Image:
        """Decodes image `row`, see `images.decode.open_image`.

        Raises:
          DataError: it cannot be read or decoded, or its size is not the one in `sizes`.
        """
        position = int(self.rows[row])
        name = self.name(position)
        image = open_image(self.content(position), name, position, self.options)
        check_size(image, self.sizes[row], name, position)
        return image

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes the images `rows`, `i[n]`, which must be of one size, as `u8[n,H,W,3]`."""
        return read_images(self, rows, self.where)

    def take(self, rows: np.ndarray) -> Self:
        """Returns a reader of the images `rows`, `i[n]`, in this order; nothing is read."""
        rows = np.asarray(rows, np.int64)
        return dataclasses.replace(self, rows=self.rows[rows], sizes=self.sizes[rows])


def stamp_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the bytes of a file and its modification time in nanoseconds."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: str, stamp: tuple[int, int], status: os.stat_result) -> None:
    """Validates that a file is the one that was indexed.

    Args:
      path: of the file, for the message.
      stamp: its `stamp_of` when it was indexed.
      status: of the file now.

    Raises:
      DataError: its bytes or its modification time differ.
    """
    if (status.st_size, status.st_mtime_ns) != tuple(stamp):
        raise DataError(
            path, "has changed since it was indexed", "start again, so that it is indexed anew"
        )
