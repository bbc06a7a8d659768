"""Ops of torchvision on tensors, where their arithmetic is not Pillow's: the variant "torchvision".

Blends round each of two products and their sum, instead of a difference, a product and a sum.
`invert`, `posterize`, `solarize`, `brightness` and `equalize` are as Pillow's. Geometric ops are
left to Pillow's arithmetic, from which torchvision's floats differ where a coordinate lies on the
border of two pixels.

Source: `_functional_tensor.py` of torchvision.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import pack, planes
from kdaug_jax.augment.ops.blending import RGB, split, split_alpha
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.filters import smooth
from kdaug_jax.augment.ops.lut import apply_lut
from kdaug_jax.augment.ops.statistics import colour_luts, extremes

# Their products with bytes are rounded one by one.
_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)


def _product(numbers: ArrayLike, hi: ArrayLike, lo: ArrayLike) -> jax.Array:
    """Rounds `numbers * (hi + lo)` once, however a compiler merges the parts."""
    return hi * numbers + lo * numbers


def factors(factor: float) -> np.ndarray:
    """Splits a factor, and what it leaves of 1 in double precision: `f32[4]`, for `blend`.

    Args:
      factor: a host number, 0 or more.
    """
    rest = np.float32(1.0 - float(factor))
    upper = (rest.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
    return np.array([*split_alpha(factor), upper, rest - upper], np.float32)


def blend(start: jax.Array, image: jax.Array, alpha: ArrayLike) -> jax.Array:
    """Returns alpha image + (1 - alpha) start, limited to 0..255 and cut off.

    Args:
      start: `f32[...]` or `u8[...]`, of a shape that broadcasts with `image`.
      image: `u8[...]`.
      alpha: `f32[4]`, from `factors`; may be traced.

    Returns:
      `u8[...]`.
    """
    return blend_values(start, image, alpha).astype(jnp.uint8)


def blend_values(start: jax.Array, image: jax.Array, alpha: ArrayLike) -> jax.Array:
    """Does what `blend` does: `i32[...]` in 0..255 of `f32[...]` or whole numbers in 0..255."""
    rest = alpha[2], alpha[3]
    start_hi, start_lo = split(jnp.asarray(start, jnp.float32))
    # A mean has 24 bits, so both factors are split: four exact products, summed from the large.
    far = rest[0] * start_hi + (rest[0] * start_lo + (rest[1] * start_hi + rest[1] * start_lo))
    mixed = _product(jnp.asarray(image).astype(jnp.float32), alpha[0], alpha[1]) + far
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def grey(image: jax.Array) -> jax.Array:
    """Returns 0.2989 R + 0.587 G + 0.114 B of `u8[H,W,3]`, cut off, as `u8[H,W]`."""
    check_image(image, RGB)
    return grey_of(*planes(pack(image))).astype(jnp.uint8)


def grey_of(*colours: jax.Array) -> jax.Array:
    """Returns `grey` of three colours, `i32[...]` each in 0..255, as `i32[...]`."""
    red, green, blue = (
        _product(colour.astype(jnp.float32), *split_alpha(weight))
        for weight, colour in zip(_WEIGHTS, colours, strict=True)
    )
    return (red + green + blue).astype(jnp.int32)


def color(image: jax.Array, factor: float) -> jax.Array:
    """Takes colour away from `u8[H,W,3]` or adds to it, by a factor of 0 or more."""
    return blend(grey(image)[:, :, None], image, factors(factor))


def mean_grey(image: jax.Array) -> jax.Array:
    """Returns the mean of `grey`, `f32[]`, exactly rounded for images of up to 65,793 pixels."""
    levels = grey(image).astype(jnp.int32)
    return mean_level(levels.sum(), levels.size)


def mean_level(total: jax.Array, count: int) -> jax.Array:
    """Returns the mean `f32[...]` of `count` numbers of a sum `i32[...]`, at most 2^20 of them.

    The quotient is rounded to nearest on any device: what is left of a first one is exact, because
    all products are of 12 bits each, and no quotient lies nearer than 2^-21 of its last place to
    the middle of two float32 numbers.
    """
    number, divisor = total.astype(jnp.float32), np.float32(count)
    inverse = np.float32(1) / divisor
    quotient = number * inverse
    (hi, lo), (divisor_hi, divisor_lo) = split(quotient), split_alpha(divisor)
    left = number - hi * divisor_hi - hi * divisor_lo - lo * divisor_hi - lo * divisor_lo
    return quotient + left * inverse


def contrast(image: jax.Array, factor: float) -> jax.Array:
    """Moves the colours of `u8[H,W,3]` away from the mean grey, by a factor of 0 or more."""
    alpha = factors(factor)
    return apply_lut(image, contrast_lut(mean_grey(image), alpha))


def contrast_lut(level: jax.Array, alpha: jax.Array) -> jax.Array:
    """Returns the table `u8[256]` of contrast for a mean `f32[]` and `factors`."""
    return blend(level[None], jnp.arange(256).astype(jnp.uint8), alpha)


def sharpness(image: jax.Array, factor: float) -> jax.Array:
    """Makes edges of `u8[H,W,3]` harder or softer, by a factor of 0 or more."""
    return blend(smooth(image), image, factors(factor))


def stretch_lut(low: jax.Array, high: jax.Array) -> jax.Array:
    """Returns the table that stretches low..high to 0..255.

    Args:
      low: `i32[]`, 0..255.
      high: `i32[]`, 0..255; if not above `low`, nothing is changed.

    Returns:
      `u8[256]`.
    """
    values = np.arange(256, dtype=np.int32)
    scale = split(jnp.asarray(SCALES)[jnp.maximum(high - low, 0)])
    return jnp.where(high > low, stretch(values, low, scale), values).astype(jnp.uint8)


def stretch(values: ArrayLike, low: jax.Array, scale: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Stretches values from a lowest one on.

    Args:
      values: `i32[...]`, 0..255.
      low: `i32[...]`.
      scale: `f32[...]` each, of `SCALES`, split in two.

    Returns:
      `i32[...]`, 0..255.
    """
    stretched = _product((values - low).astype(jnp.float32), *scale)
    return jnp.clip(stretched, 0, 255).astype(jnp.int32)


# 255 / (high - low) by the difference, as PyTorch divides a number by a tensor: its reciprocal
# is rounded first.
SCALES = np.float32(255) * (np.float32(1) / np.maximum(np.arange(256), 1).astype(np.float32))


def auto_contrast(image: jax.Array) -> jax.Array:
    """Stretches each channel of `u8[H,W,3]` to 0..255."""
    check_image(image, (3,))
    return apply_lut(image, colour_luts(pack(image), extremes, stretch_lut))
