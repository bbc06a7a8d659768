"""Loads the data of a config: the splits of a run, how it recognises them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kdaug_jax import data
from kdaug_jax.types import Info

USES = ("train", "validation", "test")
# Fields of `config.data` that decide what is read.
READ = ("source", *USES, "exif", "alpha", "bad_images", "image", "label")


def no_bar(done: float, text: str) -> None:
    """Shows no progress."""
    del done, text


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
    names = ("exif", "alpha", "bad_images", "image", "label")
    return data.ReadOptions(
        **{name: section[name] for name in names}, say=say, progress=progress
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
