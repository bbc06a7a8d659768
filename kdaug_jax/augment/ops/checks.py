"""Validation of what ops are given; every message says what would be right."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.images.boxes import check_pixels
from kdaug_jax.types import is_known


def check_image(image: Any, channels: tuple[int, ...] | None = None) -> tuple[int, int, int]:
    """Validates the shape and dtype of an image of bytes.

    Args:
      image: should be `u8[H,W,C]`.
      channels: the legal values of C, or None for any.

    Returns:
      Height, width and number of channels.

    Raises:
      TypeError: not an array of uint8.
      ArgumentError: not three axes, an empty one, another number of channels, or more than
        2^27 - 1 pixels.
    """
    legal = "C" if channels is None else " or ".join(map(str, channels))
    right = f"must be uint8 [H,W,{legal}]"
    if not isinstance(image, (np.ndarray, jax.Array)):
        raise TypeError(f"image is a {type(image).__name__}; {right}")
    description = f"image is {image.dtype}{list(image.shape)}"
    if image.dtype != np.uint8:
        raise TypeError(f"{description}; {right}")
    if image.ndim != 3:
        raise ArgumentError(description, f"{right}, map over a batch with jax.vmap")
    if 0 in image.shape or (channels and image.shape[2] not in channels):
        raise ArgumentError(description, right)
    check_pixels(*image.shape[:2])
    return image.shape


def check_batch(images: Any, channels: tuple[int, ...] = (3, 4)) -> None:
    """Validates the shape and dtype of a batch of images of bytes.

    Args:
      images: should be `u8[B,H,W,C]`.
      channels: the legal values of C.

    Raises:
      TypeError: not an array of uint8.
      ArgumentError: not four axes, images without pixels, another number of channels, or more than
        2^27 - 1 pixels.
    """
    right = f"must be uint8 [B,H,W,{' or '.join(map(str, channels))}]"
    if not isinstance(images, (np.ndarray, jax.Array)):
        raise TypeError(f"images are a {type(images).__name__}; {right}")
    description = f"images are {images.dtype}{list(images.shape)}"
    if images.dtype != np.uint8:
        raise TypeError(f"{description}; {right}")
    if images.ndim != 4 or 0 in images.shape[1:] or images.shape[3] not in channels:
        raise ArgumentError(description, right)
    check_pixels(*images.shape[1:3])


def check_keys(keys: Any, images: Any) -> None:
    """Validates that there is one key for each image.

    Args:
      keys: should be `key[B]`.
      images: `[B,...]`.

    Raises:
      ArgumentError: not an array of keys, or not as many as images.
    """
    typed = isinstance(keys, jax.Array) and jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if not typed or keys.shape != images.shape[:1]:
        description = f"{keys.dtype}{list(keys.shape)}" if hasattr(keys, "shape") else repr(keys)
        raise ArgumentError(
            f"{len(images)} images with keys {description}",
            "must be one key for each image, as "
            "jax.random.split(jax.random.key(0), len(images)) gives"
        )


def is_host(number: Any) -> bool:
    """Returns whether a number is known before anything is traced.

    Args:
      number: a Python or NumPy number, or an array of JAX.

    Returns:
      False for arrays of JAX.
    """
    return not isinstance(number, jax.Array)


def check_number(name: str, number: Any, low: float, high: float, whole: bool = False) -> None:
    """Validates the range of a magnitude; traced values cannot be seen and pass, as do arrays.

    Args:
      name: of the argument.
      number: what was given.
      low: smallest legal value.
      high: largest legal value.
      whole: True where fractions are not legal.

    Raises:
      TypeError: not a number.
      ArgumentError: out of range, or a fraction where a whole number is due.
    """
    if isinstance(number, jax.Array) and (number.ndim or not is_known(number)):
        return
    kind = "a whole number" if whole else "a number"
    reach = f"{low:g}..{high:g}" if math.isfinite(high) else f"of {low:g} or more"
    if not math.isfinite(low):
        reach = "that is finite"
    value = np.asarray(number)
    if isinstance(number, jax.Array) and jnp.issubdtype(number.dtype, jnp.floating):
        value = value.astype(np.float32)  # NumPy does not know bfloat16
    if value.dtype.kind not in "iuf" or value.ndim:
        raise TypeError(f"{name} is {number!r}; must be {kind} {reach}")
    if not (low <= value <= high and np.isfinite(value) and (not whole or value == int(value))):
        raise ArgumentError(f"{name}={number}", f"must be {kind} {reach}")


def check_host(name: str, number: Any, limit: float = math.inf) -> float:
    """Validates a magnitude that must be known on the host, where tables are built.

    Args:
      name: of the argument.
      number: what was given.
      limit: largest legal size, positive or negative.

    Returns:
      The number as a Python float.

    Raises:
      TypeError: traced, or not a number.
      ArgumentError: larger than `limit` or not finite.
    """
    if not is_host(number):
        raise TypeError(
            f"{name} is traced; it must be a Python number, because the map is computed on the "
            "host in double precision (pass traced coefficients to affine_nearest and its like)"
        )
    check_number(name, number, -limit, limit)
    return float(number)


def check_fill(fill: Any, channels: int) -> None:
    """Validates a colour; of traced ones, only the shape.

    Args:
      fill: should be `u8[channels]`, or one level for all channels.
      channels: of the image.

    Raises:
      TypeError: a name; names are turned into colours by the view language.
      ArgumentError: of another length, or not whole numbers 0..255.
    """
    if isinstance(fill, str):
        raise TypeError(f"fill={fill!r} is a name; an op takes a colour, u8[C]")
    right = f"must be {channels} whole numbers 0..255, one for each channel"
    if np.shape(fill) not in ((), (channels,)):
        raise ArgumentError(f"fill has shape {np.shape(fill)}", right)
    if is_known(fill) and not all(
        0 <= level <= 255 and level == int(level) for level in np.ravel(fill)
    ):
        raise ArgumentError(f"fill={fill}", right)
