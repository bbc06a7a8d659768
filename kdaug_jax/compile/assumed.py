"""Data that are known by number and size alone: what a job is sized by where they are absent."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.dataset import Split, numbered
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.types import Info

FORM = "--assume=examples=1281167,classes=1000,size=mixed, or size=32x32 where all have one size"
MIXED = "mixed"
# What photographs of unknown size are taken to be: height and width, in turn.
_PHOTOGRAPHS = ((375, 500), (500, 375))
# Pixel statistics have no influence on what a program costs.
_MEAN, _STD = np.full(3, 127.5), np.full(3, 64.0)


class Assumption(NamedTuple):
    """What is assumed of the training data.

    Attributes:
      examples: number of training images.
      classes: their number.
      size: height and width of all images, None for photographs of several sizes.
    """

    examples: int
    classes: int
    size: tuple[int, int] | None


def parse(text: str) -> Assumption:
    """Reads `--assume`, such as "examples=1281167,classes=1000,size=500x375".

    Args:
      text: the value of the flag; the size is width and height.

    Raises:
      ConfigError: a part is missing, unknown or not a number.
    """
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        name = name.strip()
        if name not in Assumption._fields or not equals:
            raise ConfigError(
                "--assume", f"does not know '{name}'", suggest(name, Assumption._fields)
            )
        given[name] = value.strip().lower()
    for name in Assumption._fields:
        if name not in given:
            raise ConfigError("--assume", f"has no '{name}'", FORM)
    size = None
    if given["size"] != MIXED:
        sides = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", given["size"])
        if sides is None:
            raise ConfigError("--assume", f"cannot read size '{given['size']}'", FORM)
        size = int(sides[2]), int(sides[1])
    return Assumption(
        _number("examples", given["examples"]), _number("classes", given["classes"]), size
    )


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or not 0 < int(text) < 2**31:
        raise ConfigError("--assume", f"cannot read {name} '{text}'", FORM)
    return int(text)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A reader of images of several sizes, of which nothing but the sizes is known.

    Attributes:
      sizes: `i32[N,2]`, height and width of each.
    """

    sizes: np.ndarray
    size = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Raises TypeError: there are no pixels."""
        raise TypeError(f"images {rows} are known by their sizes alone")

    def image(self, row: int) -> Image.Image:
        """Raises TypeError: there are no pixels."""
        raise TypeError(f"image {row} is known by its size alone")

    def take(self, rows: np.ndarray) -> Sizes:
        """Returns the sizes of some images."""
        return Sizes(self.sizes[rows])


def dataset_of(assumption: Assumption) -> data.Dataset:
    """Returns splits for training and validation of the assumed number, sizes and classes."""
    count = assumption.examples
    label = np.arange(count, dtype=np.int32) % assumption.classes
    index = np.arange(count, dtype=np.int32)
    if assumption.size is None:
        sizes = np.array(_PHOTOGRAPHS, np.int32)[index % len(_PHOTOGRAPHS)]
    else:
        sizes = np.broadcast_to(np.array(assumption.size, np.int32), (count, 2))
    split = Split(_reader(assumption.size, sizes), label, index)
    return data.Dataset({"train": split, "validation": split}, numbered(assumption.classes))


def without_pixels(dataset: data.Dataset) -> data.Dataset:
    """Returns a data set whose images are known by their sizes alone, so that none is read."""
    return data.Dataset({
        name: dataclasses.replace(split, reader=_reader(split.size, split.sizes))
        for name, split in dataset.splits.items()
    }, dataset.class_names)


def _reader(size: tuple[int, int] | None, sizes: np.ndarray) -> data.Reader:
    if size is None:
        return Sizes(sizes)
    # All pixels are one number in memory.
    return data.ArrayReader(np.broadcast_to(np.uint8(0), (len(sizes), *size, 3)))


def facts(dataset: data.Dataset) -> Info:
    """Returns the facts of the training split, with made-up statistics of its pixels."""
    return data.describe(dataset, lambda split: (_MEAN, _STD))
