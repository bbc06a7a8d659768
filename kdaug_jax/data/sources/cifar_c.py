"""CIFAR-10-C and CIFAR-100-C: the test images under 19 corruptions of 5 severities."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from kdaug_jax.data.corruptions import SEVERITIES, check_corruption
from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.arrays import UNREADABLE
from kdaug_jax.data.sources.cifar import FINE_NAMES, NAMES, SIDE
from kdaug_jax.errors import DataError
from kdaug_jax.files import reason, require_file


def cifar10c(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads one corruption of CIFAR-10-C at one severity.

    Args:
      argument: DIR?corruption=NAME&severity=1..5 with the directory of NAME.npy and labels.npy, or
        the one that holds CIFAR-10-C.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the split "test", 10,000 images in the order of CIFAR-10's test set, mapped
      into memory.

    Raises:
      ConfigError: an option is missing or unknown.
      DataError: a file is missing, damaged or of another form.

    Reference: D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019.
    """
    return _corrupted("cifar10c", "CIFAR-10-C", argument, NAMES)


def cifar100c(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads one corruption of CIFAR-100-C at one severity, see `cifar10c`.

    Args:
      argument: DIR?corruption=NAME&severity=1..5 with the directory of NAME.npy and labels.npy, or
        the one that holds CIFAR-100-C.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the split "test", 10,000 images in the order of CIFAR-100's test set, mapped
      into memory.

    Raises:
      ConfigError: an option is missing or unknown.
      DataError: a file is missing, damaged or of another form.
    """
    return _corrupted("cifar100c", "CIFAR-100-C", argument, FINE_NAMES)


def _corrupted(source: str, inner: str, argument: str, names: tuple[str, ...]) -> Dataset:
    path, given = split_argument(source, argument, ("corruption", "severity"))
    root = directory(source, path)
    name, severity = check_corruption(source, path, given)
    root = root / inner if (root / inner).is_dir() else root
    files = root / f"{name}.npy", root / "labels.npy"
    for file in files:
        if not file.is_file():
            what = f"has no {file.name}" if root.is_dir() else "is not a directory"
            raise DataError(str(root), what, f"unpack {inner}.tar there")
    return Dataset(
        Deferred({"test": functools.partial(_split, *files, int(severity), len(names))}), names
    )


def _split(file: Path, label_file: Path, severity: int, classes: int) -> Split:
    image, label = _mapped(file), _mapped(label_file)
    wanted = (len(image), SIDE, SIDE, 3)
    if image.dtype != np.uint8 or image.shape != wanted or len(image) % len(SEVERITIES):
        raise DataError(
            str(file), f"holds {image.dtype}{list(image.shape)}",
            f"uint8[N,{SIDE},{SIDE},3] is wanted, one fifth of N a severity: unpack it again",
        )
    if label.shape != (len(image),) or label.dtype.kind not in "iu":
        raise DataError(
            str(label_file), f"holds {label.dtype}{list(label.shape)}",
            f"{len(image)} labels are wanted, one an image of {file.name}",
        )
    label = np.array(label).reshape(len(SEVERITIES), -1)
    if (label != label[0]).any():
        raise DataError(
            str(label_file), "does not hold the same labels for each of the five severities",
            "unpack it again",
        )
    count = label.shape[1]
    rows = slice((severity - 1) * count, severity * count)
    # Left on the disk until it is evaluated: all corruptions together are 2.3 GB.
    return split_of_arrays(image[rows], label[0], classes, str(file))


def _mapped(file: Path) -> np.ndarray:
    try:
        require_file(file, "array")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise DataError(
            str(file), f"cannot be read ({reason(error)})", "unpack it again"
        ) from None
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise DataError(str(file), "is not an array of NumPy", "unpack it again")
    return array
