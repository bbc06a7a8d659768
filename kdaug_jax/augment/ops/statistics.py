"""Ops that first look at the whole image: lookup tables made from its histogram or its mean.

Source: `ImageOps.autocontrast` and `equalize`, `ImageEnhance.Contrast` of Pillow 13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic import one_hot
from kdaug_jax.augment.arithmetic.packed import pack, planes
from kdaug_jax.augment.ops.blending import RGB, blend_lut, luma, split_alpha
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.kernel import Context, Row
from kdaug_jax.augment.ops.lut import apply_rgb_lut
from kdaug_jax.runtime.platform import target_platform

_VALUES = np.arange(256, dtype=np.int32)


@jax.custom_batching.custom_vmap
def counts(values: jax.Array) -> jax.Array:
    """Counts values `i32[...]` in 0..255: `i32[256]`."""
    return one_hot.tally(values) if target_platform() == "tpu" else _tally(values, 256)


@counts.def_vmap
def _counts_of_many(size: int, batched: list[bool], values: jax.Array) -> tuple[jax.Array, bool]:
    if target_platform() == "tpu":
        return jax.vmap(one_hot.tally)(values), True
    # One row of bins for all: a CPU is twice as fast with it as with bins of two axes.
    first = 256 * jnp.arange(size, dtype=jnp.int32)
    moved = values + first.reshape(size, *[1] * (values.ndim - 1))
    return _tally(moved, 256 * size).reshape(size, 256), True


def _tally(values: jax.Array, bins: int) -> jax.Array:
    return jnp.zeros(bins, jnp.int32).at[values.reshape(-1)].add(1, mode="promise_in_bounds")


def histogram(image: jax.Array) -> jax.Array:
    """Counts the values of each channel.

    Args:
      image: `u8[H,W,C]`.

    Returns:
      `i32[C,256]`.
    """
    check_image(image)
    wide = jnp.asarray(image).astype(jnp.int32)
    return jnp.stack([counts(wide[:, :, channel]) for channel in range(image.shape[2])])


def extremes(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the lowest and the highest of `i32[H,W]`, two `i32[]`."""
    # As bytes: a CPU compares 32 at a time.
    levels = values.astype(jnp.uint8)
    return tuple(
        extreme.astype(jnp.int32) for extreme in (levels.min(0).min(), levels.max(0).max())
    )


def mean_luma(image: jax.Array) -> jax.Array:
    """Returns the mean grey level as Pillow's contrast takes it, rounded half up.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4, of at most 4 million pixels.

    Returns:
      `i32[]`, 0..255.
    """
    grey = luma(image).astype(jnp.int32)
    return rounded_mean(grey.sum(), grey.size)


def rounded_mean(total: jax.Array, count: int) -> jax.Array:
    """Returns the mean `i32[...]` of `count` numbers of a sum `i32[...]`, rounded half up."""
    return lax.div(2 * total + count, jnp.full_like(total, 2 * count))


def contrast_lut(mean: ArrayLike, alpha_hi: ArrayLike, alpha_lo: ArrayLike) -> ArrayLike:
    """Returns the table of contrast for images of one mean.

    Args:
      mean: `i32[]`, from `mean_luma`.
      alpha_hi: `f32[]`, from `split_alpha`.
      alpha_lo: `f32[]`, from `split_alpha`.

    Returns:
      `u8[256]`.
    """
    return blend_lut(mean, alpha_hi, alpha_lo)


@functools.cache
def _stretches() -> tuple[np.ndarray, np.ndarray]:
    """Computes what Pillow's auto contrast makes of values, in its double precision.

    Which values are rounded down to one less than whole numbers would give depends on `low`, but
    for a difference `high - low` there are few ways.

    Returns:
      `u8[N,256]`, the values of low, low + 1, ..., in each of N ways; and `i32[256,256]`, the way
      of each difference and low.
    """
    ways: dict[bytes, int] = {}
    which = np.zeros((256, 256), np.int32)
    for difference in range(1, 256):
        scale = 255.0 / difference
        low = np.arange(256 - difference, dtype=np.float64)[:, None]
        values = (low + _VALUES) * scale + -low * scale
        stretched = np.minimum(values, 255.0).astype(np.uint8)
        stretched[:, difference + 1 :] = 255
        which[difference, : len(low)] = [
            ways.setdefault(row.tobytes(), len(ways)) for row in stretched
        ]
    return np.frombuffer(b"".join(ways), np.uint8).reshape(-1, 256), which


def stretch_lut(low: ArrayLike, high: ArrayLike) -> jax.Array:
    """Returns the table that stretches low..high to 0..255, cut off, with Pillow's roundings.

    Args:
      low: `i32[]`, 0..255.
      high: `i32[]`, 0..255; if not above `low`, nothing is changed.

    Returns:
      `u8[256]`, 0 below `low` and 255 above `high`.
    """
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    ways, which = map(jnp.asarray, _stretches())
    way = which.at[jnp.maximum(high - low, 0), low].get(mode="promise_in_bounds")
    above = jnp.clip(_VALUES - low, 0, 255).astype(jnp.uint8)
    stretched = ways.at[way, above].get(mode="promise_in_bounds")
    return jnp.where(high > low, stretched, _VALUES.astype(np.uint8))


def divide(numbers: jax.Array, divisor: jax.Array) -> jax.Array:
    """Divides and cuts off, as `//` does but faster.

    Args:
      numbers: `i32[...]`, 0 to 2^21.
      divisor: `i32[]`, 1 to 2^21.

    Returns:
      `i32[...]`.
    """
    # With a half added no quotient is nearer to a whole number than float32 can tell, even where
    # a device does not round it to nearest.
    return ((numbers.astype(jnp.float32) + 0.5) / divisor.astype(jnp.float32)).astype(jnp.int32)


def running_sums(numbers: jax.Array) -> jax.Array:
    """Returns the sums of `i32[256]` from the first number to each: `i32[256]`."""
    # In two levels of sixteen, as masked sums: that takes a CPU half the time of `cumsum`.
    upto = np.triu(np.ones((16, 16), np.int32))
    rows = numbers.reshape(16, 16)
    inner = (rows[:, :, None] * upto[None]).sum(1)
    before = (inner[:, -1, None] * (upto - np.eye(16, dtype=np.int32))).sum(0)
    return (inner + before[:, None]).reshape(256)


def equalize_lut(counts: jax.Array) -> jax.Array:
    """Returns the table that distributes values evenly over 0..255.

    Args:
      counts: `i32[256]`, one row of `histogram`, of at most 2 million pixels.

    Returns:
      `u8[256]`; where the values below the highest are fewer than 255 pixels, the one that
      changes nothing.
    """
    below = running_sums(counts) - counts
    step = jnp.max(jnp.where(counts > 0, below, 0)) // 255
    spread = jnp.minimum(divide(step // 2 + below, jnp.maximum(step, 1)), 255)
    return jnp.where(step > 0, spread, _VALUES).astype(jnp.uint8)


def colour_luts(
    packed: jax.Array, measure: Callable[[jax.Array], Any], lut_of: Callable[..., jax.Array]
) -> jax.Array:
    """Makes a table of each colour of an image.

    Args:
      packed: `u32[H,W]`, see `packed.pack`.
      measure: returns a tuple of facts of the values `i32[H,W]` of one colour.
      lut_of: returns a table `u8[256]` of such facts.

    Returns:
      `u8[3,256]`.
    """
    facts = [measure(plane) for plane in planes(packed)]
    # All three in one expression: put together of three tables, they took a CPU 10 us.
    return jax.vmap(lut_of)(*jax.tree.map(lambda *colours: jnp.stack(colours), *facts))


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
    return apply_rgb_lut(image, colour_luts(pack(image), extremes, stretch_lut))


def equalize(image: jax.Array) -> jax.Array:
    """Spreads the values of each channel of `u8[H,W,C]` evenly; alpha becomes 255."""
    check_image(image, RGB)
    tables = colour_luts(pack(image), lambda plane: (counts(plane),), equalize_lut)
    return apply_rgb_lut(image, tables)


def contrast_luts(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Returns the tables `u8[3,256]` of `contrast`, in the arithmetic of any variant."""
    grey = context.arithmetic.grey(*planes(packed))
    level = context.arithmetic.level(grey.sum(), grey.size)[None]
    lut = context.arithmetic.blend(level, jnp.arange(256, dtype=jnp.int32), row.alpha)
    return jnp.broadcast_to(lut.astype(jnp.uint8), (3, 256))


def auto_contrast_luts(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Returns the tables `u8[3,256]` of `auto_contrast`, in the arithmetic of any variant."""
    return colour_luts(packed, extremes, context.arithmetic.stretch)


def equalize_luts(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Returns the tables `u8[3,256]` of `equalize`."""
    return colour_luts(packed, lambda plane: (counts(plane),), equalize_lut)
