"""Nearest-neighbour affine maps in whole numbers, pixel for pixel those of Pillow.

The coefficients are 16.16 fixed-point numbers computed on the host in double precision, so the
device only adds, multiplies and shifts int32 numbers and all backends give the same pixels.
Coefficients map output to input: positive translations move the content left or up.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.masks import paint

_ONE = 1 << 16


def affine_coefficients(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    """Gives x = a x' + b y' + c, y = d x' + e y' + f at pixel centres, in 16.16 fixed point.

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
      ValueError: a coefficient is 32768 or more in size, which 16.16 does not hold.

    Source: `ImagingTransform`, method AFFINE, filter NEAREST, of Pillow.
    """
    if (a, b, d, e) == (1, 0, 0, 1):
        # Pillow moves by whole pixels without fixed point; fractions below 2^-16 would differ.
        c, f = math.floor(c + 0.5), math.floor(f + 0.5)
    exact = (a, b, c + 0.5 * a + 0.5 * b, d, e, f + 0.5 * d + 0.5 * e)
    if max(map(abs, exact)) >= 1 << 15:
        raise ValueError(f"affine coefficients {exact} reach beyond 32768 pixels")
    return np.array([math.floor(value * _ONE + 0.5) for value in exact], np.int32)


def affine_nearest(image: jax.Array, coefficients: ArrayLike, fill: ArrayLike) -> jax.Array:
    """Maps an image, taking the nearest input pixel, or `fill` outside the image.

    Args:
      image: `u8[H,W,C]`.
      coefficients: `i32[6]`, from `affine_coefficients`; may be traced.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    height, width, channels = image.shape
    a, b, c, d, e, f = jnp.asarray(coefficients, jnp.int32)
    columns, rows = jnp.arange(width)[None, :], jnp.arange(height)[:, None]
    # The shift of a negative int32 rounds down, which is what keeps -0.5 outside.
    x = (a * columns + b * rows + c) >> 16
    y = (d * columns + e * rows + f) >> 16
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixel = jnp.where(inside, y * width + x, 0)
    flat = jnp.asarray(image).reshape(height * width, channels)
    moved = flat.at[pixel].get(mode="promise_in_bounds")
    return paint(moved, ~inside, fill)


def shear_x(image: jax.Array, v: float, fill: ArrayLike) -> jax.Array:
    """Shifts each row to the left by `v` pixels more than the row above it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return affine_nearest(image, affine_coefficients(1, v, 0, 0, 1, 0), fill)


def shear_y(image: jax.Array, v: float, fill: ArrayLike) -> jax.Array:
    """Shifts each column up by `v` pixels more than the column left of it.

    Args:
      image: `u8[H,W,C]`.
      v: shear, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return affine_nearest(image, affine_coefficients(1, 0, 0, v, 1, 0), fill)


def translate_x(image: jax.Array, p: float, fill: ArrayLike) -> jax.Array:
    """Moves the content to the left by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return affine_nearest(image, affine_coefficients(1, 0, p, 0, 1, 0), fill)


def translate_y(image: jax.Array, p: float, fill: ArrayLike) -> jax.Array:
    """Moves the content up by `p` pixels.

    Args:
      image: `u8[H,W,C]`.
      p: pixels, a host number.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    return affine_nearest(image, affine_coefficients(1, 0, 0, 0, 1, p), fill)
