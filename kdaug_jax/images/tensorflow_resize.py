"""TensorFlow's bicubic resizing: its weights, for the host and for devices, and images on the host.

Weights are worked out by NumPy for one length before and one after. Sums are of float32; see
`arithmetic.product` for why the host's are those of all devices. The host multiplies by sparse
matrices of SciPy, which gather pixels, weigh and add them in one pass over numbers that stay in the
cache; NumPy would take five, at half the speed.
"""

from __future__ import annotations

import functools
import math
import operator
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kdaug_jax.images.arithmetic import UPPER_BITS

if TYPE_CHECKING:
    import scipy.sparse

_ROWS, _COLUMNS = 112, 128  # of the result at a time: few calls, and sums that stay in the cache
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


class _Rows(NamedTuple):
    """What some rows of a resized image are made of.

    Attributes:
      part: which rows they are.
      needed: `i[M]`, the rows of the image that they are made of, in order.
      matrix: `[n*count,M]`, sparse; the sum of the n products is that of the rows.
    """

    part: slice
    needed: np.ndarray
    matrix: scipy.sparse.csr_array


class _Columns(NamedTuple):
    """What some columns of a resized image are made of.

    Attributes:
      part: which columns they are.
      matrix: `[4*n*count,2*W]`, sparse, of columns in two parts; the sum of the n products is that
        of both parts of a neighbour times its weight, and their sum over the four is the columns.
    """

    part: slice
    matrix: scipy.sparse.csr_array


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
    rounds = rounds_products()
    row_blocks, column_blocks = _rows(rows, height, rounds), _columns(columns, width, rounds)
    source, parts = _room(
        (max(len(block.needed) for block in row_blocks), columns * 3),
        (2 * columns * 3 * min(_ROWS, height),),
    )
    result = np.empty((height, width, 3), dtype)
    for block in row_blocks:
        count = block.part.stop - block.part.start
        lines = source[: len(block.needed)]
        lines[:] = pixels[block.needed].reshape(lines.shape)
        total = _sum((block.matrix @ lines).reshape(-1, count, columns, 3))
        # Columns come first, so that a pixel of each row of the block is one piece of memory.
        lines = parts[: 2 * columns * 3 * count].reshape(2 * columns, 3 * count)
        upper, lower = lines[:columns], lines[columns:]
        lower.reshape(columns, 3, count)[:] = total.transpose(1, 2, 0)
        # What follows is `arithmetic.split`, in place.
        np.bitwise_and(lower.view(np.uint32), UPPER_BITS, out=upper.view(np.uint32))
        lower -= upper
        for part, matrix in column_blocks:
            terms = (matrix @ lines).reshape(4, -1, part.stop - part.start, 3, count)
            total = _sum(map(_sum, terms))
            if result.dtype == np.uint8:
                np.clip(total, 0, 255, out=total)
            result[block.part, part] = total.astype(dtype, copy=False).transpose(2, 0, 1)
    return result


@functools.cache
def rounds_products() -> bool:
    """Returns whether SciPy rounds each product before it is added.

    Builds for x86-64 do. A compiler for another processor may merge the two roundings; then each
    product is to be a row of its matrix, and NumPy adds them: the same numbers, at half the speed.
    """
    weights, numbers = np.random.default_rng(0).standard_normal((2, 4, 67), np.float32)
    products = _matrix(np.arange(4)[:, None], weights[:, :1], 4, 4) @ numbers
    return products.tobytes() == _sum(weights[:, :1] * numbers).tobytes()


def _matrix(
    places: np.ndarray, weights: np.ndarray, summands: int, length: int
) -> scipy.sparse.csr_array:
    """Returns a sparse matrix `[n/summands*out,length]` that weighs and adds items of a line.

    Args:
      places: `i[n,out]`, the n items that each number of the result is made of.
      weights: `f32[n,out]`.
      summands: how many of the n are added, one after another; 1 to n.
      length: of the line.
    """
    import scipy.sparse  # takes as long as all else that a worker process imports

    data, indices = (
        np.ascontiguousarray(
            item.reshape(-1, summands, item.shape[1]).transpose(0, 2, 1)
        ).reshape(-1)
        for item in np.broadcast_arrays(weights, places.astype(np.int32))
    )
    ends = np.arange(0, len(data) + 1, summands, dtype=np.int32)
    return scipy.sparse.csr_array((data, indices, ends), shape=(len(ends) - 1, length))


@functools.lru_cache(maxsize=1024)
def _rows(height: int, out: int, rounds: bool) -> tuple[_Rows, ...]:
    """Returns what `out` rows are made of, some at a time."""
    blocks = []
    for part in _pieces(out, _ROWS):
        places, weights = (array[:, part] for array in _neighbours(height, out))
        needed, inverse = np.unique(places, return_inverse=True)
        matrix = _matrix(inverse.reshape(places.shape), weights, 4 if rounds else 1, len(needed))
        blocks.append(_Rows(part, needed, matrix))
    return tuple(blocks)


@functools.lru_cache(maxsize=1024)
def _columns(width: int, out: int, rounds: bool) -> tuple[_Columns, ...]:
    """Returns what `out` columns are made of, some at a time."""
    places, weights = _neighbours(width, out)
    places, weights = np.repeat(places, 2, axis=0), np.repeat(weights, 2, axis=0)
    places[1::2] += width  # the second part
    return tuple(
        _Columns(
            part, _matrix(places[:, part], weights[:, part], 2 if rounds else 1, 2 * width)
        )
        for part in _pieces(out, _COLUMNS)
    )


def _pieces(length: int, most: int) -> list[slice]:
    """Returns the pieces of a line, of at most so many pixels."""
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]


def _sum(terms: Iterable[np.ndarray]) -> np.ndarray:
    """Adds arrays from the first to the last, in the memory of the first."""
    return functools.reduce(operator.iadd, terms)


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
