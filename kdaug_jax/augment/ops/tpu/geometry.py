"""The affine maps of the EfficientNet code for TPUs.

They differ from Pillow's in three ways: coordinates are float32 numbers of whole pixels, not of
their middles; they are rounded to the nearest pixel, halves away from zero; and a rotation turns
about the middle pixel. Outside the image that code fills with 128.

Source: `autoaugment.py` of Tan and Le 2019 (EfficientNet), tensorflow/tpu, and
`contrib.image.transform` of TensorFlow 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.ops.blending import split
from kdaug_jax.augment.ops.checks import check_fill, check_host, check_image
from kdaug_jax.augment.ops.geometry import (
    shear_x_matrix,
    shear_y_matrix,
    take_pixels,
    translate_x_matrix,
    translate_y_matrix,
)


def nearest(x: jax.Array) -> jax.Array:
    """Rounds `f32[...]` to `i32[...]`, halves away from zero."""
    size = jnp.minimum(jnp.abs(x), 1e6)
    whole = jnp.floor(size)
    rounded = (whole + jnp.where(size - whole >= 0.5, 1.0, 0.0)).astype(jnp.int32)
    return jnp.where(x < 0, -rounded, rounded)


def place(
    p_hi: jax.Array, p_lo: jax.Array, q_hi: jax.Array, q_lo: jax.Array, r: jax.Array,
    column: ArrayLike, row: ArrayLike,
) -> jax.Array:
    """Returns p column + q row + r.

    Args:
      p_hi: `f32[]`, p split in two, see `blending.split`.
      p_lo: `f32[]`.
      q_hi: `f32[]`, q split in two.
      q_lo: `f32[]`.
      r: `f32[]`.
      column: `f32[...]`, whole numbers of at most 12 bits, like `row`.
      row: `f32[...]`.

    Returns:
      `f32[...]`. Products of 12 bits each are exact, so no device can round them otherwise.
    """
    along = p_hi * column + p_lo * column
    down = q_hi * row + q_lo * row
    return along + down + r


def affine_nearest(image: jax.Array, transform: ArrayLike, fill: ArrayLike) -> jax.Array:
    """Maps an image, x = a x' + b y' + c, y = d x' + e y' + f, and takes the nearest pixels.

    Args:
      image: `u8[H,W,C]`, H and W at most 4096.
      transform: `f32[6]`, a to f, output to input; may be traced.
      fill: `u8[C]`, for what lies outside the image.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`.
    """
    height, width, channels = check_image(image)
    check_fill(fill, channels)
    pixel, inside = nearest_pixels(transform, height, width)
    return take_pixels(jnp.asarray(image), pixel, inside, jnp.asarray(fill, jnp.uint8))


def nearest_pixels(transform: ArrayLike, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Finds the input pixel of each output pixel.

    Args:
      transform: `f32[6]`, a to f, output to input; may be traced.
      height: of the image in pixels, at most 4096.
      width: of the image in pixels, at most 4096.

    Returns:
      `i32[H,W]`, row * width + column, 0 outside the image, and `bool[H,W]`, True inside.
    """
    column = np.arange(width, dtype=np.float32)[None]
    row = np.arange(height, dtype=np.float32)[:, None]
    transform = jnp.asarray(transform, jnp.float32)
    hi, lo = split(transform)

    x, y = (
        nearest(place(hi[a], lo[a], hi[a + 1], lo[a + 1], transform[a + 2], column, row))
        for a in (0, 3)
    )
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return jnp.where(inside, y * width + x, 0), inside


def rotation(degrees: float, height: int, width: int) -> np.ndarray:
    """Returns the map of a counter-clockwise rotation about the middle pixel.

    Args:
      degrees: angle.
      height: of the image in pixels.
      width: of the image in pixels.

    Returns:
      `f32[6]`, for `affine_nearest`.
    """
    angle = float(np.float32(degrees * (math.pi / 180)))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y = np.float32(width - 1), np.float32(height - 1)
    right = (x - (cos * x - sin * y)) / np.float32(2)
    down = (y - (sin * x + cos * y)) / np.float32(2)
    return np.array([cos, -sin, right, sin, cos, down], np.float32)


def rotate(image: jax.Array, degrees: float, fill: ArrayLike = 128) -> jax.Array:
    """Rotates an image counter-clockwise about its middle pixel.

    Args:
      image: `u8[H,W,C]`.
      degrees: angle, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    height, width, _ = check_image(image)
    return affine_nearest(image, rotation(check_host("degrees", degrees), height, width), fill)


def shear_x(image: jax.Array, v: float, fill: ArrayLike = 128) -> jax.Array:
    """Shifts each row to the left by `v` pixels more than the row above it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return _mapped(image, shear_x_matrix, check_host("v", v), fill)


def shear_y(image: jax.Array, v: float, fill: ArrayLike = 128) -> jax.Array:
    """Shifts each column up by `v` pixels more than the column left of it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return _mapped(image, shear_y_matrix, check_host("v", v), fill)


def translate_x(image: jax.Array, p: float, fill: ArrayLike = 128) -> jax.Array:
    """Moves the content to the left by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number; fractions are rounded at each pixel.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return _mapped(image, translate_x_matrix, check_host("p", p), fill)


def translate_y(image: jax.Array, p: float, fill: ArrayLike = 128) -> jax.Array:
    """Moves the content up by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number; fractions are rounded at each pixel.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return _mapped(image, translate_y_matrix, check_host("p", p), fill)


def _mapped(image: jax.Array, matrix: Callable, value: float, fill: ArrayLike) -> jax.Array:
    height, width, _ = check_image(image)
    return affine_nearest(image, np.array(matrix(value, height, width), np.float32), fill)
