"""CINIC-10 as its archive unpacks."""

from __future__ import annotations

from kdaug_jax.data.dataset import Dataset, directory
from kdaug_jax.data.options import DEFAULTS, ReadOptions
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.sources.folder import read_tree
from kdaug_jax.errors import DataError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
INNER = "CINIC-10"


def cinic10(argument: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Reads CINIC-10: CIFAR-10's classes, three splits of 90,000 images of 32×32 pixels.

    Each split holds 20,000 images of CIFAR-10, and "test" holds all of CIFAR-10's test set and
    images of its training set: a network trained on CIFAR-10 has seen a part of it.

    Args:
      argument: the directory that holds train, valid and test, or the one above it if that is
        called CINIC-10.
      options: how images are read.

    Returns:
      A `Dataset` with the splits "train", "validation" and "test", read from the disk.

    Raises:
      ConfigError: no directory is given.
      DataError: a folder is missing, or an image cannot be read.

    Reference: L. Darlow et al., "CINIC-10 Is Not ImageNet or CIFAR-10", 2018.
    """
    path, _ = split_argument("cinic10", argument, ())
    root = directory("cinic10", path)
    root = root / INNER if (root / INNER).is_dir() else root
    if not (root / "train").is_dir():
        raise DataError(str(root), "has no folder 'train'", "unpack CINIC-10.tar.gz there")
    dataset = read_tree(root, options, order="string", advice="", labels=None)
    if dataset.class_names != CLASSES:
        odd = sorted(set(CLASSES) ^ set(dataset.class_names))[0]
        what = "has no class folder" if odd in CLASSES else "has a class folder"
        raise DataError(
            str(root / "train"), f"{what} '{odd}'", "unpack CINIC-10.tar.gz there"
        )
    return dataset
