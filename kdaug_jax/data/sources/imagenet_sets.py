"""The sets on which networks trained on ImageNet are evaluated: -C, V2, -A, -R and -Sketch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from kdaug_jax.data.class_maps import is_wordnet_id
from kdaug_jax.data.corruptions import check_corruption
from kdaug_jax.data.dataset import Dataset, Deferred, directory
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.folder import read_classes
from kdaug_jax.data.tree import Passed, class_order, folders
from kdaug_jax.errors import DataError, suggest

# The archives of ImageNet-C, whose folders people keep or drop.
ARCHIVES = ("noise", "blur", "weather", "digital", "extra")
NUMBERS = tuple(str(number) for number in range(1000))


def imagenetc(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads one corruption of ImageNet-C, or of a set with its tree, such as Tiny-ImageNet-C.

    The images are 224×224 pixels, cropped before they were corrupted.

    Args:
      argument: DIR?corruption=NAME&severity=1, with the severities 1 to 5; DIR holds the folders of
        corruptions, or the archives' folders noise, blur, weather, digital and extra.
      options: how images are read.

    Returns:
      A `Dataset` with the split "test", read from the disk.

    Raises:
      ConfigError: no directory, corruption or severity is given, or it is unknown.
      DataError: its folder is missing, or an image cannot be read.

    Reference: D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019.
    """
    path, given = split_argument("imagenetc", argument, ("corruption", "severity"))
    root = directory("imagenetc", path)
    corruption, severity = check_corruption("imagenetc", path, given)
    places = [root / corruption, *(root / archive / corruption for archive in ARCHIVES)]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        present = [
            name for folder in (root, *(root / archive for archive in ARCHIVES))
            if folder.is_dir() for name in folders(folder, Passed())
        ]
        raise DataError(
            str(root), f"has no folder '{corruption}'" if root.is_dir() else "is not a directory",
            suggest(corruption, present),
        )
    if not (place / severity).is_dir():
        raise DataError(str(place), f"has no folder '{severity}'", "unpack it again")
    return _test_split(place / severity, options)


def imagenetv2(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads one of the three sets of ImageNet-V2, 10 images for each of the 1,000 classes.

    Their folders are called 0 to 999, which are read as numbers; a later edition calls them by
    WordNet ids.

    Args:
      argument: the directory of the class folders.
      options: how images are read.

    Returns:
      A `Dataset` with the split "test", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: the class folders are others, or an image cannot be read.

    Reference: B. Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", ICML 2019.
    """
    root = _root("imagenetv2", argument)
    names = folders(root, Passed())
    if set(names) == set(NUMBERS):
        return _test_split(root, options, NUMBERS)
    _check_ids(root, names, 1000)
    return _test_split(root, options)


def imageneta(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads ImageNet-A: 200 classes, see `class_maps.IMAGENET_A`.

    Args:
      argument: the directory of the class folders, or the one that holds imagenet-a.
      options: how images are read.

    Returns:
      A `Dataset` with the split "test", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: the class folders are others, or an image cannot be read.

    Reference: D. Hendrycks et al., "Natural Adversarial Examples", CVPR 2021.
    """
    return _of_200("imageneta", argument, "imagenet-a", options)


def imagenetr(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads ImageNet-R: 200 classes, see `class_maps.IMAGENET_R`.

    Args:
      argument: the directory of the class folders, or the one that holds imagenet-r.
      options: how images are read.

    Returns:
      A `Dataset` with the split "test", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: the class folders are others, or an image cannot be read.

    Reference: D. Hendrycks et al., "The Many Faces of Robustness", ICCV 2021.
    """
    return _of_200("imagenetr", argument, "imagenet-r", options)


def imagenetsketch(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads ImageNet-Sketch: drawings of the 1,000 classes.

    Args:
      argument: the directory of the class folders, or the one that holds sketch.
      options: how images are read.

    Returns:
      A `Dataset` with the split "test", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: the class folders are others, or an image cannot be read.

    Reference: H. Wang et al., "Learning Robust Global Representations by Penalizing Local
    Predictive Power", NeurIPS 2019.
    """
    root = _root("imagenetsketch", argument, "sketch")
    _check_ids(root, folders(root, Passed()), 1000)
    return _test_split(root, options)


def _of_200(source: str, argument: str, inner: str, options: ReadOptions) -> Dataset:
    root = _root(source, argument, inner)
    _check_ids(root, folders(root, Passed()), 200)
    return _test_split(root, options)


def _root(source: str, argument: str, inner: str = "") -> Path:
    path, _ = split_argument(source, argument, ())
    root = directory(source, path)
    root = root / inner if inner and (root / inner).is_dir() else root
    if not root.is_dir():
        raise DataError(str(root), "is not a directory", "unpack the set's archive there")
    return root


def _check_ids(root: Path, names: Sequence[str], count: int) -> None:
    """Validates that the folders are as many WordNet ids: positions would be others."""
    odd = [name for name in names if not is_wordnet_id(name)]
    if odd or len(names) != count:
        what = f"has a folder '{odd[0]}'" if odd else f"has {len(names)} class folders"
        raise DataError(
            str(root), what, f"{count} folders with WordNet ids, such as n01440764, are wanted"
        )


def _test_split(root: Path, options: ReadOptions, classes: tuple[str, ...] = ()) -> Dataset:
    names = folders(root, Passed())
    if not names:
        raise DataError(str(root), "holds no class folders", "unpack the set's archive there")
    classes = classes or class_order(names, "string", str(root), "")
    read = functools.partial(read_classes, root, names, classes, options)
    return Dataset(Deferred({"test": read}), classes)
