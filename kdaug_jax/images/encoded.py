"""What readers of encoded images share: decoding, and the check of sizes."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from PIL import Image

from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import DecodeOptions, open_image


@dataclasses.dataclass(frozen=True)
class EncodedReader:
    """N encoded images in some container; a subclass says how the bytes of one are read.

    Attributes:
      index: `i32[N]`, their positions in the base split, which are also those in the container.
      sizes: `i32[N,2]`, height and width of each in pixels.
      options: how they are decoded.
    """

    index: np.ndarray
    sizes: np.ndarray
    options: DecodeOptions

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of all images in pixels; None where they differ."""
        if not len(self.sizes) or (self.sizes != self.sizes[0]).any():
            return None
        return int(self.sizes[0, 0]), int(self.sizes[0, 1])

    def content(self, row: int) -> tuple[bytes, str]:
        """Returns the bytes of an encoded image, and its name for messages."""
        raise NotImplementedError

    def image(self, row: int) -> Image.Image:
        """Decodes image `row`.

        Returns:
          An image of mode RGB in its full size, loaded.

        Raises:
          DataError: it cannot be read or decoded, or has another size than when it was indexed.
        """
        content, where = self.content(row)
        image = open_image(content, where, int(self.index[row]), self.options)
        height, width = self.sizes[row]
        if image.size != (width, height):
            raise DataError(
                where, f"image {self.index[row]} has {image.width}×{image.height} pixels, and had "
                f"{width}×{height} when it was indexed", "start again",
            )
        return image

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes the images `rows`, `i[n]`.

        Returns:
          `u8[n,H,W,3]`.

        Raises:
          DataError: as `image`, or the images are of several sizes.
        """
        rows = np.asarray(rows, np.int64)
        shapes = self.sizes[rows] if len(rows) else self.sizes[:1]
        other = np.flatnonzero((shapes != shapes[:1]).any(axis=1))
        if len(other):
            (height, width), (first_height, first_width) = shapes[other[0]], shapes[0]
            raise DataError(
                self.content(int(rows[other[0]]))[1],
                f"image {self.index[rows[other[0]]]} has {width}×{height} pixels, image "
                f"{self.index[rows[0]]} {first_width}×{first_height}",
                "read images of several sizes one by one",
            )
        height, width = shapes[0]
        images = np.empty((len(rows), height, width, 3), np.uint8)
        for position, row in enumerate(rows):
            images[position] = np.asarray(self.image(int(row)))
        return images


def check_unchanged(path: str, stamp: tuple[int, int], status: os.stat_result) -> None:
    """Validates that a file is the one that was indexed.

    Args:
      path: of the file, for the message.
      stamp: its bytes and time of change (ns) when it was indexed.
      status: of the file now.

    Raises:
      DataError: one of the two differs.
    """
    if (status.st_size, status.st_mtime_ns) != tuple(stamp):
        raise DataError(path, "changed since it was indexed", "start again to index it anew")
