"""Loads the data of a config: the splits of a run, how it recognises them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdaug_jax import data
from kdaug_jax.data.options import no_bar
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.types import Info

USES = ("train", "validation", "test")
OPTIONS = ("exif", "alpha", "bad_images", "image", "label")
# Fields of `config.data` that decide what is read.
READ = ("source", *USES, *OPTIONS)


def read_options(
    section: Mapping[str, Any], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> data.ReadOptions:
    """Returns how images are read.

    Args:
      section: `config.data`, complete.
      say: prints a line.
      progress: shows a bar while a data set is indexed.
    """
    return data.ReadOptions(
        **{name: section[name] for name in OPTIONS}, say=say, progress=progress
    )


def load_data(
    section: Mapping[str, Any], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> data.Dataset:
    """Loads the splits that a config names.

    Args:
      section: `config.data`, complete.
      say: prints a line.
      progress: shows a bar while a data set is indexed.

    Returns:
      Splits for "train" and "validation", and for "test" unless `data.test` is empty.

    Raises:
      UserError: see `data.load`.
    """
    splits = {use: section[use] for use in USES if section[use] or use != "test"}
    return data.load(section["source"], splits, read_options(section, say, progress))


def data_record(dataset: data.Dataset, info: Info) -> dict[str, Any]:
    """Returns what a run stores of its data.

    Args:
      dataset: of the run.
      info: facts of it.

    Returns:
      `{"mixed", "splits"}`: whether images have several sizes, and examples and digest of each
      split that has a digest.
    """
    return {"mixed": bool(info.mixed), "splits": {
        use: {"examples": len(split), "digest": split.digest}
        for use, split in dataset.splits.items() if split.digest
    }}


def data_changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a line for each split that is not the one that a run stored.

    Args:
      stored: what `data_record` returned when the run was started.
      now: what it returns now.
    """
    lines = []
    for use, before in stored.get("splits", {}).items():
        after = now["splits"].get(use)
        if after is None or after == before:
            continue
        if before["examples"] != after["examples"]:
            lines.append(f"{use}: {before['examples']:,} examples -> {after['examples']:,}")
        else:
            lines.append(f"{use}: names, labels, sizes or bytes of its files differ")
    return lines


def refuse_changes(source: str, altered: Sequence[str], remedies: str) -> None:
    """Raises DataError if the data of a run are not those that it stored.

    Args:
      source: `data.source`.
      altered: what `data_changes` returned.
      remedies: what may be done beside restoring the data.
    """
    if altered:
        what = f"changed since the run was started ({'; '.join(altered)})"
        raise DataError(source, what, f"restore it, {remedies}")


def load_human(file: str, dataset: data.Dataset) -> np.ndarray | None:
    """Reads people's answers to the test images.

    Args:
      file: `eval.human`; empty for none.
      dataset: of the run.

    Returns:
      `f32[N,C]` by position in the test split's base split, or None.

    Raises:
      ConfigError: there is no test split, or the file does not fit it.
    """
    if not file:
        return None
    if "test" not in dataset.splits:
        raise ConfigError("eval.human", "is given, but data.test is empty", "name a test split")
    rows = max(dataset.splits["test"].index) + 1
    return data.read_human(file, len(dataset.class_names), rows)
