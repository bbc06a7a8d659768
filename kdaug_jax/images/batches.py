"""One batch of stored images and crops: its plan, its arrays in memory, and how they are filled.

Threads and worker processes fill batches by the same function, `fill`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdaug_jax.images.crops import STEP, cut

Size = tuple[int, int]

STORED = ""  # the name of the images as they are stored
_ALIGNMENT = 64


class CropPlan(NamedTuple):
    """One output of crops, the same for all batches of a stream.

    Attributes:
      draws: D, crops of each image.
      methods: how each of the K steps resizes, see `crops.methods`.
      size: (height, width) of the crops.
      dtype: of the crops, uint8 or float32.
    """

    draws: int
    methods: tuple[str, ...]
    size: Size
    dtype: Any


class BatchPlan(NamedTuple):
    """What a batch holds.

    Attributes:
      rows: `i[n]`, positions in the split.
      stored: whether the images are wanted as they are stored; all of one size then.
      crops: for each output its plan and its steps, `i32[n,D,K,6]`, see `crops.plan`.
    """

    rows: np.ndarray
    stored: bool
    crops: Mapping[str, tuple[CropPlan, np.ndarray]]


class Layout(NamedTuple):
    """The arrays of the largest batch of a stream; plain data, sent to worker processes.

    Attributes:
      count: rows of the batch.
      stored: (height, width) of the images as they are stored, None if they are not wanted.
      crops: the outputs by name.
    """

    count: int
    stored: Size | None
    crops: Mapping[str, CropPlan]


class Batch(NamedTuple):
    """A batch of n images in memory; D and K may differ between outputs.

    Attributes:
      rows: `i64[n]`, positions in the split.
      steps: `i32[n,D,K,6]` of each output.
      images: `u8[n,H,W,3]` under `STORED`, and `[n*D,H,W,3]` of each output: draw d of image b lies
        in row b*D+d.
    """

    rows: np.ndarray
    steps: dict[str, np.ndarray]
    images: dict[str, np.ndarray]


def layout_of(plan: BatchPlan, size: Size | None) -> Layout:
    """Returns the layout of batches like this one.

    Args:
      plan: of the first batch.
      size: (height, width) of the images of the split, None if they differ.
    """
    if plan.stored and size is None:
        raise ValueError("images of several sizes cannot be stacked as they are stored")
    if not plan.stored and not plan.crops:
        raise ValueError("a batch without images")
    crops = {name: crop for name, (crop, _) in plan.crops.items()}
    return Layout(len(plan.rows), size if plan.stored else None, crops)


def check_plan(layout: Layout, plan: BatchPlan) -> None:
    """Validates that a batch fits into a layout.

    Raises:
      ValueError: it has more rows, other outputs, or steps of another shape or size.
    """
    crops = {name: crop for name, (crop, _) in plan.crops.items()}
    same = crops == layout.crops and plan.stored == (layout.stored is not None)
    if not same or len(plan.rows) > layout.count:
        raise ValueError("all batches of a stream have the outputs of the first, and no more rows")
    for name, (crop, steps) in plan.crops.items():
        shape = len(plan.rows), crop.draws, len(crop.methods), STEP
        if steps.shape != shape:
            raise ValueError(f"the steps of '{name}' have shape {steps.shape}, not {shape}")
        if (steps[:, :, -1, 4:] != crop.size).any():
            raise ValueError(f"some steps of '{name}' do not end with the size {crop.size}")


def new_batch(layout: Layout, plan: BatchPlan) -> Batch:
    """Returns a batch in memory of its own, to be filled."""
    steps = {name: steps for name, (_, steps) in plan.crops.items()}
    images = {
        name: np.empty(shape, dtype) for name, shape, dtype in _images(layout, len(plan.rows))
    }
    return Batch(np.asarray(plan.rows, np.int64), steps, images)


def _images(layout: Layout, count: int) -> list[tuple[str, tuple[int, ...], Any]]:
    stored = [] if layout.stored is None else [(STORED, (count, *layout.stored, 3), np.uint8)]
    return stored + [
        (name, (count * crop.draws, *crop.size, 3), crop.dtype)
        for name, crop in layout.crops.items()
    ]


def _places(layout: Layout) -> tuple[list[tuple[int, tuple[int, ...], np.dtype]], int]:
    """Returns offset, shape and dtype of rows, steps and images in a block, and its bytes."""
    arrays = [
        ((layout.count,), np.int64),
        *(((layout.count, crop.draws, len(crop.methods), STEP), np.int32)
          for crop in layout.crops.values()),
        *((shape, dtype) for _, shape, dtype in _images(layout, layout.count)),
    ]
    places, end = [], 0
    for shape, dtype in arrays:
        places.append((end, shape, np.dtype(dtype)))
        end += -(-math.prod(shape) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
    return places, max(end, _ALIGNMENT)  # a file without bytes cannot be mapped


def block_bytes(layout: Layout) -> int:
    """Returns the bytes of a block of memory that holds a batch."""
    return _places(layout)[1]


def batch_in(layout: Layout, block: np.ndarray) -> Batch:
    """Returns the batch of `layout.count` rows that lies in a block, `u8[block_bytes]`."""
    views = [
        np.ndarray(shape, dtype, block, offset) for offset, shape, dtype in _places(layout)[0]
    ]
    rows, steps, images = views[0], views[1 : 1 + len(layout.crops)], views[1 + len(layout.crops) :]
    names = [name for name, _, _ in _images(layout, 0)]
    return Batch(
        rows, dict(zip(layout.crops, steps, strict=True)), dict(zip(names, images, strict=True))
    )


def fill(reader: Any, layout: Layout, batch: Batch, start: int, stop: int) -> None:
    """Reads the images start..stop-1 of a batch, each once, and cuts their crops into place.

    Args:
      reader: of the split; its `image(row)` is used if it has one, otherwise its `read(rows)`.
      layout: of the batch.
      batch: whose images are written.
      start: first position in the batch.
      stop: one after the last.

    Raises:
      DataError: an image is corrupt.
    """
    if not layout.crops:
        rows, places = np.unique(batch.rows[start:stop], return_inverse=True)
        if len(rows) == stop - start:
            batch.images[STORED][start:stop] = reader.read(batch.rows[start:stop])
        else:  # what fills up the last batch of an evaluation is read once
            batch.images[STORED][start:stop] = reader.read(rows)[places]
        return
    image, shown = None, None
    for position in range(start, stop):
        row = int(batch.rows[position])
        if row != shown:
            image, shown = _image(reader, row), row
        if layout.stored is not None:
            batch.images[STORED][position] = np.asarray(image)
        for name, crop in layout.crops.items():
            for draw, steps in enumerate(batch.steps[name][position]):
                batch.images[name][position * crop.draws + draw] = cut(image, steps, crop.methods)


def _image(reader: Any, row: int) -> Image.Image:
    if callable(getattr(reader, "image", None)):
        return reader.image(row)
    return Image.fromarray(reader.read(np.array([row]))[0])
