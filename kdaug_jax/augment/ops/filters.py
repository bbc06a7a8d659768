"""Small filters in whole numbers, pixel for pixel those of Pillow.

Source: `ImageFilter.SMOOTH` and `BLUR`, `ImageEnhance.Sharpness` of Pillow 13.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax.augment.ops.blending import RGB, blend_colours, split_alpha
from kdaug_jax.augment.ops.checks import check_image


def box_sums(wide: jax.Array, side: int) -> jax.Array:
    """Adds up each square of pixels.

    Args:
      wide: `i32[H,W,C]`.
      side: of the squares in pixels, at most H and W.

    Returns:
      `i32[H-side+1,W-side+1,C]`.
    """
    height, width = wide.shape[0] - side + 1, wide.shape[1] - side + 1
    columns = sum(wide[step : step + height] for step in range(side))
    return sum(columns[:, step : step + width] for step in range(side))


def set_interior(image: jax.Array, interior: jax.Array) -> jax.Array:
    """Puts an image into the middle of a larger one.

    Args:
      image: `u8[H,W,C]`, of which the border stays.
      interior: `u8[H-2n,W-2n,C]`.

    Returns:
      `u8[H,W,C]`.
    """
    border = (image.shape[0] - interior.shape[0]) // 2
    inside = jnp.pad(jnp.ones(interior.shape[:2], bool), border)[:, :, None]
    padded = jnp.pad(interior, ((border, border), (border, border), (0, 0)))
    return jnp.where(inside, padded, image)


def smooth(image: jax.Array) -> jax.Array:
    """Averages each pixel, five times, with its eight neighbours.

    Args:
      image: `u8[H,W,C]`, alpha treated like a colour.

    Returns:
      `u8[H,W,C]`, rounded to nearest; the border of one pixel is unchanged.
    """
    height, width, _ = check_image(image)
    image = jnp.asarray(image)
    if min(height, width) < 3:
        return image
    wide = image.astype(jnp.int32)
    sums = box_sums(wide, 3) + 4 * wide[1:-1, 1:-1]
    return set_interior(image, ((2 * sums + 13) // 26).astype(jnp.uint8))


def blur(image: jax.Array) -> jax.Array:
    """Averages the ring of 16 pixels at a distance of two.

    Args:
      image: `u8[H,W,C]`, alpha treated like a colour.

    Returns:
      `u8[H,W,C]`, rounded half up; the border of two pixels is unchanged.
    """
    height, width, _ = check_image(image)
    image = jnp.asarray(image)
    if min(height, width) < 5:
        return image
    wide = image.astype(jnp.int32)
    sums = box_sums(wide, 5) - box_sums(wide, 3)[1:-1, 1:-1]
    return set_interior(image, ((2 * sums + 16) // 32).astype(jnp.uint8))


def sharpness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Makes edges harder or softer, against the smoothed image; alpha is kept.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      factor: `f32[]`, 0 (smooth), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    check_image(image, RGB)
    alpha = split_alpha(factor)
    return blend_colours(smooth(image[:, :, :3]), image, *alpha)
