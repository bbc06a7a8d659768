"""Lookup tables `u8[256]`: ops whose result depends on a pixel's own value alone.

Tables of host numbers are NumPy arrays, built without a device; tables of traced numbers are
traced. They are pixel for pixel what Pillow does, and `solarize_add` what EfficientNet's code does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import ALPHA, planes, with_colours
from kdaug_jax.augment.ops.blending import RGB, arrays_of, blend_lut, split_alpha
from kdaug_jax.augment.ops.checks import check_image, check_number
from kdaug_jax.augment.ops.kernel import Context, Row
from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import is_known

_VALUES = np.arange(256, dtype=np.int32)


def identity_lut() -> np.ndarray:
    """Returns the table `u8[256]` that changes nothing."""
    return _VALUES.astype(np.uint8)


def invert_lut() -> np.ndarray:
    """Returns the table `u8[256]` of the negative."""
    return (255 - _VALUES).astype(np.uint8)


def solarize_lut(threshold: ArrayLike) -> ArrayLike:
    """Returns the table `u8[256]` that inverts values of a threshold and above.

    Args:
      threshold: `i32[]`, 0 (all inverted) to 256 (none).

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: out of range.
    """
    check_number("threshold", threshold, 0, 256)
    xp = arrays_of(threshold)
    return xp.where(_VALUES < threshold, _VALUES, 255 - _VALUES).astype(np.uint8)


def solarize_add_lut(addition: ArrayLike, threshold: ArrayLike = 128) -> ArrayLike:
    """Returns the table `u8[256]` that adds to values below a threshold.

    Args:
      addition: `i32[]`, -255..255; AutoAugment's ImageNet code goes up to 110, at M = 36 to 396.
      threshold: `i32[]`, 0..256.

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: out of range or a fraction.
    """
    check_number("addition", addition, -1024, 1024, whole=True)
    check_number("threshold", threshold, 0, 256)
    xp = arrays_of(addition, threshold)
    added = xp.clip(_VALUES + addition, 0, 255)
    return xp.where(_VALUES < threshold, added, _VALUES).astype(np.uint8)


def posterize_lut(bits: ArrayLike) -> ArrayLike:
    """Returns the table `u8[256]` that keeps the upper bits of each value.

    Args:
      bits: `i32[]`, 0 (black) to 8 (no change).

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: out of range or a fraction.
    """
    check_number("bits", bits, 0, 8, whole=True)
    xp = arrays_of(bits)
    shift = xp.asarray(8 - bits).astype(np.int32)
    return ((_VALUES >> shift) << shift).astype(np.uint8)


def brightness_lut(factor: ArrayLike) -> ArrayLike:
    """Returns the table `u8[256]` that scales values.

    Args:
      factor: `f32[]`, 0 (black), 1 (no change), or more.

    Returns:
      `u8[256]`.

    Raises:
      TypeError: not a number.
      ArgumentError: negative or not finite.
    """
    return blend_lut(0, *split_alpha(factor))


def with_alpha(lut: ArrayLike, opaque: bool) -> ArrayLike:
    """Adds the row of an alpha channel to the table of the colours.

    Args:
      lut: `u8[256]` or `u8[3,256]`.
      opaque: True to make alpha 255, as ops that Pillow knows on RGB only do; False to keep it.

    Returns:
      `u8[4,256]`.
    """
    xp = arrays_of(lut)
    rows = xp.broadcast_to(lut if lut.ndim == 2 else lut[None], (3, 256))
    alpha = np.full(256, 255, np.uint8) if opaque else identity_lut()
    return xp.concatenate([rows, xp.asarray(alpha)[None]])


def apply_lut(image: jax.Array, lut: ArrayLike) -> jax.Array:
    """Replaces each value by what a table says.

    Args:
      image: `u8[H,W,C]`.
      lut: `u8[256]` for all channels alike, alpha too, or `u8[C,256]`; may be traced.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, or the table is of another shape or known not to
        hold bytes.
    """
    channels = check_image(image)[2]
    if np.shape(lut) not in ((256,), (channels, 256)):
        raise ArgumentError(
            f"lut has shape {np.shape(lut)}", f"must be (256,) or ({channels}, 256)"
        )
    if is_known(lut):
        levels = np.asarray(lut)
        if ((levels < 0) | (levels > 255) | (levels % 1 != 0)).any():
            raise ArgumentError(
                f"lut has levels from {levels.min():g} to {levels.max():g}",
                "must be whole numbers 0..255",
            )
    index = jnp.asarray(image).astype(jnp.int32)
    if np.ndim(lut) == 2:
        index = index + 256 * np.arange(channels, dtype=np.int32)[None, None]
    return jnp.asarray(lut, jnp.uint8).reshape(-1).at[index].get(mode="promise_in_bounds")


def apply_lut_packed(packed: jax.Array, luts: jax.Array, opaque: ArrayLike) -> jax.Array:
    """Replaces each colour by what a table says, on packed pixels.

    Args:
      packed: `u32[...]`, see `packed.pack`.
      luts: `u8[3,256]`, the tables of the three colours.
      opaque: `bool[]`, True to make alpha 255, False to keep it; may be traced.

    Returns:
      `u32[...]`.
    """
    moved = (
        # Bytes into 256 entries need no bounds, which a CPU would check pixel for pixel.
        lut.at[colour.astype(jnp.uint8)].get(mode="promise_in_bounds")
        for lut, colour in zip(luts, planes(packed), strict=True)
    )
    return with_colours(packed, moved) | jnp.where(opaque, ALPHA, np.uint32(0))


def apply_rgb_lut(image: jax.Array, lut: ArrayLike, opaque: bool = True) -> jax.Array:
    """Applies the table of an op to the colours of an image with or without alpha.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      lut: `u8[256]` or `u8[3,256]`.
      opaque: see `with_alpha`.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,3]` or `[H,W,4]`.
    """
    channels = check_image(image, RGB)[2]
    return apply_lut(image, with_alpha(lut, opaque) if channels == 4 else lut)


def lut_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Applies the lookup tables of a resolved row to packed pixels."""
    return apply_lut_packed(packed, row.lut, row.opaque)


def resolve_lut(row: Row, context: Context) -> Row:
    """Returns a row with its tables in the place of where they begin.

    Args:
      row: the row of an image.
      context: its `luts` are all tables.

    Returns:
      The row, whose `lut` is `u8[3,256]`.
    """
    starts = row.lut[0] + row.lut[1] * jnp.arange(3, dtype=jnp.int32)
    luts = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(context.luts, start, 256))(starts)
    return row._replace(lut=luts)
