"""The base augmentation of small images: pad and crop, and mirror."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic import one_hot
from kdaug_jax.augment.ops.checks import check_fill, check_image, check_number
from kdaug_jax.augment.ops.geometry import affine_nearest
from kdaug_jax.errors import ArgumentError
from kdaug_jax.runtime.platform import target_platform
from kdaug_jax.types import Fill, Fraction, is_known


def flip(image: jax.Array) -> jax.Array:
    """Mirrors `u8[H,W,C]` left to right."""
    check_image(image)
    return image[:, ::-1]


def random_flip(key: jax.Array, image: jax.Array, probability: Fraction = 0.5) -> jax.Array:
    """Mirrors an image left to right, or does not.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      probability: `f32[]`, of mirroring.

    Returns:
      `u8[H,W,C]`.
    """
    check_number("probability", probability, 0, 1)
    return jnp.where(jax.random.bernoulli(key, probability), flip(image), image)


def pad_crop(
    image: jax.Array, top: ArrayLike, left: ArrayLike, padding: ArrayLike, fill: ArrayLike
) -> jax.Array:
    """Pads an image on all sides and cuts an image of its old size from it.

    Args:
      image: `u8[H,W,C]`.
      top: `i32[]`, first row of the cut, 0..2*padding.
      left: `i32[]`, first column of the cut, 0..2*padding.
      padding: `i32[]`, pixels added on each side.
      fill: `u8[C]`, the colour of the padding.

    Returns:
      `u8[H,W,C]`.

    Raises:
      ArgumentError: a place is known not to be a whole number 0..2*padding.
    """
    check_number("padding", padding, 0, np.inf, whole=True)
    if is_known(padding) and not np.ndim(padding):
        for name, place in (("top", top), ("left", left)):
            check_number(name, place, 0, 2 * float(padding), whole=True)
    if target_platform() == "tpu":
        return _pad_crop_by_products(image, top - padding, left - padding, fill)
    # A move by whole pixels: the padded image is never made.
    unit, half = jnp.int32(1 << 16), jnp.int32(1 << 15)
    zero = jnp.int32(0)
    x = jnp.asarray(left - padding, jnp.int32) * unit + half
    y = jnp.asarray(top - padding, jnp.int32) * unit + half
    return affine_nearest(image, jnp.stack([unit, zero, x, zero, unit, y]), fill)


def _pad_crop_by_products(
    image: jax.Array, top: ArrayLike, left: ArrayLike, fill: ArrayLike
) -> jax.Array:
    """Moves `u8[H,W,C]` up and left by matrix products instead of gathers."""
    height, width, channels = check_image(image)
    check_fill(fill, channels)
    rows = top + jnp.arange(height, dtype=jnp.int32)
    columns = left + jnp.arange(width, dtype=jnp.int32)
    cut = one_hot.pick(jnp.asarray(image), rows)
    cut = one_hot.pick(cut.swapaxes(0, 1), columns).swapaxes(0, 1)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    outside = jnp.broadcast_to(jnp.asarray(fill, jnp.uint8), cut.shape)
    return jnp.where(inside[:, :, None], cut, outside)


def random_pad_crop(
    key: jax.Array, image: jax.Array, padding: int, fill: Fill = "black", last: bool = True
) -> jax.Array:
    """Pads an image on all sides and cuts it at a uniform place, 0..2*padding inclusive.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      padding: pixels added on each side.
      fill: `u8[C]`, the colour of the padding.
      last: False to leave the last place out in both directions, as the code of AutoAugment and
        PBA does.

    Returns:
      `u8[H,W,C]`.

    Source: `RandomCrop(size, padding)` of torchvision; `zero_pad_and_crop` of AutoAugment.
    """
    places = 2 * padding + 1 if last else max(2 * padding, 1)
    top, left = jax.random.randint(key, (2,), 0, places)
    return pad_crop(image, top, left, padding, fill)


def check_pad_crop(arguments: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Validates that a padding is neither negative nor larger than the image.

    Args:
      arguments: what a user wrote for `random_pad_crop`.
      size: height and width of the images in pixels.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if not 0 <= arguments["padding"] <= min(size):
        raise ArgumentError(f"got padding={arguments['padding']}", f"must be 0..{min(size)} pixels")
