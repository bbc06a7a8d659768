"""Blending of images and of grey levels, the same on all devices and in Pillow.

A function given host numbers only answers with NumPy arrays and asks no device, so that tables
can be built anywhere; given an array of JAX it is traced.
"""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import pack, planes, with_colours
from kdaug_jax.augment.ops.checks import check_image, check_number, is_host
from kdaug_jax.augment.ops.kernel import Colours3, Context, Row
from kdaug_jax.images.arithmetic import split

RGB = (3, 4)


def arrays_of(*numbers: ArrayLike) -> ModuleType:
    """Returns NumPy where all `numbers` `[...]` are of the host, else `jax.numpy`."""
    return np if all(map(is_host, numbers)) else jnp


def split_alpha(factor: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """Splits a factor into two float32 numbers whose products with bytes are exact.

    A compiler may merge a product and a sum into one rounding. Where the product is exact there
    is only one rounding either way, so `d + (hi * x + lo * x)` is the same on all devices.

    Args:
      factor: `f32[...]`, 0 or more; a host number is rounded to float32 first, as Pillow does.

    Returns:
      `f32[...]` upper 12 bits of precision and `f32[...]` the rest; their sum is `factor`.

    Raises:
      TypeError: not a number.
      ArgumentError: negative or not finite.
    """
    if is_host(factor):
        for number in np.ravel(factor):
            check_number("factor", number, 0, np.inf)
        return split(np.asarray(factor, np.float32))
    return split(jnp.asarray(factor).astype(jnp.float32))


def blend(
    degenerate: ArrayLike, image: ArrayLike, alpha_hi: ArrayLike, alpha_lo: ArrayLike
) -> ArrayLike:
    """Goes from one image to another, or beyond it: d + alpha (v - d), limited to 0..255, cut off.

    Args:
      degenerate: `u8[...]`, the image at alpha = 0.
      image: `u8[...]`, the image at alpha = 1, of a shape that broadcasts with `degenerate`.
      alpha_hi: `f32[]`, from `split_alpha`; may be traced.
      alpha_lo: `f32[]`, from `split_alpha`; may be traced.

    Returns:
      `u8[...]`.

    Source: `Image.blend` of Pillow (x86-64), which rounds the product and the sum to float32.
    """
    return blend_values(degenerate, image, alpha_hi, alpha_lo).astype(np.uint8)


def blend_values(
    degenerate: ArrayLike, image: ArrayLike, alpha_hi: ArrayLike, alpha_lo: ArrayLike
) -> ArrayLike:
    """Does what `blend` does: `i32[...]` in 0..255 of whole numbers `[...]` in 0..255."""
    xp = arrays_of(degenerate, image, alpha_hi, alpha_lo)
    start = xp.asarray(degenerate).astype(np.float32)
    way = xp.asarray(image).astype(np.float32) - start
    hi, lo = xp.asarray(alpha_hi, np.float32), xp.asarray(alpha_lo, np.float32)
    return xp.clip(start + (hi * way + lo * way), 0, 255).astype(np.int32)


def blend_lut(degenerate: ArrayLike, alpha_hi: ArrayLike, alpha_lo: ArrayLike) -> ArrayLike:
    """Returns the table of `blend` with one grey level: brightness is that of level 0.

    Args:
      degenerate: `u8[]` or `i32[]`, the level at alpha = 0.
      alpha_hi: `f32[]`, from `split_alpha`.
      alpha_lo: `f32[]`, from `split_alpha`.

    Returns:
      `u8[256]`.
    """
    xp = arrays_of(degenerate, alpha_hi, alpha_lo)
    level = xp.broadcast_to(xp.asarray(degenerate), (256,))
    return blend(level, xp.arange(256), alpha_hi, alpha_lo)


def luma(image: jax.Array) -> jax.Array:
    """Returns the grey levels that Pillow calls "L"; alpha is ignored.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.

    Returns:
      `u8[H,W]`, (19595 R + 38470 G + 7471 B + 32768) / 65536 cut off.
    """
    check_image(image, RGB)
    return luma_of(*planes(pack(image))).astype(jnp.uint8)


def luma_of(red: jax.Array, green: jax.Array, blue: jax.Array) -> jax.Array:
    """Returns `luma` of three colours, `i32[...]` each in 0..255, as `i32[...]`."""
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def blend_colours(
    degenerate: jax.Array, image: jax.Array, alpha_hi: ArrayLike, alpha_lo: ArrayLike
) -> jax.Array:
    """Blends the colours of an image and keeps its alpha, if it has one.

    Args:
      degenerate: `u8[H,W,1]` or `u8[H,W,3]`, the colours at alpha_hi = alpha_lo = 0.
      image: `u8[H,W,C]`, C = 3 or 4.
      alpha_hi: `f32[]`, from `split_alpha`; may be traced.
      alpha_lo: `f32[]`, from `split_alpha`; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    check_image(image, RGB)
    colours = blend(degenerate, jnp.asarray(image[:, :, :3]), alpha_hi, alpha_lo)
    return jnp.concatenate([colours, image[:, :, 3:]], axis=2)


def blend_packed(starts: Colours3, packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Blends the colours of packed pixels in the arithmetic of a variant; alpha is kept.

    Args:
      starts: `i32[H,W]` each, the colours at a factor of 0.
      packed: `u32[H,W]`.
      row: whose `alpha` is the factor.
      context: of the batch.

    Returns:
      `u32[H,W]`.
    """
    return with_colours(packed, tuple(
        context.arithmetic.blend(start, plane, row.alpha)
        for start, plane in zip(starts, planes(packed), strict=True)
    ))
