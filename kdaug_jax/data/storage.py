"""How images that stay on the devices are stored: flat, since a device pads the last axes.

A TPU stores arrays in tiles of 8 or more times 128 elements, so `u8[N,32,32,3]` would take many
times its bytes and be laid out anew in each call. Words `i32[N,k,128]` fill whole tiles, and one
image is a block of them.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

LANES = 128
WORD = 4  # bytes


def row_bytes(size: tuple[int, int], platform: str) -> int:
    """Returns the bytes that one image takes on a device.

    Args:
      size: (height, width) of the image in pixels.
      platform: "cpu", "gpu" or "tpu".
    """
    count = 3 * math.prod(size)
    return -(-count // (WORD * LANES)) * WORD * LANES if platform == "tpu" else count


def store(images: np.ndarray, platform: str) -> np.ndarray:
    """Returns images in the form in which they stay on the devices.

    Args:
      images: `u8[N,H,W,3]`.
      platform: "cpu", "gpu" or "tpu".

    Returns:
      `u8[N,H·W·3]`, a view; for a TPU words `i32[N,k,128]`, the last of each image filled up with
      zeros.
    """
    flat = images.reshape(len(images), -1)
    if platform != "tpu":
        return flat
    padded = np.zeros((len(images), row_bytes(images.shape[1:3], platform)), np.uint8)
    padded[:, : flat.shape[1]] = flat
    return padded.view("<i4").reshape(len(images), -1, LANES)


def fetch(stored: jax.Array, rows: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the images `rows` of what `store` returned.

    Args:
      stored: `u8[N,H·W·3]` or `i32[N,k,128]`.
      rows: `i32[B]`, positions of images, 0..N-1.
      size: (height, width) of the images in pixels.

    Returns:
      `u8[B,H,W,3]`.
    """
    taken = stored[rows]
    if taken.dtype != jnp.uint8:  # from words to their bytes, the lowest first
        taken = jax.lax.bitcast_convert_type(taken, jnp.uint8).reshape(len(rows), -1)
    return taken[:, : 3 * math.prod(size)].reshape(-1, *size, 3)
