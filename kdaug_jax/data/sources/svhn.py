"""SVHN, format 2: house numbers cut into digits of 32×32 pixels, in MATLAB's files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from kdaug_jax.data.dataset import Dataset, Deferred, Split, directory, numbered, split_of_arrays
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.files import open_file

SPLITS = ("train", "test", "extra")
SIDE = 32
CLASSES = 10


def svhn(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads SVHN's cropped digits; the label 10 of the files is the digit 0.

    Args:
      argument: the directory with train_32x32.mat and test_32x32.mat, and perhaps
        extra_32x32.mat, which is the split "extra"; with DIR?extra=train its images follow those
        of "train" in that split, as in papers that train on both.
      options: unused: the files hold arrays.

    Returns:
      A `Dataset` with the splits "train", "test" and perhaps "extra" in memory. While a file is
      read, its images lie in memory twice (3.3 GB for extra_32x32.mat).

    Raises:
      ConfigError: no directory is given, or an unknown option.
      DataError: a file is missing, damaged or of another form.

    Reference: Y. Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature
    Learning", NIPS workshop 2011.
    """
    path, given = split_argument("svhn", argument, ("extra",))
    root = directory("svhn", path)
    if given.get("extra", "train") != "train":
        raise ConfigError(
            "data.source", f"svhn cannot add its extra images to '{given['extra']}'",
            f"svhn:{path}?extra=train, or data.train=extra without the option",
        )
    files = {name: root / f"{name}_32x32.mat" for name in SPLITS}
    needed = SPLITS if given else SPLITS[:2]
    missing = [files[name].name for name in needed if not files[name].is_file()]
    if missing:
        what = f"has no {', '.join(missing)}" if root.is_dir() else "is not a directory"
        raise DataError(str(root), what, "fetch the files of SVHN's format 2, cropped digits")
    parts = {name: (file,) for name, file in files.items() if file.is_file()}
    if given:
        parts["train"] += parts.pop("extra")
    return Dataset(
        Deferred({name: functools.partial(_split, *paths) for name, paths in parts.items()}),
        numbered(CLASSES),
    )


def _split(*paths: Path) -> Split:
    pairs = [_read(path) for path in paths]
    if len(pairs) == 1:
        ((image, label),) = pairs
    else:
        image, label = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return split_of_arrays(image, label, CLASSES, " and ".join(map(str, paths)))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import scipy.io

    try:
        with open_file(path, "array") as file:
            content = scipy.io.loadmat(file, variable_names=("X", "y"))
    except NotImplementedError:
        raise DataError(
            str(path), "is a MATLAB v7.3 file (HDF5), as those of SVHN's format 1 are",
            "fetch train_32x32.mat and test_32x32.mat of format 2",
        ) from None
    except Exception as error:  # a damaged file raises anything
        line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(str(path), f"cannot be read ({line:.120})", "fetch it again") from None
    image, label = content.get("X"), content.get("y")
    if image is None or label is None:
        raise DataError(str(path), "has no variables X and y", "fetch it again")
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[:3] != (SIDE, SIDE, 3):
        raise DataError(
            str(path), f"X is {image.dtype}{list(image.shape)}",
            f"uint8[{SIDE},{SIDE},3,N] is wanted: fetch it again",
        )
    if label.size != image.shape[3] or label.dtype.kind not in "iu":
        raise DataError(
            str(path), f"y is {label.dtype}{list(label.shape)}",
            f"{image.shape[3]} integers are wanted: fetch it again",
        )
    label = label.ravel().astype(np.int32)
    wrong = np.flatnonzero((label < 1) | (label > CLASSES))
    if len(wrong):
        raise DataError(
            str(path), f"example {wrong[0]} has label {label[wrong[0]]}",
            "SVHN's labels are 1 to 10: fetch it again",
        )
    # 10 is the digit 0, all others are themselves.
    return np.ascontiguousarray(image.transpose(3, 0, 1, 2)), label % CLASSES
