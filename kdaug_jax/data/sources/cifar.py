"""CIFAR-10 and CIFAR-100 in their binary versions; the Python versions are pickles, not read."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, numbered, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.errors import DataError

SIDE = 32
TEN = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
       "test": ("test_batch.bin",)}
HUNDRED = {"train": ("train.bin",), "test": ("test.bin",)}


def cifar10(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads CIFAR-10.

    Args:
      argument: the directory of the binary version, with data_batch_1.bin to data_batch_5.bin,
        test_batch.bin and batches.meta.txt (class names; numbers where it is missing), or the
        directory that holds cifar-10-batches-bin.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train" and "test" in memory.

    Raises:
      ConfigError: no directory is given.
      DataError: a file is missing, truncated or has labels that the set does not have.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar(argument, TEN, 1, 10, "batches.meta.txt", "cifar-10-batches-bin",
                  "cifar-10-binary.tar.gz")


def cifar100(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads CIFAR-100 with its 100 fine labels.

    Args:
      argument: the directory of the binary version, with train.bin, test.bin and
        fine_label_names.txt (numbers where it is missing), or the directory that holds
        cifar-100-binary.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train" and "test" in memory.

    Raises:
      ConfigError: no directory is given.
      DataError: a file is missing, truncated or has labels that the set does not have.

    Reference: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _cifar(argument, HUNDRED, 2, 100, "fine_label_names.txt", "cifar-100-binary",
                  "cifar-100-binary.tar.gz")


def _cifar(
    argument: str, files: dict[str, tuple[str, ...]], label_bytes: int, classes: int,
    names_file: str, inner: str, archive: str,
) -> Dataset:
    root = directory(f"cifar{classes}", argument)
    if (root / inner).is_dir():
        root = root / inner
    missing = [
        name for names in files.values() for name in names if not (root / name).is_file()
    ]
    if missing:
        what = f"has no {', '.join(missing)}" if root.is_dir() else "is not a directory"
        if any((root / name.removesuffix(".bin")).is_file() for name in missing):
            what = "holds the Python version, which is pickled"
        raise DataError(str(root), what, f"unpack {archive} there, the binary version")
    readers = {
        name: functools.partial(_split, root, names, label_bytes, classes)
        for name, names in files.items()
    }
    return Dataset(Deferred(readers), _class_names(root / names_file, classes))


def _class_names(path: Path, classes: int) -> tuple[str, ...]:
    if not path.is_file():
        return numbered(classes)
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != classes:
        raise DataError(str(path), f"names {len(names)} classes", f"{classes} are wanted")
    return names


def _split(root: Path, names: tuple[str, ...], label_bytes: int, classes: int) -> Split:
    record = label_bytes + 3 * SIDE * SIDE
    parts = []
    for path in (root / name for name in names):
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise DataError(str(path), f"cannot be read ({error})", "unpack it again") from None
        if len(content) % record or not len(content):
            raise DataError(
                str(path), f"holds {len(content)} bytes, not a multiple of {record}",
                "unpack it again",
            )
        part = content.reshape(-1, record)
        label = part[:, label_bytes - 1]
        if label.max() >= classes:
            wrong = int(np.argmax(label >= classes))
            raise DataError(
                str(path), f"example {wrong} has label {label[wrong]}",
                f"with {classes} classes it must be 0..{classes - 1}",
            )
        parts.append(part)
    data = np.concatenate(parts)
    # Stored as a red, a green and a blue plane.
    planes = data[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)
    image = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return split_of_arrays(image, data[:, label_bytes - 1], classes, str(root))
