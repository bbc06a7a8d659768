"""Tiny ImageNet as its archive unpacks."""

from __future__ import annotations

import functools
from pathlib import Path

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.folder import read_classes, read_labels
from kdaug_jax.data.tree import Passed, class_order, folders, images, list_classes, split_of_files
from kdaug_jax.errors import DataError
from kdaug_jax.files import read_text, reason

INNER = "tiny-imagenet-200"
ANNOTATIONS = "val_annotations.txt"
REMEDY = f"unpack {INNER}.zip there"


def tinyimagenet(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads Tiny ImageNet: 200 classes of 500 training and 50 validation images of 64×64 pixels.

    Classes are numbered in the order of their WordNet ids, which is not that of wnids.txt. Their
    names are the id and what words.txt says of it, such as "n01443537 goldfish, Carassius
    auratus". The images of the test split have no labels, so it is left out.

    Args:
      argument: the directory that holds train, val and wnids.txt, or the one above it.
      options: how images are read.

    Returns:
      A `Dataset` with the splits "train" and "validation", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: a file or folder is missing, or an image cannot be read.
    """
    path, _ = split_argument("tinyimagenet", argument, ())
    root = directory("tinyimagenet", path)
    root = root / INNER if (root / INNER).is_dir() else root
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise DataError(str(root), f"has no folder '{name}'", REMEDY)
    classes = class_order(folders(root / "train", Passed()), "string", str(root), "")
    wanted = set(_text(root / "wnids.txt").split())
    if wanted != set(classes):
        odd = sorted(wanted ^ set(classes))[0]
        lacks = "wnids.txt" if odd in classes else "train"
        raise DataError(str(root), f"{lacks} has no class '{odd}'", REMEDY)
    return Dataset(
        Deferred({
            "train": functools.partial(_train, root / "train", classes, options),
            "validation": functools.partial(_validation, root / "val", classes, options),
        }),
        _names(root / "words.txt", classes),
    )


def _text(path: Path) -> str:
    try:
        return read_text(path, "text")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({reason(error)})", REMEDY) from None


def _names(path: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    words = dict(line.split("\t", 1) for line in _text(path).splitlines() if "\t" in line)
    return tuple(f"{name} {words.get(name, '').strip()}".strip() for name in classes)


def _train(place: Path, classes: tuple[str, ...], options: ReadOptions) -> Split:
    passed = Passed()
    # The folders above hold boxes too.
    files, label = list_classes(place, classes, passed, inner="images")
    return split_of_files(place, files, label, classes, passed, options)


def _validation(place: Path, classes: tuple[str, ...], options: ReadOptions) -> Split:
    names = folders(place, Passed())
    if set(names) & set(classes):  # sorted into folders by a script, as many do
        return read_classes(place, names, classes, options)
    passed = Passed()
    if "images" not in names:
        raise DataError(str(place), "has no folder 'images'", REMEDY)
    flat = images(place / "images", passed)
    label = read_labels(place / ANNOTATIONS, flat, classes, str(place / "images"), options)
    return split_of_files(place / "images", flat, label, classes, passed, options)
