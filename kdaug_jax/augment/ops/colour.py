"""Ops on the colours of one image, pixel for pixel those of Pillow.

Of images with alpha, ops that Pillow knows on RGB only (all tables but brightness) make alpha
255; blends keep it.

Source: `ImageOps` and `ImageEnhance` of Pillow 13; Cubuk et al. 2019 (AutoAugment).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import planes
from kdaug_jax.augment.ops import lut
from kdaug_jax.augment.ops.blending import (
    RGB,
    blend_colours,
    blend_packed,
    luma,
    split_alpha,
)
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.kernel import Context, Row


def identity(image: jax.Array) -> jax.Array:
    """Returns `u8[H,W,C]` back unchanged."""
    check_image(image, RGB)
    return jnp.asarray(image)


def invert(image: jax.Array) -> jax.Array:
    """Returns the negative of `u8[H,W,C]`; alpha becomes 255."""
    return lut.apply_rgb_lut(image, lut.invert_lut())


def solarize(image: jax.Array, threshold: ArrayLike) -> jax.Array:
    """Inverts values of a threshold and above; alpha becomes 255.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      threshold: `i32[]`, 0 (all inverted) to 256 (none); may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    return lut.apply_rgb_lut(image, lut.solarize_lut(threshold))


def solarize_add(image: jax.Array, addition: ArrayLike, threshold: ArrayLike = 128) -> jax.Array:
    """Adds to values below a threshold, up to 255; alpha becomes 255.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      addition: `i32[]`, -1024..1024; may be traced.
      threshold: `i32[]`, 0..256; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    return lut.apply_rgb_lut(image, lut.solarize_add_lut(addition, threshold))


def posterize(image: jax.Array, bits: ArrayLike) -> jax.Array:
    """Keeps the upper bits of each value; alpha becomes 255.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      bits: `i32[]`, 0 (black) to 8 (no change); may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    return lut.apply_rgb_lut(image, lut.posterize_lut(bits))


def brightness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Scales all colours; alpha is kept.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      factor: `f32[]`, 0 (black), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    return lut.apply_rgb_lut(image, lut.brightness_lut(factor), opaque=False)


def color(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Takes colour away or adds to it, against the pixel's own grey; alpha is kept.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      factor: `f32[]`, 0 (grey), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    alpha = split_alpha(factor)
    return blend_colours(luma(image)[:, :, None], image, *alpha)


def color_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Computes `color` of packed pixels, in the arithmetic of any variant."""
    return blend_packed((context.arithmetic.grey(*planes(packed)),) * 3, packed, row, context)
