"""What the pixels of a resized line are made of: tables worked out on the host.

The weights of a line depend only on its lengths before and after. They are worked out in double
precision for Pillow and in single for TensorFlow, and stored as tables by length, so that a box
whose edges are traced only looks its row up. A table takes longest side * output side * weights of
a pixel * 4 bytes: 20 KB from and to 32 pixels, 5 MB from 500 to 224 (bicubic).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.images.tensorflow_resize import ResizeWeights, tensorflow_weights

BITS = 22
_LARGEST_TABLE = 64 << 20


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1, 1 - x, 0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    a = -0.5
    near_part = ((a + 2) * x - (a + 3)) * x * x + 1
    far_part = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near_part, np.where(x < 2, far_part, 0))


FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
VERSIONS = {"tf1": 1, "tf2": 2}


def pillow_weights(length: int, out: int, method: str) -> ResizeWeights:
    """Computes the weights of one line, as Pillow does.

    Args:
      length: of the line before, in pixels.
      out: its length after, in pixels.
      method: "bilinear" or "bicubic", both with antialiasing.

    Returns:
      `i32[out]` and `i32[out,count]`.

    Source: `ImagingResample` of Pillow, 8 bits per channel.
    """
    function, reach = FILTERS[method]
    scale = length / out
    wide = max(scale, 1.0)
    support = reach * wide
    count = math.ceil(support) * 2 + 1
    centre = (np.arange(out) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int32), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int32), length)
    place = first[:, None] + np.arange(count)
    weight = function(np.abs((place - centre[:, None] + 0.5) * (1.0 / wide)))
    weight = np.where(place < end[:, None], weight, 0.0)
    # One after another, as Pillow adds them up.
    total = functools.reduce(np.add, weight.T)
    scaled = weight / total[:, None] * (1 << BITS)
    return ResizeWeights(first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32))


def _weights(length: int, out: int, kind: str) -> ResizeWeights:
    """Computes the weights of one line, by any kind of resizing."""
    if kind in FILTERS:
        return pillow_weights(length, out, kind)
    return tensorflow_weights(length, out, VERSIONS[kind])


@functools.lru_cache(maxsize=32)
def weight_table(longest: int, out: int, kind: str) -> ResizeWeights:
    """Stacks the weights of all lengths up to the longest.

    Args:
      longest: length before, in pixels.
      out: length after, in pixels.
      kind: "bilinear" or "bicubic" for Pillow's, "tf1" or "tf2" for TensorFlow's bicubic.

    Returns:
      `[longest+1,out]` and `[longest+1,out,count]`; row 0 is empty.

    Raises:
      ArgumentError: the table would take more than 64 MiB.
    """
    count = _weights(longest, out, kind).weight.shape[1]
    if (longest + 1) * out * count * 4 > _LARGEST_TABLE:
        raise ArgumentError(
            f"the table of boxes of up to {longest} pixels resized to {out} takes more than "
            f"{_LARGEST_TABLE >> 20} MiB", "store them smaller, or set data.crop=host"
        )
    first = np.zeros((longest + 1, out), np.int32)
    weight = np.zeros((longest + 1, out, count), np.float32 if kind in VERSIONS else np.int32)
    for length in range(1, longest + 1):
        row = _weights(length, out, kind)
        first[length], weight[length, :, : row.weight.shape[1]] = row
    return ResizeWeights(first, weight)
