"""Directories of PNG and JPEG files, DIR/SPLIT/CLASS/FILE, decoded on demand."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, make_split
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import decode

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
# Refused, since skipping them like other files would silently lose images.
OTHER_IMAGES = (".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".heic")
LAYOUT = "the layout is DIR/SPLIT/CLASS/IMAGE.png, such as DIR/train/cat/1.png"


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Images in files.

    Attributes:
      directory: of the split.
      files: N file names below it.
      index: `i32[N]`, their positions in the base split.
      size: (height, width) that all must have.
    """

    directory: str
    files: tuple[str, ...]
    index: np.ndarray
    size: tuple[int, int]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes the images `rows`."""
        image = np.empty((len(rows), *self.size, 3), np.uint8)
        for position, row in enumerate(rows):
            pixels = _pixels(os.path.join(self.directory, self.files[row]), int(self.index[row]))
            if pixels.shape != image.shape[1:]:
                height, width = pixels.shape[:2]
                raise DataError(
                    os.path.join(self.directory, self.files[row]),
                    f"image {self.index[row]} has {width}×{height} pixels, the first one "
                    f"{self.size[1]}×{self.size[0]}", "bring all to one size first",
                )
            image[position] = pixels
        return image

    def take(self, rows: np.ndarray) -> FileReader:
        """Returns a reader of the images `rows`."""
        return dataclasses.replace(
            self, files=tuple(self.files[row] for row in rows), index=self.index[rows]
        )


def folder(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads a directory of split folders of class folders of images.

    Splits and classes are the names of the folders, classes in sorted order; examples are sorted
    by class, then by file name. Hidden files and files that are not images are skipped. Images
    are decoded when they are read, see `images.decode`; all must have the size of the first, the
    only one decoded here.

    Args:
      argument: the directory.
      options: how images are read.

    Returns:
      A `Dataset` with one split a folder, read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: the layout is another, class folders differ between splits, a split holds no
        image, or a class folder holds images in another format.
    """
    root = directory("folder", argument)
    if not root.is_dir():
        raise DataError(str(root), "is not a directory", LAYOUT)
    classes = {name: _folders(root / name) for name in _folders(root)}
    if not classes:
        raise DataError(str(root), "holds no folders", LAYOUT)
    first = "train" if "train" in classes else min(classes)
    for name, folders in classes.items():
        if not folders:
            raise DataError(str(root / name), "holds no class folders", LAYOUT)
        if folders != classes[first]:
            odd = sorted(set(folders) ^ set(classes[first]))[0]
            has, lacks = (name, first) if odd in folders else (first, name)
            raise DataError(
                str(root), f"'{has}' has a class folder '{odd}', '{lacks}' has not",
                f"give each split the same class folders, or make an empty {root / lacks / odd}",
            )
    names = classes[first]
    return Dataset(
        Deferred({name: functools.partial(_split, root / name, names) for name in classes}), names
    )


def _entries(place: Path) -> list[os.DirEntry]:
    """Returns the entries that are not hidden, by name."""
    try:
        with os.scandir(place) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(str(place), f"cannot be listed ({error.strerror})", LAYOUT) from None
    return sorted(visible, key=lambda entry: entry.name)


def _folders(place: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in _entries(place) if entry.is_dir())


def _split(place: Path, names: tuple[str, ...]) -> Split:
    files, label = [], []
    for number, name in enumerate(names):
        images = _images(place / name)
        files += [os.path.join(name, file) for file in images]
        label += [number] * len(images)
    if not files:
        raise DataError(str(place), "holds no PNG or JPEG file", LAYOUT)
    size = _pixels(os.path.join(place, files[0]), 0).shape[:2]
    index = np.arange(len(files), dtype=np.int32)
    reader = FileReader(str(place), tuple(files), index, size)
    return make_split(reader, np.asarray(label, np.int32), len(names), str(place))


def _images(place: Path) -> list[str]:
    names = []
    for entry in _entries(place):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            raise DataError(entry.path, "is a folder in a class folder", LAYOUT)
        if suffix in OTHER_IMAGES:
            raise DataError(entry.path, f"is a {suffix} image", "make it a PNG or JPEG")
        if not suffix:
            raise DataError(
                entry.path, "has no suffix, so it may be an image or not",
                f"name images {', '.join(SUFFIXES)}, and hide or remove the rest",
            )
        if suffix in SUFFIXES:
            names.append(entry.name)
    return names


def _pixels(path: str, index: int) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise DataError(
            path, f"image {index} cannot be read ({error.strerror})", "replace or remove it"
        ) from None
    return decode(content, path, index)
