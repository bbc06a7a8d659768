"""TensorFlow's bicubic resizing: its weights, for the host and for devices, and images on the host.

Weights are worked out by NumPy for one length before and one after. Sums are of float32; see
`arithmetic.product` for why the host's are those of all devices.
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kdaug_jax.images.arithmetic import UPPER_BITS

_ROWS = 112  # resized at a time: few calls of NumPy, and sums that stay in the cache
_MOST_KEPT = 1 << 22  # float32 numbers, 16 MiB for each thread
_NONE = np.empty(0, np.float32)
_memory = threading.local()


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


def resize(
    pixels: np.ndarray, height: int, width: int, dtype: npt.DTypeLike = np.float32
) -> np.ndarray:
    """Resizes an image as TensorFlow 1's bicubic does, on the host: rows, then columns.

    Args:
      pixels: `u8[H,W,3]`.
      height: of the result in pixels.
      width: of the result in pixels.
      dtype: float32, or uint8 for numbers limited to 0..255 and cut off.

    Returns:
      `f32[height,width,3]`, not limited to 0..255, or `u8[height,width,3]`; bit for bit what
      `augment.resize_tensorflow` returns, and `augment.to_bytes` of it.
    """
    rows, columns, _ = pixels.shape
    row_places, row_weights = _neighbours(rows, height)
    column_places, column_weights = _neighbours(columns, width)
    column_weights = np.repeat(column_weights, 4, axis=1)  # one for each channel
    tall = min(_ROWS, height)
    blocks = [slice(start, min(start + tall, height)) for start in range(0, height, tall)]
    used = [np.unique(row_places[:, block], return_inverse=True) for block in blocks]
    # A fourth channel makes a pixel of float32 one item of 16 bytes, see `_sum_columns`.
    source, parts, terms, total = _room(
        (max(len(rows) for rows, _ in used), columns, 4), (2, tall, columns * 4),
        (2, tall, width * 4), (tall, width * 4),
    )
    source[..., 3] = 0
    lines = source.reshape(len(source), -1)
    result = np.empty((height, width, 3), dtype)
    for block, (needed, places) in zip(blocks, used, strict=True):
        seen = pixels[needed]
        for channel in range(3):  # in one assignment NumPy copies three bytes at a time
            source[: len(needed), :, channel] = seen[..., channel]
        count = block.stop - block.start
        parts, terms, total = (room[..., :count, :] for room in (parts, terms, total))
        _sum_rows(lines, places.reshape(4, count), row_weights[:, block], *parts)
        parts[1] = parts[0]  # what follows is `split`, in place
        upper_bits = parts[0].view(np.uint32)
        upper_bits &= UPPER_BITS
        parts[1] -= parts[0]
        _sum_columns(parts, column_places, column_weights, terms, total)
        if result.dtype == np.uint8:
            np.clip(total, 0, 255, out=total)
        for channel in range(3):
            result[block, :, channel] = total[:, channel::4]
    return result


def _room(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Returns `f32` arrays in memory that this thread uses again and again.

    Large arrays that come and go would cost as much as the sums, in page faults. Those of huge
    images are not kept.
    """
    counts = [math.prod(shape) for shape in shapes]
    floats = getattr(_memory, "floats", _NONE)
    if floats.size < sum(counts):
        floats = np.empty(sum(counts), np.float32)
        if floats.size <= _MOST_KEPT:
            _memory.floats = floats
    pieces = np.split(floats[: sum(counts)], np.cumsum(counts)[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _neighbours(length: int, out: int) -> ResizeWeights:
    """Returns the four pixels that each pixel of a line is made of, and weights: `[4,out]` both."""
    first, weight = tensorflow_weights(length, out, 1)
    places = np.clip(first + np.arange(4, dtype=np.int32)[:, None], 0, length - 1)
    return ResizeWeights(places, np.ascontiguousarray(weight.T))


def _sum_rows(
    lines: np.ndarray, places: np.ndarray, weights: np.ndarray, total: np.ndarray, term: np.ndarray
) -> None:
    """Writes the weighted sums of lines `f32[N,M]` to `total` `f32[out,M]`; `term` is room."""
    total[:] = 0
    for place, weight in zip(places, weights, strict=True):
        np.take(lines, place, axis=0, out=term, mode="clip")
        term *= weight[:, None]
        total += term


def _sum_columns(
    parts: np.ndarray, places: np.ndarray, weights: np.ndarray, terms: np.ndarray,
    total: np.ndarray,
) -> None:
    """Writes the weighted sums along lines to `total` `f32[N,out*4]`.

    `product` with y in one part, in place: `parts` are `f32[2,N,M*4]`, and `terms` is room for as
    many of `out` pixels. A pixel of four float32 is taken as one item of 16 bytes.
    """
    pixels, taken = parts.view(np.complex128), terms.view(np.complex128)
    total[:] = 0
    for place, weight in zip(places, weights, strict=True):
        np.take(pixels, place, axis=-1, out=taken, mode="clip")
        terms *= weight
        terms[0] += terms[1]
        total += terms[0]
