"""Ops on colours of the EfficientNet code for TPUs, where they differ from Pillow's.

All follow that code in its single roundings to float32, so a table or a blend here gives the
pixels that TensorFlow gives on a CPU, on any device. Products are written so that a compiler that
merges roundings changes nothing (see `split_alpha`).

Source: `autoaugment.py` of Tan and Le 2019 (EfficientNet), tensorflow/tpu.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import pack, planes
from kdaug_jax.augment.ops import lut
from kdaug_jax.augment.ops.blending import blend, blend_lut, split, split_alpha
from kdaug_jax.augment.ops.checks import check_image, check_number, is_host
from kdaug_jax.augment.ops.filters import keep_border
from kdaug_jax.augment.ops.statistics import colour_luts, extremes

RGB = (3,)
_VALUES = np.arange(256, dtype=np.float32)
# 255 / (high - low) by the difference; devices differ in how they round a quotient.
SCALES = np.float32(255) / np.maximum(_VALUES, 1)


def solarize_lut(threshold: ArrayLike, clean: bool = False) -> ArrayLike:
    """Returns the table `u8[256]` that inverts values of a threshold and above.

    Args:
      threshold: `i32[]`, 0 or more, as a magnitude gives it: int(25.6 M).
      clean: True to read thresholds beyond 256 as 256, False modulo 256.

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: negative or a fraction.
    """
    check_number("threshold", threshold, 0, np.inf, whole=True)
    xp = np if is_host(threshold) else jnp
    return lut.solarize_lut(xp.minimum(threshold, 256) if clean else threshold % 256)


def posterize_lut(bits: ArrayLike, clean: bool = False) -> ArrayLike:
    """Returns the table `u8[256]` that keeps the upper bits of each value.

    Args:
      bits: `i32[]`, 0 or more, as a magnitude gives it: int(0.4 M).
      clean: True to limit bits to 1..8, False to keep one bit where they are 0 or above 8.

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: negative or a fraction.
    """
    check_number("bits", bits, 0, np.inf, whole=True)
    xp = np if is_host(bits) else jnp
    kept = xp.clip(bits, 1, 8) if clean else xp.where((bits == 0) | (bits > 8), 1, bits)
    return lut.posterize_lut(kept)


def solarize(image: jax.Array, threshold: ArrayLike, clean: bool = False) -> jax.Array:
    """Inverts values of a threshold and above.

    Args:
      image: `u8[H,W,3]`.
      threshold: `i32[]`, see `solarize_lut`; may be traced.
      clean: see `solarize_lut`.

    Returns:
      `u8[H,W,3]`.
    """
    check_image(image, RGB)
    return lut.apply_lut(image, solarize_lut(threshold, clean))


def posterize(image: jax.Array, bits: ArrayLike, clean: bool = False) -> jax.Array:
    """Keeps the upper bits of each value.

    Args:
      image: `u8[H,W,3]`.
      bits: `i32[]`, see `posterize_lut`; may be traced.
      clean: see `posterize_lut`.

    Returns:
      `u8[H,W,3]`.
    """
    check_image(image, RGB)
    return lut.apply_lut(image, posterize_lut(bits, clean))


@functools.cache
def grey_parts() -> np.ndarray:
    """Returns `f32[3,256]`, what each value of each channel adds to a grey level in 0..1."""
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    return (_VALUES * np.float32(1 / 255))[None] * weights[:, None]


def grey(image: jax.Array) -> jax.Array:
    """Returns the grey levels of `tf.image.rgb_to_grayscale`: `u8[H,W]` of `u8[H,W,3]`."""
    check_image(image, RGB)
    return grey_of(*planes(pack(image))).astype(jnp.uint8)


def grey_of(*colours: jax.Array) -> jax.Array:
    """Returns `grey` of three colours, `i32[...]` each in 0..255, as `i32[...]`."""
    red, green, blue = (
        jnp.asarray(parts).at[colour].get(mode="promise_in_bounds")
        for parts, colour in zip(grey_parts(), colours, strict=True)
    )
    return grey_of_parts(red, green, blue)


def grey_of_parts(red: jax.Array, green: jax.Array, blue: jax.Array) -> jax.Array:
    """Adds up what the colours of a pixel add to its grey level.

    Args:
      red: `f32[...]`, entries of the first row of `grey_parts`.
      green: `f32[...]`, of the second.
      blue: `f32[...]`, of the third.

    Returns:
      `i32[...]`, 0..255.
    """
    return ((red + green + blue) * np.float32(255.5)).astype(jnp.int32)


def color(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Takes colour away or adds to it, against the pixel's own grey.

    Args:
      image: `u8[H,W,3]`.
      factor: `f32[]`, 0 (grey), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,3]`.
    """
    alpha = split_alpha(factor)
    return blend(grey(image)[:, :, None], jnp.asarray(image), *alpha)


def contrast_level(image: jax.Array, clean: bool = False) -> jax.Array:
    """Returns the grey level that contrast moves colours from.

    Args:
      image: `u8[H,W,3]`, of at most 8 million pixels.
      clean: True for the mean of `grey`, cut off; False for H * W / 256, cut off, at most 255.

    Returns:
      `i32[]`, 0..255, for `statistics.contrast_lut`.
    """
    height, width, _ = check_image(image, RGB)
    if clean:
        return mean_level(grey(image).astype(jnp.int32).sum(), height * width)
    return jnp.int32(min(255, height * width // 256))


def mean_level(total: jax.Array, count: int) -> jax.Array:
    """Returns the level of contrast.

    Args:
      total: `i32[...]`, sum of grey levels.
      count: how many they are.

    Returns:
      `i32[...]`, their mean, cut off.
    """
    return lax.div(total, jnp.full_like(total, count))


def contrast(image: jax.Array, factor: ArrayLike, clean: bool = False) -> jax.Array:
    """Moves all colours away from one grey level or towards it.

    Args:
      image: `u8[H,W,3]`.
      factor: `f32[]`, 0 (grey), 1 (no change), or more; may be traced.
      clean: see `contrast_level`.

    Returns:
      `u8[H,W,3]`.
    """
    level = contrast_level(image, clean)
    return lut.apply_lut(image, blend_lut(level, *split_alpha(factor)))


def smooth(image: jax.Array) -> jax.Array:
    """Averages each pixel, five times, with its eight neighbours, in float32 and cut off.

    Args:
      image: `u8[H,W,3]`.

    Returns:
      `u8[H,W,3]`; the border of one pixel is unchanged.
    """
    check_image(image, RGB)
    return smooth_values(jnp.asarray(image)).astype(jnp.uint8)


def smooth_values(values: jax.Array) -> jax.Array:
    """Does what `smooth` does: `i32[H,W,...]` of `[H,W,...]` in 0..255."""
    height, width, *_ = values.shape
    around = [(1, 1)] * 2 + [(0, 0)] * (values.ndim - 2)
    wide = jax.lax.optimization_barrier(jnp.pad(values, around)).astype(jnp.float32)
    total = 0.0
    for row in range(3):
        for column in range(3):
            times = 5 if row == column == 1 else 1
            hi, lo = split_alpha(np.float32(times) / np.float32(13))
            value = wide[row : row + height, column : column + width]
            total = (hi * value + lo * value) + total
    return keep_border(total.astype(jnp.int32), values.astype(jnp.int32), 1)


def sharpness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Makes edges harder or softer, against the smoothed image.

    Args:
      image: `u8[H,W,3]`.
      factor: `f32[]`, 0 (smooth), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,3]`.
    """
    alpha = split_alpha(factor)
    return blend(smooth(image), jnp.asarray(image), *alpha)


def stretch_lut(low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Returns the table that stretches low..high to 0..255 in float32, cut off.

    Args:
      low: `i32[]`, 0..255.
      high: `i32[]`, 0..255; if not above `low`, nothing is changed.

    Returns:
      `u8[256]`.
    """
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
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
    hi, lo = scale
    number, start = (jnp.asarray(level).astype(jnp.float32) for level in (values, low))
    stretched = (hi * number + lo * number) - (hi * start + lo * start)
    return jnp.clip(stretched, 0, 255).astype(jnp.int32)


def auto_contrast(image: jax.Array) -> jax.Array:
    """Stretches each channel of `u8[H,W,3]` to 0..255, in float32."""
    check_image(image, RGB)
    tables = colour_luts(pack(image), extremes, stretch_lut)
    return lut.apply_lut(image, tables)
