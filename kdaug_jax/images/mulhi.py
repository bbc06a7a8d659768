"""Products of 32-bit words that are longer than a word, for arrays of NumPy and of JAX."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Array = TypeVar("Array")  # np.ndarray or jax.Array

_LOWER = np.uint32(0xFFFF)


def mulhi(x: Array, y: Array) -> Array:
    """Returns the upper word of the 64-bit products of `u32[...]`.

    It is put together from halves: XLA's own operation, `jax.lax.mulhi`, cannot be compiled for
    several devices (jax 0.10).

    Args:
      x: `u32[...]`.
      y: `u32[...]`, of the same shape.

    Returns:
      `u32[...]`.
    """
    x_low, x_high, y_low, y_high = x & _LOWER, x >> 16, y & _LOWER, y >> 16
    # No sum overflows: (2^16 - 1)^2 + 2^16 - 1 < 2^32.
    upper = x_high * y_low + (x_low * y_low >> 16)
    lower = x_low * y_high + (upper & _LOWER)
    return x_high * y_high + (upper >> 16) + (lower >> 16)
