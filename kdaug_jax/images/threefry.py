"""The random words of `kdaug_jax.rng` and `jax.random` in NumPy, for whole batches.

No backend of JAX is started and nothing is compiled: a jitted call on the CPU would wait behind a
running step. Keys are their two words, `u32[...,2]`, as `jax.random.key_data` shows them.

Source: `threefry2x32` of JAX with `jax_threefry_partitionable`, its default.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def _threefry(keys: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encrypts pairs of `u32[...]` words by keys `u32[...,2]`: 20 rounds of Threefry-2x32."""
    key_0, key_1 = keys[..., 0], keys[..., 1]
    schedule = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    # Words wrap around, of which NumPy warns where there is a single one.
    with np.errstate(over="ignore"):
        x, y = x + key_0, y + key_1
        for group in range(5):
            for rotation in _ROTATIONS[group % 2]:
                x = x + y
                y = x ^ ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation)))
            x = x + schedule[(group + 1) % 3]
            y = y + (schedule[(group + 2) % 3] + np.uint32(group + 1))
    return x, y


def fold_in(keys: np.ndarray, data: ArrayLike) -> np.ndarray:
    """Derives keys from keys and numbers, as `jax.random.fold_in`.

    Args:
      keys: `u32[...,2]`.
      data: whole numbers `[...]` of a shape that broadcasts with that of the keys; of negative
        ones the two's complement counts.

    Returns:
      `u32[...,2]`.
    """
    data = np.asarray(data).astype(np.uint32)
    return np.stack(_threefry(keys, np.zeros_like(data), data), -1)


def fold(keys: np.ndarray, role: str) -> np.ndarray:
    """Derives the keys of a role, as `kdaug_jax.rng.fold`.

    Args:
      keys: `u32[...,2]`.
      role: what the keys are used for.

    Returns:
      `u32[...,2]`.
    """
    return fold_in(keys, zlib.crc32(role.encode()))


def example_keys(seed: int, role: str, epoch: int, index: np.ndarray) -> np.ndarray:
    """Returns a key per example, as `kdaug_jax.rng.example_keys`.

    Args:
      seed: of the run, 0..2^32-1.
      role: what the keys are used for, such as "view/x".
      epoch: of the run.
      index: `i[B]`, position of each example in its base split.

    Returns:
      `u32[B,2]`.
    """
    root = np.array([0, seed], np.uint32)
    return fold_in(fold_in(fold(root, "example/" + role), epoch), index)


def redraw(keys: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Returns the keys of another draw, as `kdaug_jax.rng.redraw`; draw 0 keeps the keys.

    Args:
      keys: `u32[N,2]`.
      draw: `i[N]`, at least 0.

    Returns:
      `u32[N,2]`.
    """
    return np.where((draw > 0)[:, None], fold_in(keys, draw), keys)


def bits(keys: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Returns random words, as `jax.random.bits` of each key.

    Args:
      keys: `u32[B,2]`.
      shape: of the words of a key; fewer than 2^32 of them.

    Returns:
      `u32[B,*shape]`.
    """
    place = np.arange(math.prod(shape), dtype=np.uint32)
    upper, lower = _threefry(keys[:, None], np.zeros_like(place), place)
    return (upper ^ lower).reshape(len(keys), *shape)
