"""Readers of images on disk; worker processes import nothing but this room."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from kdaug_jax.errors import DataError, printable
from kdaug_jax.files import read_bytes
from kdaug_jax.images.decode import DEFAULTS, MEND, DecodeOptions, open_image

# A PNG with alpha among the training JPEGs of ILSVRC2012; torchvision drops its alpha.
ILSVRC_PNG = "n02105855_2933.JPEG"


class Names(Sequence[str]):
    """N texts without byte 0 in one block: a million of them load and pickle at once.

    Attributes:
      block: `u8[M]`, each text as the file system encodes it, and a byte 0 after each.
    """

    def __init__(self, block: np.ndarray):
        self.block = block
        self._ends = np.flatnonzero(block == 0)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Returns the names that these texts make."""
        text = "".join([text + "\0" for text in texts])
        return cls(np.frombuffer(os.fsencode(text), np.uint8))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        start = self._ends[row - 1] + 1 if row > 0 else 0
        return os.fsdecode(self.block[start : self._ends[row]].tobytes())

    def __reduce__(self):
        return Names, (self.block,)


class SizedReader(Protocol):
    """What `read_images` needs of a reader.

    Attributes:
      sizes: `i32[N,2]`, height and width of each image in pixels.
    """

    sizes: np.ndarray

    def image(self, row: int) -> Image.Image:
        """Returns image `row`, of mode RGB."""


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Images in files.

    Attributes:
      directory: of the split.
      names: of the files of the base split, below it.
      rows: `i64[N]`, the file of each image.
      sizes: `i32[N,2]`, height and width of each image in pixels.
      options: how files are decoded.
    """

    directory: str
    names: Names
    rows: np.ndarray
    sizes: np.ndarray
    options: DecodeOptions = DEFAULTS

    @functools.cached_property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; None where sizes differ."""
        return common_size(self.sizes)

    def image(self, row: int) -> Image.Image:
        """Decodes image `row`, see `images.decode.open_image`.

        Raises:
          DataError: it cannot be read or decoded, or its size is not the one in `sizes`.
        """
        position = int(self.rows[row])
        name = self.names[position]
        path = os.path.join(self.directory, name)
        options = self.options
        if os.path.basename(name) == ILSVRC_PNG:
            options = options._replace(alpha="drop")
        where = printable(path)
        image = open_image(read_file(path, position), where, position, options)
        check_size(image, self.sizes[row], where, position)
        return image

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes the images `rows`, `i[n]`, which must be of one size, as `u8[n,H,W,3]`."""
        return read_images(self, rows, self.directory)

    def take(self, rows: np.ndarray) -> FileReader:
        """Returns a reader of the images `rows`, `i[n]`, in this order."""
        rows = np.asarray(rows, np.int64)
        return dataclasses.replace(self, rows=self.rows[rows], sizes=self.sizes[rows])


def common_size(sizes: np.ndarray) -> tuple[int, int] | None:
    """Returns the (height, width) that all of `sizes`, `i[N,2]`, have; None where they differ."""
    if not len(sizes) or (sizes != sizes[0]).any():
        return None
    return int(sizes[0, 0]), int(sizes[0, 1])


def read_images(reader: SizedReader, rows: np.ndarray, where: str) -> np.ndarray:
    """Reads images of one size.

    Args:
      reader: of N images.
      rows: `i[n]`, their positions.
      where: for messages.

    Returns:
      `u8[n,H,W,3]`.

    Raises:
      DataError: an image is corrupt, or the sizes of these images differ.
    """
    rows = np.asarray(rows, np.int64)
    # Without rows the size of any image does: nothing has it.
    height, width = reader.sizes[rows[0] if len(rows) else 0].tolist()
    others = np.flatnonzero((reader.sizes[rows] != (height, width)).any(axis=1))
    if len(others):
        other = "{1}×{0}".format(*reader.sizes[rows[others[0]]].tolist())
        raise DataError(
            where, f"images of several sizes, such as {width}×{height} and {other}",
            "let every view begin with a stage that fixes the size, such as "
            "random_resized_crop(224)",
        )
    images = np.empty((len(rows), height, width, 3), np.uint8)
    for position, row in enumerate(rows):
        images[position] = reader.image(int(row))
    return images


def read_file(path: str, index: int) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      DataError: it cannot be read; names it and its position in the base split.
    """
    try:
        return read_bytes(path, "image")
    except OSError as error:
        raise DataError(
            printable(path), f"image {index} cannot be read ({error.strerror})", MEND
        ) from None


def check_size(image: Image.Image, size: np.ndarray, where: str, index: int) -> None:
    """Validates that an image has the size that the index says.

    Args:
      image: decoded.
      size: `i[2]`, height and width in pixels.
      where: its name, for messages.
      index: its position in the base split, for messages.

    Raises:
      DataError: it has not.
    """
    height, width = size.tolist()
    if image.size != (width, height):
        raise DataError(
            where, f"image {index} has {image.width}×{image.height} pixels, and had "
            f"{width}×{height} when it was indexed: it has changed",
            "start again, so that it is indexed anew",
        )
