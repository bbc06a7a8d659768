"""CIFAR-10 and CIFAR-100, in their binary or their Python versions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.pickles import read_pickle
from kdaug_jax.errors import DataError
from kdaug_jax.files import read_bytes, read_text, reason

SIDE = 32
PIXELS = 3 * SIDE * SIDE

# In the order of their numbers, as the files of both versions list them.
NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
FINE_NAMES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)


class Version(NamedTuple):
    """How one of the two archives of a set lies on disk.

    Attributes:
      folder: that it unpacks.
      archive: its name.
      files: of each split.
      names: file of the class names.
    """

    folder: str
    archive: str
    files: dict[str, tuple[str, ...]]
    names: str


class Layout(NamedTuple):
    """One of the two sets.

    Attributes:
      names: of the classes.
      label_bytes: in front of each image of the binary version; the last is the class.
      label_key: of the labels in pickles.
      names_key: of the class names in pickles.
      binary: version whose files are records of bytes.
      python: version whose files are pickles.
    """

    names: tuple[str, ...]
    label_bytes: int
    label_key: str
    names_key: str
    binary: Version
    python: Version


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEN = Layout(
    NAMES, 1, "labels", "label_names",
    Version(
        "cifar-10-batches-bin", "cifar-10-binary.tar.gz",
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        "batches.meta.txt",
    ),
    Version(
        "cifar-10-batches-py", "cifar-10-python.tar.gz",
        {"train": _BATCHES, "test": ("test_batch",)}, "batches.meta",
    ),
)
HUNDRED = Layout(
    FINE_NAMES, 2, "fine_labels", "fine_label_names",
    Version(
        "cifar-100-binary", "cifar-100-binary.tar.gz",
        {"train": ("train.bin",), "test": ("test.bin",)}, "fine_label_names.txt",
    ),
    Version(
        "cifar-100-python", "cifar-100-python.tar.gz",
        {"train": ("train",), "test": ("test",)}, "meta",
    ),
)


def cifar10(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads CIFAR-10.

    Args:
      argument: the directory of the binary version (data_batch_1.bin to data_batch_5.bin,
        test_batch.bin, batches.meta.txt) or of the Python version (the same without suffixes), or
        the directory that holds cifar-10-batches-bin or cifar-10-batches-py. The binary version is
        read where both lie there.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train" and "test" in memory; without the file of class names
      they are the published ones.

    Raises:
      ConfigError: no directory is given.
      DataError: a file is missing, truncated or has labels that the set does not have, or a
        pickle holds more than plain data.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar("cifar10", argument, TEN)


def cifar100(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads CIFAR-100 with its 100 fine labels.

    Args:
      argument: the directory of the binary version (train.bin, test.bin, fine_label_names.txt) or
        of the Python version (train, test, meta), or the directory that holds cifar-100-binary or
        cifar-100-python. The binary version is read where both lie there.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train" and "test" in memory; without the file of class names
      they are the published ones.

    Raises:
      ConfigError: no directory is given.
      DataError: a file is missing, truncated or has labels that the set does not have, or a
        pickle holds more than plain data.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar("cifar100", argument, HUNDRED)


def _cifar(source: str, argument: str, layout: Layout) -> Dataset:
    root = directory(source, argument)
    nearest = None
    for version in (layout.binary, layout.python):
        for place in (root / version.folder, root):
            missing = [
                file for files in version.files.values() for file in files
                if not (place / file).is_file()
            ]
            if not missing:
                return _dataset(place, version, layout)
            there = sum(map(len, version.files.values())) - len(missing)
            if nearest is None or there > nearest[0]:
                nearest = there, place, version, missing
    there, place, version, missing = nearest
    if not root.is_dir():
        place, what = root, "is not a directory"
    else:
        place, what = (place if there else root), f"has no {', '.join(missing)}"
    other = f" or {layout.python.archive}" if version is layout.binary and not there else ""
    raise DataError(str(place), what, f"unpack {version.archive}{other} there")


def _dataset(place: Path, version: Version, layout: Layout) -> Dataset:
    binary = version is layout.binary
    names_file, names = place / version.names, layout.names
    if names_file.is_file():
        if binary:
            names = tuple(read_text(names_file, "text", errors="replace").split())
        else:
            names = _texts(names_file, read_pickle(names_file).get(layout.names_key))
    if len(names) != len(layout.names):
        raise DataError(
            str(names_file), f"names {len(names)} classes", f"{len(layout.names)} are wanted"
        )
    readers = {
        name: functools.partial(_split, [place / file for file in files], layout, binary)
        for name, files in version.files.items()
    }
    return Dataset(Deferred(readers), names)


def _texts(path: Path, names: Any) -> tuple[str, ...]:
    """Returns the class names of a pickle; of Python 2 they may be bytes."""
    names = names if isinstance(names, list) else []
    texts = [name.decode("latin1") if isinstance(name, bytes) else name for name in names]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(str(path), "has no list of class names", "unpack the archive again")
    return tuple(texts)


def _split(paths: list[Path], layout: Layout, binary: bool) -> Split:
    read = _read_records if binary else _read_batch
    parts = [read(path, layout) for path in paths]
    rows, label = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # Stored as a red, a green and a blue plane.
    image = np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return split_of_arrays(image, label, len(layout.names), str(paths[0].parent))


def _read_records(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of the binary version: planes `u8[n,3072]` and labels `u8[n]`."""
    record = layout.label_bytes + PIXELS
    try:
        content = np.frombuffer(read_bytes(path, "array"), np.uint8)
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({reason(error)})", "unpack it again") from None
    if len(content) % record or not len(content):
        raise DataError(
            str(path), f"holds {len(content)} bytes, not a multiple of {record}", "unpack it again"
        )
    content = content.reshape(-1, record)
    label = content[:, layout.label_bytes - 1]
    _check_labels(path, label, len(layout.names))
    return content[:, layout.label_bytes :], label


def _read_batch(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Reads a file of the Python version: planes `u8[n,3072]` and labels `i64[n]`."""
    batch = read_pickle(path)
    rows, label = batch.get("data"), batch.get(layout.label_key)
    if rows is None or label is None:
        raise DataError(
            str(path), f"has no 'data' and '{layout.label_key}'",
            f"unpack {layout.python.archive} again",
        )
    if (
        not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2
        or rows.shape[1] != PIXELS or not len(rows)
    ):
        form = f"{rows.dtype}{list(rows.shape)}" if isinstance(rows, np.ndarray) else (
            type(rows).__name__
        )
        raise DataError(
            str(path), f"'data' is {form}", f"uint8[N,{PIXELS}] is wanted: unpack it again"
        )
    integers = isinstance(label, list) and all(type(number) is int for number in label)
    if not integers and not (isinstance(label, np.ndarray) and label.dtype.kind in "iu"):
        raise DataError(
            str(path), f"'{layout.label_key}' holds no integers", "unpack it again"
        )
    if len(label) != len(rows):
        raise DataError(
            str(path), f"holds {len(rows)} images and {len(label)} labels", "unpack it again"
        )
    _check_labels(path, label, len(layout.names))
    return rows, np.asarray(label)


def _check_labels(path: Path, label: Sequence[int], classes: int) -> None:
    for position, number in enumerate(label):
        if not 0 <= number < classes:
            raise DataError(
                str(path), f"example {position} has label {number}",
                f"with {classes} classes it must be 0..{classes - 1}",
            )
