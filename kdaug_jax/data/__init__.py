"""Data sets as arrays, their order, and how batches of them reach the devices.

A source is a function of the text after the colon in `data.source` that returns base splits.
Adding one is one function and one row of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdaug_jax.data.dataset import Dataset, Split
from kdaug_jax.data.digits import digits
from kdaug_jax.data.feed import Feed, eval_batches, resident
from kdaug_jax.data.order import indices
from kdaug_jax.data.synthetic import synthetic
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.types import Info

SOURCES: dict[str, Callable[[str], Dataset]] = {"digits": digits, "synthetic": synthetic}


def load(source: str, splits: dict[str, str]) -> Dataset:
    """Loads a data set and picks the splits that a run uses.

    Args:
      source: `name` or `name:argument`, as in `data.source`.
      splits: base split to use for each of "train", "validation" and "test".

    Returns:
      A `Dataset` with exactly these three splits.

    Raises:
      ConfigError: unknown source or split.
      DataError: the data are absent or not as they should be.
    """
    name, _, argument = source.partition(":")
    if name not in SOURCES:
        raise ConfigError("data.source", f"unknown source '{name}'", near(name, SOURCES))
    base = SOURCES[name](argument)
    for use, split in splits.items():
        if split not in base.splits:
            raise ConfigError(
                f"data.{use}", f"'{source}' has no split '{split}'", near(split, base.splits)
            )
    return Dataset({use: base.splits[split] for use, split in splits.items()}, base.class_names)


def describe(dataset: Dataset) -> Info:
    """Computes the facts of the training split: size, labels, per-channel mean and deviation."""
    train = dataset.splits["train"]
    pixels = train.image.reshape(-1, train.image.shape[-1])
    mean = pixels.mean(0, dtype=np.float64)
    std = pixels.std(0, dtype=np.float64)
    return Info(
        num_classes=len(dataset.class_names),
        size=(train.image.shape[1], train.image.shape[2]),
        labels=train.label,
        # Rounded so that the numbers written to config.json are the numbers used.
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 1.0), 4) for value in std),
    )


__all__ = [
    "SOURCES",
    "Dataset",
    "Feed",
    "Split",
    "describe",
    "eval_batches",
    "indices",
    "load",
    "resident",
]
