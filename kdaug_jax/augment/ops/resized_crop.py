"""Crops of random size and shape, and the middle of an image, resized to one size.

Pillow's resizing is in `random_resized_crop` and `center_crop`; TensorFlow's, and the way in
which its op draws boxes, in `inception_crop` and `efficientnet_crop`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.augment.ops.boxes import draw_box, draw_inception_box
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.resizing import (
    Method,
    resize,
    resize_box,
    resize_box_tensorflow,
    resize_tensorflow,
    to_bytes,
)
from kdaug_jax.images.boxes import center_box, middle_or_drawn
from kdaug_jax.images.crops import Crop, check, check_ranges


def random_resized_crop(
    key: jax.Array,
    image: jax.Array,
    size: int,
    method: Method = "bilinear",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cuts a box of random area, shape and place out of an image and resizes it to a square.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      size: S, side of the result in pixels.
      method: "bilinear" or "bicubic", both Pillow's.
      scale: see `draw_box`.
      ratio: see `draw_box`.

    Returns:
      `u8[S,S,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, an unknown method, or ranges that are none.

    Source: Szegedy et al. 2015; `RandomResizedCrop` of torchvision on images of Pillow.
    """
    height, width, _ = check_image(image)
    check_ranges(scale, ratio)
    box = draw_box(key, height, width, scale, ratio)
    return resize_box(image, *box, (size, size), method)


def inception_crop(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Cuts and resizes an image as EfficientNet's training does, before mirroring.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      size: S, side of the result in pixels.

    Returns:
      `u8[S,S,C]`, TensorFlow 1's bicubic limited to 0..255 and cut off. Where the box is the
      whole image, the middle is taken as in evaluation, but at least one pixel.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`.

    Source: `_decode_and_random_crop` of Tan and Le 2019 (EfficientNet).
    """
    height, width, _ = check_image(image)
    drawn = draw_inception_box(key, height, width)
    box = middle_or_drawn(drawn, height, width, size, jnp)
    return to_bytes(resize_box_tensorflow(image, *box, (size, size)))


def efficientnet_crop(image: jax.Array, size: int, padding: int = 32) -> jax.Array:
    """Cuts and resizes the middle of an image as EfficientNet's evaluation does.

    Args:
      image: `u8[H,W,C]`.
      size: S, side of the result in pixels.
      padding: see `center_box`.

    Returns:
      `f32[S,S,C]`, TensorFlow 1's bicubic, not limited to 0..255.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, or the numbers do not suit it.

    Source: `_decode_and_center_crop` of Tan and Le 2019 (EfficientNet).
    """
    return resize_tensorflow(_middle_square(image, size, padding), (size, size))


def center_crop(
    image: jax.Array, size: int, padding: int = 32, method: Method = "bicubic"
) -> jax.Array:
    """Cuts and resizes the middle of an image with Pillow's resizing.

    Args:
      image: `u8[H,W,C]`.
      size: S, side of the result in pixels.
      padding: see `center_box`; 0 for the largest square.
      method: "bilinear" or "bicubic".

    Returns:
      `u8[S,S,C]`.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`, the numbers do not suit it, or an unknown method.
    """
    return resize(_middle_square(image, size, padding), (size, size), method)


def _middle_square(image: jax.Array, size: int, padding: int) -> jax.Array:
    """Cuts the square of `center_box` out of `u8[H,W,C]`."""
    height, width, _ = check_image(image)
    check(Crop("center_crop", {"size": size, "padding": padding}), (height, width))
    top, left, side, _ = center_box(height, width, size, padding)
    return jnp.asarray(image)[top : top + side, left : left + side]
