"""What the pixels of a resized line are made of: tables worked out on the host.

The weights of a line depend only on its lengths before and after. They are worked out in double
precision for Pillow and in single for TensorFlow, and stored as tables by length, so that a box
whose edges are traced only looks its row up. A table takes longest side * output side * weights * 4
bytes: 20 KB from and to 32 pixels, 5 MB from 500 to 224 (bicubic).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from kdaug_jax.errors import ArgumentError

BITS = 22
_LARGEST_TABLE = 64 << 20


class ResizeWeights(NamedTuple):
    """What the pixels of a resized line are made of.

    Attributes:
      first: `i32[...,out]`, the first input pixel of each.
      weight: `[...,out,count]`, weights of it and of those after it: `i32`, in units of 2^-22, for
        Pillow; `f32` for TensorFlow, whose input pixels beyond an edge are those at the edge.
    """

    first: np.ndarray
    weight: np.ndarray


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
    """Works out the weights of one line, as Pillow does.

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


def tensorflow_weights(length: int, out: int, version: Literal[1, 2]) -> ResizeWeights:
    """Works out the bicubic weights of one line, as TensorFlow does, without antialiasing.

    Args:
      length: of the line before, in pixels.
      out: its length after, in pixels.
      version: 1, corners of pixels meet and a = -0.75, as `tf.compat.v1.image.resize_bicubic`;
        2, centres of pixels meet, a = -0.5 and what lies outside is left out, as
        `tf.image.resize`.

    Returns:
      `i32[out]` and `f32[out,4]`.

    Source: `resize_bicubic_op.cc` of TensorFlow, whose weights are a table of 1,024 steps.
    """
    scale = np.float32(length) / np.float32(out)
    line = np.arange(out, dtype=np.float32)
    half = np.float32(0.5 if version == 2 else 0.0)
    place = (line + half) * scale - half
    below = np.floor(place)
    step = np.rint((place - below) * np.float32(1024)).astype(np.int32)
    a = -0.5 if version == 2 else -0.75
    x = np.arange(1025, dtype=np.float32) / np.float32(1024)
    inner = (((a + 2) * x.astype(float) - (a + 3)) * x * x + 1).astype(np.float32)
    y = x.astype(float) + 1
    outer = (((a * y - 5 * a) * y + 8 * a) * y - 4 * a).astype(np.float32)
    weight = np.stack([outer[step], inner[step], inner[1024 - step], outer[1024 - step]], -1)
    first = below.astype(np.int32) - 1
    if version == 2:
        index = first[:, None] + np.arange(4)
        weight = np.where((index >= 0) & (index < length), weight, np.float32(0))
        weight = weight * (np.float32(1) / functools.reduce(np.add, weight.T))[:, None]
    return ResizeWeights(first, weight)


def _weights(length: int, out: int, kind: str) -> ResizeWeights:
    """Works out the weights of one line, by any kind of resizing."""
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
            f"{_LARGEST_TABLE >> 20} MiB; the images must be stored smaller"
        )
    first = np.zeros((longest + 1, out), np.int32)
    weight = np.zeros((longest + 1, out, count), np.float32 if kind in VERSIONS else np.int32)
    for length in range(1, longest + 1):
        row = _weights(length, out, kind)
        first[length], weight[length, :, : row.weight.shape[1]] = row
    return ResizeWeights(first, weight)
