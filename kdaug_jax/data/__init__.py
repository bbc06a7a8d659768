"""Data sets, their parts and order, and how batches of them reach the devices.

`load` turns the texts of a config into a `Dataset`: `sources/` reads base splits, `splits.py` takes
parts of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np

from kdaug_jax.data.dataset import (
    ArrayReader,
    Dataset,
    ImageReader,
    Reader,
    Split,
    checked,
    numbered,
)
from kdaug_jax.data.feed import (
    Feed,
    HostCrops,
    check_eval_memory,
    eval_batches,
    fits,
    joined,
    make_feed,
    resident,
    streamed,
)
from kdaug_jax.data.human import read_human
from kdaug_jax.data.options import DEFAULTS, ReadOptions, check_options
from kdaug_jax.data.order import indices
from kdaug_jax.data.sources import SOURCES, find_source, from_arrays, register
from kdaug_jax.data.splits import (
    choose,
    describe_parts,
    missing_classes,
    overlaps,
    replaced_within,
)
from kdaug_jax.data.statistics import describe_sizes
from kdaug_jax.data.statistics import statistics as pixel_statistics
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.files import explained
from kdaug_jax.types import Info


def load(
    source: str, splits: dict[str, str], options: ReadOptions = DEFAULTS
) -> Dataset:
    """Loads a data set and picks the splits that a run uses.

    Args:
      source: `data.source`, see `sources.find_source`.
      splits: base split, or part of one, for each use, such as "train", "validation" and "test";
        see `kdaug_jax.data.splits`.
      options: how images are read; sources of users do not get them.

    Returns:
      A `Dataset` with exactly these splits; images may differ in size, within and between them.
      A line is said about each that lacks classes.

    Raises:
      ConfigError: unknown source, split or option.
      DataError: the data are absent, cannot be read or do not fit together. Other exceptions of a
        user's own source are passed on.
    """
    with _opened(source, options) as base:
        for line in describe_parts(splits, base.splits):
            options.say(f"{source}: {line}")
        chosen = {
            use: replaced_within(choose(base.splits, use, text, source))
            for use, text in splits.items()
        }
    for line in missing_classes(chosen, base.class_names):
        options.say(f"warning: {line}")
    return Dataset(chosen, base.class_names)


def load_test(source: str, options: ReadOptions = DEFAULTS) -> Dataset:
    """Loads the split that a data set is evaluated on: "test", or the only one that it has.

    Args:
      source: see `load`.
      options: see `load`.

    Returns:
      A `Dataset` with the split "test". A line is said if it lacks classes.

    Raises:
      UserError: as `load`; or there are several splits, and none is called "test".
    """
    with _opened(source, options) as base:
        names = list(base.splits)
        name = "test" if "test" in names or len(names) > 1 else names[0]
        if name not in names:
            folder = source.startswith("folder:")
            place = source.partition("?")[0] + "/" + names[-1] if folder else ""
            raise ConfigError(
                "data.source", f"'{source}' has no split 'test', but {', '.join(names)}",
                f"name the folder of one of them, such as {place}" if folder else
                "name a source with that split, or with one split alone",
            )
        test = Dataset({"test": base.splits[name]}, base.class_names)
    for line in missing_classes({source: test.splits["test"]}, test.class_names, prefix=""):
        options.say(f"warning: {line}")
    return test


@contextlib.contextmanager
def _opened(source: str, options: ReadOptions) -> Iterator[Dataset]:
    """Opens a source; its splits are to be read within the block."""
    check_options(options)
    function, argument = find_source(source)
    built_in = function in SOURCES.values()
    try:
        yield checked(function(argument, options) if built_in else function(argument), source)
    except OSError as error:
        if not built_in:  # code of the user's own
            raise
        what = f"cannot be read ({explained(error).strerror or error})"
        if error.filename is not None:
            what = f"{os.fsdecode(error.filename)} " + what
        raise DataError(source, what, "check the path and who may read it") from None
    except MemoryError as error:
        raise DataError(source, f"does not fit into memory ({error})", "use less of it") from None


def describe(
    dataset: Dataset,
    statistics: Callable[[Split], tuple[np.ndarray, np.ndarray]] = pixel_statistics,
) -> Info:
    """Computes the facts of the training split: size, labels, per-channel mean and deviation.

    Args:
      dataset: its splits; the size is None where sizes differ, within and between them.
      statistics: `statistics(split)` returns mean and deviation, two arrays `f64[3]`.
    """
    train = dataset.splits["train"]
    mean, std = statistics(train)
    mixed = _mixed(dataset)
    return Info(
        num_classes=len(dataset.class_names),
        size=None if mixed else train.size,
        labels=train.label,
        # Rounded so that the numbers written to config.json are the numbers used.
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 1.0), 4) for value in std),
        index=train.index,
        mixed=mixed,
        class_names=tuple(map(str, dataset.class_names)),
    )


def _mixed(dataset: Dataset) -> str:
    """Returns which sizes images have, "" where they have one in all splits."""
    sizes = {use: split.size for use, split in dataset.splits.items()}
    for use, size in sizes.items():
        if size is None:
            return f"{use}: {describe_sizes(dataset.splits[use])}"
    if len(set(sizes.values())) == 1:
        return ""
    return ", ".join(f"{width}×{height} in {use}" for use, (height, width) in sizes.items())


__all__ = [
    "SOURCES",
    "ArrayReader",
    "Dataset",
    "Feed",
    "HostCrops",
    "ImageReader",
    "ReadOptions",
    "Reader",
    "Split",
    "check_eval_memory",
    "describe",
    "eval_batches",
    "fits",
    "from_arrays",
    "indices",
    "load",
    "load_test",
    "joined",
    "make_feed",
    "numbered",
    "overlaps",
    "read_human",
    "register",
    "resident",
    "streamed",
]
