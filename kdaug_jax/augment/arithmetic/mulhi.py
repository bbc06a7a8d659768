"""Products of 32-bit words that are longer than a word."""

from __future__ import annotations

import jax
import numpy as np

_LOWER = np.uint32(0xFFFF)


def mulhi(x: jax.Array, y: jax.Array) -> jax.Array:
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
    one = x_high * y_low + (x_low * y_low >> 16)
    other = x_low * y_high + (one & _LOWER)
    return x_high * y_high + (one >> 16) + (other >> 16)
