"""Ops that first look at the whole image: lookup tables made from its histogram or its mean.

Source: `ImageOps.autocontrast` and `equalize`, `ImageEnhance.Contrast` of Pillow 13.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.ops.blending import RGB, blend_lut, luma, split_alpha
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.lut import apply_rgb_lut

_VALUES = np.arange(256, dtype=np.int32)


def histogram(image: jax.Array) -> jax.Array:
    """Counts the values of each channel.

    Args:
      image: `u8[H,W,C]`.

    Returns:
      `i32[C,256]`.
    """
    channels = check_image(image)[2]
    rows = 256 * np.arange(channels, dtype=np.int32)
    bins = (jnp.asarray(image).astype(jnp.int32) + rows[None, None]).reshape(-1)
    empty = jnp.zeros(channels * 256, jnp.int32)
    return empty.at[bins].add(1, mode="promise_in_bounds").reshape(channels, 256)


def mean_luma(image: jax.Array) -> jax.Array:
    """Gives the mean grey level as Pillow's contrast takes it, rounded half up.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4, of at most 4 million pixels.

    Returns:
      `i32[]`, 0..255.
    """
    grey = luma(image).astype(jnp.int32)
    return (2 * grey.sum() + grey.size) // (2 * grey.size)


def contrast_lut(mean: ArrayLike, alpha_hi: ArrayLike, alpha_lo: ArrayLike) -> ArrayLike:
    """Gives the table of contrast for images of one mean.

    Args:
      mean: `i32[]`, from `mean_luma`.
      alpha_hi: `f32[]`, from `split_alpha`.
      alpha_lo: `f32[]`, from `split_alpha`.

    Returns:
      `u8[256]`.
    """
    return blend_lut(mean, alpha_hi, alpha_lo)


@functools.cache
def _one_less() -> tuple[np.ndarray, np.ndarray]:
    """Finds where doubles fall just below the whole number that auto contrast should give.

    Pillow computes v * scale + offset in double precision and cuts it off. That differs from
    whole-number division only where the division has no remainder: at v = low + k d / g, with
    d = high - low, g = gcd(d, 255), k = 0..g.

    Returns:
      `u32[N]`, one bit for each (d, low, k) in that order, set where Pillow gives one less; and
      `i32[256]`, the number of the first bit of each d.
    """
    bits, first, count = [], np.zeros(256, np.int32), 0
    for d in range(1, 256):
        g = math.gcd(d, 255)
        low = np.arange(256 - d, dtype=np.float64)[:, None]
        steps = np.arange(g + 1, dtype=np.float64)[None]
        scale = 255.0 / d
        double = (low + steps * (d // g)) * scale + -low * scale
        bits.append(np.trunc(double) != steps * (255 // g))
        first[d], count = count, count + bits[-1].size
    flat = np.concatenate([part.reshape(-1) for part in bits])
    flat = np.pad(flat, (0, -flat.size % 32)).reshape(-1, 32).astype(np.uint32)
    return (flat << np.arange(32, dtype=np.uint32)).sum(1, dtype=np.uint32), first


def stretch_lut(low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Gives the table that stretches low..high to 0..255, cut off, with Pillow's roundings.

    Args:
      low: `i32[]`, 0..255.
      high: `i32[]`, 0..255; if not above `low`, nothing is changed.

    Returns:
      `u8[256]`, 0 below `low` and 255 above `high`.
    """
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    d = jnp.maximum(high - low, 1)
    scaled = (jnp.clip(_VALUES, low, jnp.maximum(high, low)) - low) * 255
    quotient = scaled // d
    bits, first = _one_less()
    g = jnp.asarray(np.gcd(np.arange(256), 255), jnp.int32)[d]
    exact = (quotient * d == scaled) & (_VALUES <= high)
    place = jnp.asarray(first)[d] + low * (g + 1) + quotient * g // 255
    word = jnp.asarray(bits)[jnp.where(exact, place >> 5, 0)]
    less = exact & ((word >> (place & 31).astype(jnp.uint32)) & 1 == 1)
    stretched = quotient - less.astype(jnp.int32)
    return jnp.where(high > low, stretched, _VALUES).astype(jnp.uint8)


def value_range(counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives the lowest and the highest value that occur, two `i32[]`, of `i32[256]` counts."""
    some = counts > 0
    return jnp.argmax(some).astype(jnp.int32), 255 - jnp.argmax(some[::-1]).astype(jnp.int32)


def auto_contrast_lut(counts: jax.Array) -> jax.Array:
    """Gives the table that stretches the values that occur to 0..255.

    Args:
      counts: `i32[256]`, one row of `histogram`.

    Returns:
      `u8[256]`; of fewer than two different values, the one that changes nothing.
    """
    return stretch_lut(*value_range(counts))


def equalize_lut(counts: jax.Array) -> jax.Array:
    """Gives the table that spreads values evenly over 0..255.

    Args:
      counts: `i32[256]`, one row of `histogram`.

    Returns:
      `u8[256]`; where the values below the highest are fewer than 255 pixels, the one that
      changes nothing.
    """
    step = (counts.sum() - counts[value_range(counts)[1]]) // 255
    below = jnp.cumsum(counts) - counts
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, spread, _VALUES).astype(jnp.uint8)


def contrast(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Moves all colours away from the mean grey level or towards it; alpha is kept.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      factor: `f32[]`, 0 (grey), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    alpha = split_alpha(factor)
    return apply_rgb_lut(image, contrast_lut(mean_luma(image), *alpha), opaque=False)


def auto_contrast(image: jax.Array) -> jax.Array:
    """Stretches each channel of `u8[H,W,C]` to 0..255; alpha becomes 255."""
    check_image(image, RGB)
    return apply_rgb_lut(image, jax.vmap(auto_contrast_lut)(histogram(image[:, :, :3])))


def equalize(image: jax.Array) -> jax.Array:
    """Spreads the values of each channel of `u8[H,W,C]` evenly; alpha becomes 255."""
    check_image(image, RGB)
    return apply_rgb_lut(image, jax.vmap(equalize_lut)(histogram(image[:, :, :3])))
