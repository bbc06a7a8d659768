"""Arrays of an .npz file, or of a notebook."""

from __future__ import annotations

import functools
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.data.dataset import (
    Dataset,
    Deferred,
    Split,
    classes_of,
    numbered,
    split_of_arrays,
)
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import DataError, suggest
from kdaug_jax.files import expanded, npz_names, open_file, read_npz, reason

# What NumPy raises on damaged .npy and .npz files.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, OverflowError, RuntimeError, SyntaxError, struct.error,
    zipfile.BadZipFile, zlib.error,
)

_registered: dict[str, Dataset] = {}


def from_arrays(
    splits: Mapping[str, tuple[Any, Any]], class_names: Sequence[str] = ()
) -> Dataset:
    """Returns a data set of arrays.

    Args:
      splits: for each split, such as "train" and "test", images `u8[N,H,W,3]` (or grey
        `u8[N,H,W]`, which become three equal channels) and labels `i[N]`.
      class_names: by class number; numbers, as many as the labels of "train" (or of all splits
        where there is none) have, if left out.

    Returns:
      A `Dataset` in memory; the arrays are not copied unless they are grey.

    Raises:
      DataError: images that are not uint8, shapes or lengths that do not fit, labels out of range,
        or class names without an order or twice the same.
    """
    if not splits:
        raise DataError("arrays", "no split is given", 'give {"train": (images, labels), ...}')
    for name, pair in splits.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            kind = type(pair).__name__
            raise DataError(f"arrays ({name})", f"is {kind}, not a pair", "give (images, labels)")
    labels = {name: label for name, (_, label) in splits.items()}
    names = _class_names(class_names, "arrays") or _numbers(labels, "arrays")
    return Dataset(
        {
            name: split_of_arrays(image, label, len(names), f"arrays ({name})")
            for name, (image, label) in splits.items()
        },
        names,
    )


def _class_names(class_names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(class_names, list | tuple | np.ndarray):  # a set has no order, a dict another
        raise DataError(
            where, f"class_names are a {type(class_names).__name__}",
            "give a list, in the order of the class numbers",
        )
    names = tuple(map(str, class_names))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(where, f"two classes are called '{twice}'", "give each its own name")
    return names


def register(name: str, dataset: Dataset) -> str:
    """Makes a data set available to configs of this process under a name.

    Args:
      name: any text.
      dataset: from `from_arrays`, or splits made by hand.

    Returns:
      The text for `data.source`: "arrays:" and the name.
    """
    _registered[name] = dataset
    return f"arrays:{name}"


def arrays(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads an .npz file, or returns what was registered under a name.

    Args:
      argument: a name given to `register`, or an .npz file with the arrays `train_image` and
        `train_label`, the same for any other split, and perhaps `class_names`. Pickled objects
        are not read.
      options: unused: arrays are decoded.

    Returns:
      A `Dataset` in memory.

    Raises:
      DataError: there is no such file or name, the file is damaged or lacks arrays, or what
        `from_arrays` refuses.
    """
    if argument in _registered:
        return _registered[argument]
    path = expanded("data.source", argument, DataError)
    if not path.is_file():
        raise DataError(
            f"arrays:{argument}", "is neither a file nor a registered name",
            suggest(argument, _registered) if _registered else "give an .npz file",
        )
    keys = _load(path, None)
    names = sorted(key.removesuffix("_image") for key in keys if key.endswith("_image"))
    lacking = [f"{name}_label" for name in names if f"{name}_label" not in keys]
    if lacking or not names:
        raise DataError(
            str(path), f"has no {' or '.join(lacking) or 'images'}",
            "give train_image, train_label and the same for other splits",
        )
    labels = {name: _load(path, f"{name}_label") for name in names}
    class_names = (
        _class_names(np.atleast_1d(_load(path, "class_names")), str(path))
        if "class_names" in keys
        else _numbers(labels, str(path))
    )
    readers = {
        name: functools.partial(_split, path, name, labels[name], len(class_names))
        for name in names
    }
    return Dataset(Deferred(readers), class_names)


def _load(path: Path, key: str | None) -> Any:
    """Reads one array; the names of all for None."""
    remedy = "write it with numpy.savez, without objects"
    try:
        with open_file(path, "array") as file:
            is_archive = zipfile.is_zipfile(file)
        if is_archive:
            return npz_names(path) if key is None else read_npz(path, (key,))[key]
    except UNREADABLE as error:
        what = f"{key or 'it'} cannot be read ({reason(error)})"
        raise DataError(str(path), what, remedy) from None
    raise DataError(str(path), "it cannot be read (not an .npz file, or cut short)", remedy)


def _split(path: Path, name: str, label: np.ndarray, classes: int) -> Split:
    return split_of_arrays(_load(path, f"{name}_image"), label, classes, f"{path} ({name})")


def _numbers(labels: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Returns numbers as class names: as many as "train" has, else as all splits have."""
    known = {"train": labels["train"]} if "train" in labels else labels
    count, most = 0, sum(np.size(label) for label in labels.values())
    for name, label in known.items():
        label = np.asarray(label)
        if label.dtype.kind not in "iu":
            raise DataError(
                f"{where} ({name})", f"labels are {label.dtype}", "integer class numbers are wanted"
            )
        count = max(count, classes_of(label.ravel(), f"{where} ({name})", most=most, least=0))
    return numbered(count)
