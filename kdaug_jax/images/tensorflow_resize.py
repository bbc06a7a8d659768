"""TensorFlow's bicubic resizing: its weights, for the host and for devices, and images on the host.

Weights are worked out by NumPy for one length before and one after. Sums are of float32; see
`arithmetic.product` for why the host's are those of all devices.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from kdaug_jax.images.arithmetic import product, split

_ROWS = 16  # resized at a time, so that what is summed stays in the cache


class ResizeWeights(NamedTuple):
    """What the pixels of a resized line are made of.

    Attributes:
      first: `i32[...,out]`, the first input pixel of each.
      weight: `[...,out,count]`, weights of it and of those after it: `i32`, in units of 2^-22, for
        Pillow; `f32` for TensorFlow, whose input pixels beyond an edge are those at the edge.
    """

    first: np.ndarray
    weight: np.ndarray


@functools.lru_cache(maxsize=1024)
def tensorflow_weights(length: int, out: int, version: Literal[1, 2]) -> ResizeWeights:
    """Computes the bicubic weights of one line, as TensorFlow does, without antialiasing.

    Args:
      length: of the line before, in pixels.
      out: its length after, in pixels.
      version: 1, corners of pixels meet and a = -0.75, as `tf.compat.v1.image.resize_bicubic`;
        2, centres of pixels meet, a = -0.5 and what lies outside is left out, as
        `tf.image.resize`.

    Returns:
      `i32[out]` and `f32[out,4]`, kept for the next call.

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


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an image as TensorFlow 1's bicubic does, on the host: rows, then columns.

    Args:
      pixels: `u8[H,W,C]`.
      height: of the result in pixels.
      width: of the result in pixels.

    Returns:
      `f32[height,width,C]`, not limited to 0..255; bit for bit what
      `augment.resize_tensorflow` returns.
    """
    rows, columns, channels = pixels.shape
    lines = _resize_lines(
        (pixels.reshape(rows, -1).astype(np.float32),), rows, height
    ).reshape(height, columns, channels)
    turned = np.ascontiguousarray(lines.swapaxes(0, 1)).reshape(columns, -1)
    resized = _resize_lines(split(turned), columns, width)
    return resized.reshape(width, height, channels).swapaxes(0, 1)


def _resize_lines(parts: Sequence[np.ndarray], length: int, out: int) -> np.ndarray:
    """Resizes the first axis of `f32[length,N]`, given as parts of 12 bits, to `f32[out,N]`."""
    first, weight = tensorflow_weights(length, out, 1)
    place = np.clip(first[:, None] + np.arange(4), 0, length - 1)
    resized = np.zeros((out, parts[0].shape[1]), np.float32)
    for start in range(0, out, _ROWS):
        rows = slice(start, start + _ROWS)
        for number in range(4):
            lines = [part[place[rows, number]] for part in parts]
            resized[rows] += product(lines, (weight[rows, number, None],))
    return resized


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Limits `f32[H,W,C]` to 0..255 and cuts fractions off: `u8[H,W,C]`."""
    return np.clip(image, 0, 255).astype(np.uint8)
