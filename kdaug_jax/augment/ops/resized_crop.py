"""Crops of random size and shape, and the middle of an image, resized to one size.

Pillow's resizing is in `random_resized_crop` and `center_crop`; TensorFlow's, and the way in
which its op draws boxes, in `inception_crop` and `efficientnet_crop`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.augment.ops.boxes import center_box, draw_box, draw_inception_box
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.resizing import (
    Method,
    resize,
    resize_box,
    resize_box_tensorflow,
    resize_tensorflow,
    to_bytes,
)
from kdaug_jax.errors import ArgumentError


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


def check_ranges(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    """Refuses ranges from which no box can be drawn.

    Args:
      scale: see `draw_box`.
      ratio: see `draw_box`.

    Raises:
      ArgumentError: not two numbers, not in order, or out of range.
    """
    if not _is_pair(scale) or not 0 < scale[0] <= scale[1] <= 1:
        raise ArgumentError(f"scale={scale}; must be two fractions above 0, the smaller first")
    if not _is_pair(ratio) or not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ArgumentError(f"ratio={ratio}; must be two numbers above 0, the smaller first")


def _is_pair(value: Any) -> bool:
    numbers = isinstance(value, tuple | list) and len(value) == 2
    return numbers and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in value
    )


def inception_crop(key: jax.Array, image: jax.Array, size: int) -> jax.Array:
    """Cuts and resizes an image as EfficientNet's training does, before mirroring.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      size: S, side of the result in pixels.

    Returns:
      `u8[S,S,C]`, TensorFlow 1's bicubic limited to 0..255 and cut off. Where the box is the
      whole image, the middle is taken as in evaluation.

    Raises:
      TypeError: the image is not uint8.
      ArgumentError: the image is not `[H,W,C]`.

    Source: `_decode_and_random_crop` of Tan and Le 2019 (EfficientNet).
    """
    height, width, _ = check_image(image)
    drawn = draw_inception_box(key, height, width)
    whole = (drawn.height == height) & (drawn.width == width)
    middle = center_box(height, width, size)
    box = (jnp.where(whole, one, other) for one, other in zip(middle, drawn, strict=True))
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
    top, left, side = middle(height, width, size, padding)
    return jnp.asarray(image)[top : top + side, left : left + side]


def middle(height: int, width: int, size: int, padding: int) -> tuple[int, int, int]:
    """Returns the square of `center_box`: its first row, its first column and its side.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.
      size: side of the result in pixels.
      padding: see `center_box`.

    Raises:
      ArgumentError: numbers out of range, or a square without pixels.
    """
    if size < 1 or padding < 0:
        raise ArgumentError(f"size={size}, padding={padding}; must be at least 1 and 0 pixels")
    top, left, side, _ = center_box(height, width, size, padding)
    if side < 1:
        raise ArgumentError(
            f"size={size}, padding={padding} leave nothing of the {height}x{width} image; "
            "take a smaller padding"
        )
    return top, left, side
