"""The data set that a source returns: splits whose images lie in memory or are read on demand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.files import expanded

# Classes that have numbers for names: one stray number would make as many names.
MOST_NUMBERED = 1_000_000


@runtime_checkable
class Reader(Protocol):
    """Random access to the images of a split; picklable for worker processes.

    Attributes:
      size: (height, width) in pixels; None where sizes differ, which an `ImageReader` may say.
    """

    size: tuple[int, int] | None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Reads the images `rows`, `i[n]`, as `u8[n,H,W,3]`.

        Raises:
          DataError: an image is corrupt, or these images are of several sizes.
        """

    def take(self, rows: np.ndarray) -> Reader:
        """Returns a reader of the images `rows`, `i[n]`, in this order; nothing is read."""


@runtime_checkable
class ImageReader(Reader, Protocol):
    """Random access to images on disk, whose sizes may differ.

    Attributes:
      sizes: `i32[N,2]`, height and width of each in pixels.
    """

    sizes: np.ndarray

    def image(self, row: int) -> Image.Image:
        """Returns image `row` in its full size, of mode RGB and loaded.

        Raises:
          DataError: it is corrupt, or not of the size that `sizes` says.
        """


@dataclasses.dataclass(frozen=True)
class ArrayReader:
    """Images that lie in memory.

    Attributes:
      image: `u8[N,H,W,3]`.
    """

    image: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[1], self.image.shape[2]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns a copy of the images `rows`."""
        return self.image.take(rows, axis=0)

    def take(self, rows: np.ndarray) -> ArrayReader:
        """Returns a reader of the images `rows`: a view if they are contiguous, else a copy."""
        rows = np.asarray(rows)
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return ArrayReader(self.image[rows[0] : rows[0] + len(rows)])
        return ArrayReader(self.image[rows])


@dataclasses.dataclass(frozen=True)
class Split:
    """The N examples of one split.

    Attributes:
      reader: reads the images.
      label: `i32[N]`, class numbers.
      index: `i32[N]`, position of each example in its base split: 0..N-1 unless this is a part
        of one.
      digest: hexadecimal, of the base split's names, labels, file sizes and image sizes; "" where
        none is known.
    """

    reader: Reader
    label: np.ndarray
    index: np.ndarray
    digest: str = ""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images in pixels; None where they differ."""
        return self.reader.size

    @property
    def sizes(self) -> np.ndarray:
        """`i32[N,2]`, height and width of each image in pixels."""
        if isinstance(self.reader, ImageReader):
            return self.reader.sizes
        return np.broadcast_to(np.array(self.size, np.int32), (len(self), 2))

    @property
    def size_bytes(self) -> int:
        """Bytes of all images once they are read."""
        if self.size is None:
            return 3 * int(self.sizes.prod(axis=1, dtype=np.int64).sum())
        return 3 * len(self) * self.size[0] * self.size[1]

    @property
    def in_memory(self) -> bool:
        """Whether the images lie in memory, so that `image` costs nothing."""
        return isinstance(self.reader, ArrayReader)

    @property
    def image(self) -> np.ndarray:
        """All images, `u8[N,H,W,3]`, read anew on every call unless they lie in memory.

        Raises:
          DataError: an image is corrupt, or sizes differ.
        """
        if isinstance(self.reader, ArrayReader):
            return self.reader.image
        return self.read(np.arange(len(self)))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Reads some images.

        Args:
          rows: `i[n]`, positions in this split, 0..N-1.

        Returns:
          `u8[n,H,W,3]`.

        Raises:
          DataError: an image is corrupt or not like the others; names its file and base index.
        """
        return self.reader.read(np.asarray(rows))

    def image_at(self, row: int) -> Image.Image:
        """Returns one image in its full size.

        Args:
          row: position in this split, 0..N-1.

        Returns:
          An image of mode RGB, loaded.

        Raises:
          DataError: the image is corrupt; names its file and base index.
        """
        if isinstance(self.reader, ImageReader):
            return self.reader.image(row)
        return Image.fromarray(self.read(np.array([row]))[0])

    def take(self, rows: np.ndarray) -> Split:
        """Returns the examples `rows`, `i[n]`, of this split; their base indices are kept."""
        rows = np.asarray(rows)
        return Split(self.reader.take(rows), self.label[rows], self.index[rows], self.digest)

    def loaded(self) -> Split:
        """Returns the same split with its images in memory."""
        return self if self.in_memory else dataclasses.replace(self, reader=ArrayReader(self.image))


class Deferred(Mapping[str, Split]):
    """Splits by name, each read on first access: splits that a run does not use cost nothing.

    Args:
      readers: for each split a function that reads it.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Split]]):
        self._readers, self._read = dict(readers), {}

    def __getitem__(self, name: str) -> Split:
        if name not in self._read:
            self._read[name] = self._readers[name]()
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class Dataset(NamedTuple):
    """Named splits and the names of the classes, in the order of their numbers."""

    splits: Mapping[str, Split]
    class_names: tuple[str, ...]


def directory(source: str, argument: str) -> Path:
    """Returns the directory that the argument of a source names.

    Raises:
      ConfigError: the text is empty.
    """
    if not argument.strip():
        raise ConfigError("data.source", f"{source} needs a directory", f"{source}:DIR")
    return expanded("data.source", argument.strip(), DataError)


def numbered(count: int) -> tuple[str, ...]:
    """Returns the class names "0" to "count-1", for data without any."""
    return tuple(str(number) for number in range(count))


def classes_of(
    label: np.ndarray, where: str, *, most: int = MOST_NUMBERED, least: int = -1
) -> int:
    """Returns the number of classes that numbers without names make: the highest and one.

    Args:
      label: `i[N]`, class numbers.
      where: file or source, for messages.
      most: how many classes there may be.
      least: the lowest number that is let pass; -1 may mean "no label".

    Raises:
      DataError: a number is below `least`, or `most` or more.
    """
    wrong = np.flatnonzero((label < least) | (label >= most))
    if len(wrong):
        raise DataError(
            where, f"example {wrong[0]} has label {label[wrong[0]]} ({len(wrong)} such)",
            f"without class names it must be 0..{most - 1}",
        )
    return int(label.max(initial=-1)) + 1


def make_split(
    reader: Reader, label: Any, classes: int, where: str, digest: str = ""
) -> Split:
    """Returns a base split, and validates its labels.

    Args:
      reader: reads N images.
      label: `i[N]`, class numbers.
      classes: number of classes, C.
      where: file or source, for messages.
      digest: see `Split`.

    Returns:
      A `Split` whose `index` is 0..N-1.

    Raises:
      DataError: no example, labels that are not integers, or a label outside 0..C-1.
    """
    label = np.asarray(label)
    if label.ndim != 1 or label.dtype.kind not in "iu":
        raise DataError(
            where, f"labels are {label.dtype} of shape {label.shape}",
            "one integer class number an image is wanted",
        )
    if not len(label):
        raise DataError(where, "holds no example", "give at least one")
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        raise DataError(
            where, f"example {wrong[0]} has label {label[wrong[0]]} ({len(wrong)} such)",
            f"with {classes} classes it must be 0..{classes - 1}",
        )
    return Split(reader, label.astype(np.int32), np.arange(len(label), dtype=np.int32), digest)


def split_of_arrays(image: Any, label: Any, classes: int, where: str) -> Split:
    """Returns a base split of arrays, and validates them.

    Args:
      image: `u8[N,H,W,3]`, or grey `u8[N,H,W]` or `u8[N,H,W,1]`, which become three equal channels.
      label: `i[N]`, class numbers.
      classes: number of classes, C.
      where: file or source, for messages.

    Returns:
      A `Split`.

    Raises:
      DataError: another dtype, unit or shape, unequal lengths, or labels as in `make_split`.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        values = f" from {image.min()} to {image.max()}" if image.size else ""
        raise DataError(where, f"images are {image.dtype}{values}", "uint8 0..255 is wanted")
    if image.size and image.max() == 1:
        raise DataError(where, "images hold 0 and 1 alone", "multiply them by 255")
    if image.ndim == 4 and image.shape[3] == 1:
        image = image[..., 0]
    if image.ndim == 3:
        image = np.repeat(image[..., None], 3, axis=-1)
    if image.ndim != 4 or image.shape[3] != 3 or 0 in image.shape[1:]:
        raise DataError(
            where, f"images have shape {image.shape}", "[N,H,W,3] or grey [N,H,W] is wanted"
        )
    if len(image) != len(np.atleast_1d(label)):
        raise DataError(
            where, f"{len(image)} images and {len(np.atleast_1d(label))} labels",
            "one label an image is wanted",
        )
    return make_split(ArrayReader(image), label, classes, where)


def checked(dataset: Any, source: str) -> Dataset:
    """Validates what a source returned, each split on first access.

    Args:
      dataset: the value that the source returned.
      source: `data.source`, for messages.

    Returns:
      A `Dataset` whose splits pass the checks of `make_split` and `split_of_arrays`.

    Raises:
      DataError: it is not a `Dataset`, or its class names are not texts; on access to a split, that
        split is not a `Split`, or its images, labels and indices do not fit together.
    """
    if not isinstance(dataset, Dataset):
        raise DataError(
            source, f"returned {type(dataset).__name__}, not a Dataset",
            "return kdaug_jax.data.from_arrays(...) or kdaug_jax.data.Dataset(splits, class_names)",
        )
    names = dataset.class_names
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise DataError(source, f"has class_names {names!r}", "give one text for each class")
    if not isinstance(dataset.splits, Mapping) or not dataset.splits:
        raise DataError(
            source, f"has splits {type(dataset.splits).__name__}", 'give {"train": Split, ...}'
        )

    def read(name: str) -> Split:
        return _checked_split(dataset.splits[name], len(names), f"{source} ({name})")

    return Dataset(
        Deferred({name: functools.partial(read, name) for name in dataset.splits}), tuple(names)
    )


def _checked_split(split: Any, classes: int, where: str) -> Split:
    if not isinstance(split, Split) or not isinstance(split.reader, Reader):
        kind = f"a Split of {type(split.reader).__name__}" if isinstance(split, Split) else (
            type(split).__name__
        )
        raise DataError(where, f"is {kind}", "make it with kdaug_jax.data.from_arrays, or give a "
                        "Split whose reader has size, read and take")
    if isinstance(split.reader, ArrayReader):
        base = split_of_arrays(split.reader.image, split.label, classes, where)
    else:
        base = make_split(split.reader, split.label, classes, where)
        if split.size is None and not isinstance(split.reader, ImageReader):
            raise DataError(
                where, "has a reader without size",
                "give it the attribute sizes and the method image where sizes differ",
            )
        image, wanted = split.read(np.arange(1)), [1, *split.sizes[0].tolist(), 3]
        if image.dtype != np.uint8 or list(image.shape) != wanted:
            raise DataError(
                where, f"image 0 is read as {image.dtype}{list(image.shape)}",
                f"uint8 {wanted} is wanted",
            )
    index = np.asarray(split.index)
    if index.shape != base.label.shape or index.dtype.kind not in "iu":
        raise DataError(
            where, f"index is {index.dtype} of shape {index.shape}",
            f"numbers 0..{len(base) - 1} are wanted, one for each label",
        )
    return dataclasses.replace(base, index=index.astype(np.int32), digest=split.digest)
