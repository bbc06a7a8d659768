"""Resizing by the shorter side, and crops that resize nothing, as torchvision has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.resizing import Method, resize
from kdaug_jax.images.boxes import center_start, random_start, shorter_size
from kdaug_jax.images.crops import Crop, check


def resize_shorter(image: jax.Array, side: int, method: Method = "bilinear") -> jax.Array:
    """Resizes an image so that its shorter side has a given length.

    Args:
      image: `u8[H,W,C]`.
      side: of the result in pixels; the longer side keeps the proportion, cut to whole pixels.
      method: "bilinear" or "bicubic", both Pillow's.

    Returns:
      `u8[side,W',C]` or `u8[H',side,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, a side below 1 or that makes more than 2^27 - 1
        pixels, or an unknown method.

    Source: `Resize(int)` of torchvision on images of Pillow.
    """
    height, width, _ = check_image(image)
    check(Crop("resize_shorter", {"side": side, "method": method}), (height, width))
    tall, wide = shorter_size(height, width, side)
    return resize(image, (int(tall), int(wide)), method)


def crop_center(image: jax.Array, size: int) -> jax.Array:
    """Cuts a square out of the middle of an image, with zeros where it reaches beyond.

    Args:
      image: `u8[H,W,C]`.
      size: S, side of the square in pixels.

    Returns:
      `u8[S,S,C]`. Of an odd number of pixels cut off, halves are rounded to even; of an odd number
      added, the larger part comes below and to the right.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, or a size below 1.

    Source: `CenterCrop` of torchvision.
    """
    height, width, _ = check_image(image)
    check(Crop("crop_center", {"size": size}), (height, width))
    edges = []
    for length in (height, width):
        start = int(center_start(length, size))
        edges.append((-start, start + size - length, 0))  # below 0: cut off
    return lax.pad(jnp.asarray(image), np.uint8(0), [*edges, (0, 0, 0)])


def crop_random(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Cuts a square out of an image, at a uniform place.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      size: S, side of the square in pixels.

    Returns:
      `u8[S,S,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]` or is smaller than the square, or a size below 1.

    Source: `RandomCrop` of torchvision, without padding.
    """
    height, width, channels = check_image(image)
    check(Crop("crop_random", {"size": size}), (height, width))
    top, left = random_start(jax.random.bits(key, (2,)), height, width, size, jnp)
    start = (top, left, jnp.int32(0))
    return lax.dynamic_slice(jnp.asarray(image), start, (size, size, channels))
