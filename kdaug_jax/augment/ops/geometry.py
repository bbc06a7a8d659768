"""Affine maps, pixel for pixel those of Pillow: rotation, shears and translations.

Nearest-neighbour maps are in whole numbers: the coefficients are 16.16 fixed-point numbers
computed on the host in double precision, so the device only adds, multiplies and shifts int32
numbers and all backends give the same pixels. Bilinear and bicubic maps are in `resample`.
Coefficients map output to input: positive translations move the content left or up.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.ops.checks import check_fill, check_host, check_image
from kdaug_jax.augment.ops.kernel import Context, Row
from kdaug_jax.augment.ops.resample import affine_bicubic, affine_bilinear, exact_coefficients
from kdaug_jax.errors import ArgumentError, suggest

Matrix = tuple[float, float, float, float, float, float]
Method = Literal["nearest", "bilinear", "bicubic"]
_INTERPOLATED = {"bilinear": affine_bilinear, "bicubic": affine_bicubic}
_ONE = 1 << 16


def affine_coefficients(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    """Returns x = a x' + b y' + c, y = d x' + e y' + f at pixel centres, in 16.16 fixed point.

    Args:
      a: input columns per output column.
      b: input columns per output row.
      c: first input column, in pixels.
      d: input rows per output column.
      e: input rows per output row.
      f: first input row, in pixels.

    Returns:
      `i32[6]`, for `affine_nearest`.

    Raises:
      ArgumentError: a coefficient is 32768 or more in size, which 16.16 does not hold.

    Source: `ImagingTransform`, method AFFINE, filter NEAREST, of Pillow.
    """
    if (a, b, d, e) == (1, 0, 0, 1):
        # Pillow moves by whole pixels without fixed point; fractions below 2^-16 would differ.
        c, f = math.floor(c + 0.5), math.floor(f + 0.5)
    exact = (a, b, c + 0.5 * a + 0.5 * b, d, e, f + 0.5 * d + 0.5 * e)
    if max(map(abs, exact)) >= 1 << 15:
        raise ArgumentError(f"affine coefficients {exact} reach beyond 32768 pixels")
    return np.array([math.floor(value * _ONE + 0.5) for value in exact], np.int32)


def affine_nearest(image: jax.Array, coefficients: ArrayLike, fill: ArrayLike) -> jax.Array:
    """Maps an image, taking the nearest input pixel, or `fill` outside the image.

    Args:
      image: `u8[H,W,C]`.
      coefficients: `i32[6]`, from `affine_coefficients`; may be traced.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`.
    """
    height, width, channels = check_image(image)
    check_fill(fill, channels)
    pixel, inside = nearest_pixels(coefficients, height, width)
    return take_pixels(jnp.asarray(image), pixel, inside, jnp.asarray(fill, jnp.uint8))


def nearest_pixels(
    coefficients: ArrayLike, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the input pixel of each output pixel.

    Args:
      coefficients: `i32[6]`, from `affine_coefficients`; may be traced.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      `i32[H,W]`, row * width + column, 0 outside the image, and `bool[H,W]`, True inside.
    """
    a, b, c, d, e, f = jnp.asarray(coefficients, jnp.int32)
    columns, rows = jnp.arange(width)[None, :], jnp.arange(height)[:, None]
    # The shift of a negative int32 rounds down, which is what keeps -0.5 outside.
    x = (a * columns + b * rows + c) >> 16
    y = (d * columns + e * rows + f) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return jnp.where(inside, y * width + x, 0), inside


def take_pixels(
    image: jax.Array, pixel: jax.Array, inside: jax.Array, fill: jax.Array
) -> jax.Array:
    """Makes an image of pixels of another.

    Args:
      image: `[H,W,...]`.
      pixel: `i32[H,W]`, row * W + column.
      inside: `bool[H,W]`, False for the fill.
      fill: `[...]`.

    Returns:
      `[H,W,...]`.
    """
    rest = image.shape[2:]
    moved = image.reshape(-1, *rest).at[pixel].get(mode="promise_in_bounds")
    inside = inside.reshape(*inside.shape, *[1] * len(rest))
    return jnp.where(inside, moved, jnp.broadcast_to(fill, moved.shape))


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Returns the map of a counter-clockwise rotation about the middle of an image.

    Args:
      degrees: angle; whole turns, and quarter turns of squares, move whole pixels.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      a, b, c, d, e, f for `affine_coefficients` or `exact_coefficients`.

    Source: `Image.rotate` of Pillow, which rounds sine and cosine to 15 decimals.
    """
    angle = -math.radians(degrees % 360)
    cos, sin, minus = (round(f, 15) for f in (math.cos(angle), math.sin(angle), -math.sin(angle)))
    x, y = width / 2, height / 2
    return cos, sin, cos * -x + sin * -y + x, minus, cos, minus * -x + cos * -y + y


def whole_turn(degrees: float, height: int, width: int) -> bool:
    """Returns whether a rotation moves whole pixels, as Pillow then does without interpolating."""
    return degrees % 180 == 0 or (degrees % 90 == 0 and height == width)


def shear_x_matrix(v: float, height: int, width: int) -> Matrix:
    """Returns the map of `shear_x`, the same for all sizes of images."""
    return 1, v, 0, 0, 1, 0


def shear_y_matrix(v: float, height: int, width: int) -> Matrix:
    """Returns the map of `shear_y`, the same for all sizes of images."""
    return 1, 0, 0, v, 1, 0


def translate_x_matrix(p: float, height: int, width: int) -> Matrix:
    """Returns the map of `translate_x`, the same for all sizes of images."""
    return 1, 0, p, 0, 1, 0


def translate_y_matrix(p: float, height: int, width: int) -> Matrix:
    """Returns the map of `translate_y`, the same for all sizes of images."""
    return 1, 0, 0, 0, 1, p


def affine(
    image: jax.Array, matrix: Matrix, fill: ArrayLike, method: Method = "nearest"
) -> jax.Array:
    """Maps an image by host numbers, x = a x' + b y' + c, y = d x' + e y' + f.

    Args:
      image: `u8[H,W,C]`.
      matrix: a to f, output to input, of pixels whose centres lie at halves.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: an unknown method, the image is not `[H,W,C]`, or too large coefficients for
        16.16 fixed point.
    """
    height, width, channels = check_image(image)
    check_fill(fill, channels)
    if method in _INTERPOLATED:
        return _INTERPOLATED[method](image, exact_coefficients(*matrix), fill)
    if method != "nearest":
        raise ArgumentError(f"method={method!r}", suggest(str(method), ("nearest", *_INTERPOLATED)))
    a, b, c, d, e, f = matrix
    for x, y in ((0, 0), (width, 0), (0, height), (width, height)):
        if max(abs(a * x + b * y + c), abs(d * x + e * y + f)) >= 1 << 15:
            raise ArgumentError(f"affine map {matrix} reaches beyond 32768 pixels")
    return affine_nearest(image, affine_coefficients(*matrix), fill)


def rotate(
    image: jax.Array, degrees: float, fill: ArrayLike, method: Method = "nearest"
) -> jax.Array:
    """Rotates an image counter-clockwise about its middle.

    Args:
      image: `u8[H,W,C]`.
      degrees: angle, a host number.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `degrees` is traced, or the image is not uint8.
      ArgumentError: an unknown method, or the image is not `[H,W,C]`.
    """
    height, width, _ = check_image(image)
    degrees = check_host("degrees", degrees) % 360
    # Pillow does not weigh colours by alpha then.
    if whole_turn(degrees, height, width) and method in _INTERPOLATED:
        method = "nearest"
    return affine(image, rotation(degrees, height, width), fill, method)


def shear_x(image: jax.Array, v: float, fill: ArrayLike, method: Method = "nearest") -> jax.Array:
    """Shifts each row to the left by `v` pixels more than the row above it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `v` is traced, or the image is not uint8.
      ArgumentError: an unknown method, or too large a `v` for 16.16 fixed point.
    """
    height, width, _ = check_image(image)
    return affine(image, shear_x_matrix(check_host("v", v), height, width), fill, method)


def shear_y(image: jax.Array, v: float, fill: ArrayLike, method: Method = "nearest") -> jax.Array:
    """Shifts each column up by `v` pixels more than the column left of it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `v` is traced, or the image is not uint8.
      ArgumentError: an unknown method, or too large a `v` for 16.16 fixed point.
    """
    height, width, _ = check_image(image)
    return affine(image, shear_y_matrix(check_host("v", v), height, width), fill, method)


def translate_x(
    image: jax.Array, p: float, fill: ArrayLike, method: Method = "nearest"
) -> jax.Array:
    """Moves the content to the left by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `p` is traced, or the image is not uint8.
      ArgumentError: an unknown method, or too large a `p` for 16.16 fixed point.
    """
    height, width, _ = check_image(image)
    return affine(image, translate_x_matrix(check_host("p", p), height, width), fill, method)


def translate_y(
    image: jax.Array, p: float, fill: ArrayLike, method: Method = "nearest"
) -> jax.Array:
    """Moves the content up by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number.
      fill: `u8[C]`, the colour of what comes in from outside.
      method: "nearest", "bilinear" or "bicubic".

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `p` is traced, or the image is not uint8.
      ArgumentError: an unknown method, or too large a `p` for 16.16 fixed point.
    """
    height, width, _ = check_image(image)
    return affine(image, translate_y_matrix(check_host("p", p), height, width), fill, method)


def nearest_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Maps packed pixels by the matrix of a row, in the arithmetic of any variant."""
    pixel, inside = context.arithmetic.pixels(row, *packed.shape)
    return take_pixels(packed, pixel, inside, context.packed_fill)
