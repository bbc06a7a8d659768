"""Resizing of images and of boxes within them, pixel for pixel that of Pillow, and TensorFlow's.

Pillow makes two passes in whole numbers with bytes between them, which the device repeats exactly.
TensorFlow's bicubic is in float32; here its sums are written so that all devices agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic import one_hot
from kdaug_jax.augment.arithmetic.resize_weights import (
    BITS,
    FILTERS,
    pillow_weights,
    weight_table,
)
from kdaug_jax.augment.ops.checks import check_image, check_number, is_host
from kdaug_jax.augment.ops.resample import premultiply, unpremultiply
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.images.arithmetic import product, split
from kdaug_jax.images.tensorflow_resize import ResizeWeights, tensorflow_weights
from kdaug_jax.runtime.platform import target_platform

Method = Literal["bilinear", "bicubic"]
Size = tuple[int, int]


class Line(NamedTuple):
    """How one axis is resized: the part of it that is seen, and the weights.

    Attributes:
      weights: of `length` pixels, `[out]` and `[out,count]`.
      start: `i32[]`, first pixel seen.
      length: `i32[]`, number of pixels seen.
    """

    weights: ResizeWeights
    start: ArrayLike
    length: ArrayLike


def _product(value: jax.Array, share: jax.Array) -> jax.Array:
    """Multiplies pixels by weights exactly; bytes have 8 bits, so they need no lower part."""
    parts = split(value) if value.dtype == jnp.float32 else (value.astype(jnp.float32),)
    return product(parts, split(share))


def _down(lines: jax.Array, line: Line) -> jax.Array:
    """Resizes the first axis of `[N,...]`: to bytes with whole weights, to float32 with others."""
    first, weight = jnp.asarray(line.weights.first), jnp.asarray(line.weights.weight)
    if target_platform() == "tpu" and weight.shape[1] <= one_hot.MOST_WEIGHTS:
        return _down_by_products(lines, line, first, weight)
    whole = weight.dtype == jnp.int32
    shape = (first.shape[0], *lines.shape[1:])

    def add(number: ArrayLike, total: jax.Array) -> jax.Array:
        place = line.start + jnp.clip(first + number, 0, line.length - 1)
        value = lines.at[place].get(mode="promise_in_bounds")
        share = lax.dynamic_index_in_dim(weight, number, 1).reshape(-1, 1, 1)
        if whole:
            return total + value.astype(jnp.int32) * share
        return total + _product(value, share)

    zero = jnp.full(shape, 1 << (BITS - 1), jnp.int32) if whole else jnp.zeros(shape, jnp.float32)
    count = weight.shape[1]
    # A loop that stays a loop: unrolled, XLA computes one pass anew for each weight of the next.
    total = lax.fori_loop(0, count, add, zero)
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8) if whole else total


def _down_by_products(
    lines: jax.Array, line: Line, first: jax.Array, weight: jax.Array
) -> jax.Array:
    """Does what `_down` does with matrix products instead of gathers, which TPUs are slow at."""
    if weight.dtype == jnp.int32:
        # Weights beyond the line are 0, so nothing is taken from outside the box.
        total = one_hot.weighted_sums(lines, line.start + first, weight)
        return jnp.clip((total + (1 << (BITS - 1))) >> BITS, 0, 255).astype(jnp.uint8)
    total = jnp.zeros((first.shape[0], *lines.shape[1:]), jnp.float32)
    for number in range(weight.shape[1]):
        place = line.start + jnp.clip(first + number, 0, line.length - 1)
        share = weight[:, number].reshape(-1, 1, 1)
        total = total + _product(one_hot.pick(lines, place), share)
    return total


def _across(image: jax.Array, line: Line) -> jax.Array:
    """Resizes the second axis."""
    return _down(image.swapaxes(0, 1), line).swapaxes(0, 1)


def _down_first(lost_rows: ArrayLike, lost_columns: ArrayLike) -> ArrayLike:
    """Returns whether Pillow 13 resizes columns first, a rule that held in all of 7,000 trials."""
    return (lost_rows > 0) & (lost_rows > 2 * lost_columns)


def resize(image: jax.Array, size: Size, method: Method = "bilinear") -> jax.Array:
    """Resizes a whole image, with antialiasing where it shrinks.

    Args:
      image: `u8[H,W,C]`; with C = 4 the colours are weighted by alpha.
      size: height and width of the result in pixels.
      method: "bilinear" or "bicubic".

    Returns:
      `u8[size[0],size[1],C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, or an unknown method.

    Source: `Image.resize` of Pillow 13.
    """
    height, width, channels = check_image(image)
    _check(size, method)
    if (height, width) == tuple(size):
        return jnp.asarray(image)
    rows = Line(pillow_weights(height, size[0], method), 0, height)
    columns = Line(pillow_weights(width, size[1], method), 0, width)
    source = premultiply(image) if channels == 4 else jnp.asarray(image)
    if _down_first(height - size[0], width - size[1]):
        resized = _across(_down(source, rows), columns)
    else:
        resized = _down(_across(source, columns), rows)
    return unpremultiply(resized) if channels == 4 else resized


def resize_box(
    image: jax.Array,
    top: ArrayLike,
    left: ArrayLike,
    height: ArrayLike,
    width: ArrayLike,
    size: Size,
    method: Method = "bilinear",
) -> jax.Array:
    """Cuts a box out of an image and resizes it, as if it were an image of its own.

    Args:
      image: `u8[H,W,C]`; with C = 4 the colours are weighted by alpha.
      top: `i32[]`, first row of the box; may be traced, like the next three.
      left: `i32[]`, first column.
      height: `i32[]`, 1..H-top rows.
      width: `i32[]`, 1..W-left columns.
      size: height and width of the result in pixels.
      method: "bilinear" or "bicubic".

    Returns:
      `u8[size[0],size[1],C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, the box reaches beyond it, an unknown method, or
        the table of weights would take more than 64 MiB.

    Source: `Image.crop` and `Image.resize` of Pillow 13.
    """
    check_image(image)
    _check(size, method)
    check_box(image, top, left, height, width)
    source, finish = _weighted(jnp.asarray(image), (height == size[0]) & (width == size[1]))
    rows, columns = _lines(image, top, left, height, width, size, method)
    if size[0] >= image.shape[0]:
        resized = _down(_across(source, columns), rows)
    else:
        turn = _down_first(rows.length - size[0], columns.length - size[1])
        resized = _either_first(source, rows, columns, turn)[: size[0], : size[1]]
    return finish(resized)


def _weighted(
    image: jax.Array, same: ArrayLike
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Weighs colours by alpha if there is one, and returns a function that undoes it.

    Where the size stays the `same` Pillow copies, without the loss of going there and back.
    """
    if image.shape[2] != 4:
        return image, lambda resized: resized
    return jnp.where(same, image, premultiply(image)), lambda resized: jnp.where(
        same, resized, unpremultiply(resized)
    )


def _lines(
    image: jax.Array,
    top: ArrayLike,
    left: ArrayLike,
    height: ArrayLike,
    width: ArrayLike,
    size: Size,
    kind: str,
) -> tuple[Line, Line]:
    """Looks the weights of a box up: how rows are resized, and how columns are."""

    def line(axis: int, start: ArrayLike, length: ArrayLike) -> Line:
        table = weight_table(image.shape[axis], size[axis], kind)
        length = jnp.asarray(length, jnp.int32)
        weights = jax.tree.map(lambda rows: jnp.asarray(rows)[length], table)
        return Line(weights, jnp.asarray(start, jnp.int32), length)

    return line(0, top, height), line(1, left, width)


def _padded(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Appends zeros along each axis up to a shape."""
    return lax.pad(
        array,
        jnp.zeros((), array.dtype),
        [(0, most - now, 0) for now, most in zip(array.shape, shape, strict=True)],
    )


def _either_first(image: jax.Array, rows: Line, columns: Line, turn: jax.Array) -> jax.Array:
    """Resizes columns first where `turn` is set, which is rows first with the image on its side.

    A branch would compute both under vmap; here only the smaller pieces are chosen from two.

    Returns:
      `u8[M,M,C]`, M the larger side of the result, which lies in its upper left corner.
    """
    side = max(image.shape[:2])
    image = _padded(image, (side, side, image.shape[2]))

    def chosen(yes: jax.Array, no: jax.Array) -> jax.Array:
        shape = tuple(map(max, yes.shape, no.shape))
        return jnp.where(turn, _padded(yes, shape), _padded(no, shape))

    first, second = jax.tree.map(chosen, rows, columns), jax.tree.map(chosen, columns, rows)
    image = jnp.where(turn, image.swapaxes(0, 1), image)
    resized = _down(_across(image, first), second)
    return jnp.where(turn, resized.swapaxes(0, 1), resized)


def resize_tensorflow(image: jax.Array, size: Size, version: Literal[1, 2] = 1) -> jax.Array:
    """Resizes a whole image as TensorFlow's bicubic does, without antialiasing.

    Args:
      image: `u8[H,W,C]`.
      size: height and width of the result in pixels.
      version: 1 for `tf.compat.v1.image.resize_bicubic`, which the EfficientNet code uses; 2 for
        `tf.image.resize`, method "bicubic".

    Returns:
      `f32[size[0],size[1],C]`, not limited to 0..255; see `to_bytes`. The same on all devices,
      and within 1e-3 of TensorFlow's.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, or an unknown version.
    """
    height, width, _ = check_image(image)
    _check(size)
    if version not in (1, 2):
        raise ArgumentError(f"version={version}", "must be 1 or 2")
    rows = Line(tensorflow_weights(height, size[0], version), 0, height)
    columns = Line(tensorflow_weights(width, size[1], version), 0, width)
    return _across(_down(jnp.asarray(image), rows), columns)


def resize_box_tensorflow(
    image: jax.Array,
    top: ArrayLike,
    left: ArrayLike,
    height: ArrayLike,
    width: ArrayLike,
    size: Size,
    version: Literal[1, 2] = 1,
) -> jax.Array:
    """Cuts a box out of an image and resizes it as TensorFlow's bicubic does.

    Args:
      image: `u8[H,W,C]`.
      top: `i32[]`, first row of the box; may be traced, like the next three.
      left: `i32[]`, first column.
      height: `i32[]`, 1..H-top rows.
      width: `i32[]`, 1..W-left columns.
      size: height and width of the result in pixels.
      version: see `resize_tensorflow`.

    Returns:
      `f32[size[0],size[1],C]`, not limited to 0..255.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, the box reaches beyond it, or an unknown version.
    """
    check_image(image)
    _check(size)
    if version not in (1, 2):
        raise ArgumentError(f"version={version}", "must be 1 or 2")
    check_box(image, top, left, height, width)
    rows, columns = _lines(image, top, left, height, width, size, f"tf{version}")
    return _across(_down(jnp.asarray(image), rows), columns)


def to_bytes(image: jax.Array) -> jax.Array:
    """Limits `f32[H,W,C]` to 0..255 and cuts fractions off: `u8[H,W,C]`."""
    return jnp.clip(image, 0, 255).astype(jnp.int32).astype(jnp.uint8)


def check_box(
    image: jax.Array, top: ArrayLike, left: ArrayLike, height: ArrayLike, width: ArrayLike
) -> None:
    """Validates that a box lies inside an image; traced edges cannot be looked at.

    Args:
      image: `u8[H,W,C]`.
      top: `i32[]`, first row.
      left: `i32[]`, first column.
      height: `i32[]`, rows.
      width: `i32[]`, columns.

    Raises:
      TypeError: not numbers.
      ArgumentError: out of range.
    """
    names = (("height", height, "top", top), ("width", width, "left", left))
    for side, (length_name, length, start_name, start) in zip(image.shape, names, strict=False):
        check_number(length_name, length, 1, side, whole=True)
        left_over = side - length if is_host(length) else side - 1
        check_number(start_name, start, 0, left_over, whole=True)


def _check(size: Size, method: str = "bilinear") -> None:
    if len(size) != 2 or min(size) < 1:
        raise ArgumentError(f"size={size}", "must be (height, width) in pixels")
    if method not in FILTERS:
        raise ArgumentError(f"method={method!r}", suggest(str(method), FILTERS))
