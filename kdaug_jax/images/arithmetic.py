"""Products that NumPy and every device compute alike, for arrays of NumPy and of JAX."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Array = TypeVar("Array")  # np.ndarray or jax.Array

_LOWER = np.uint32(0xFFFF)
UPPER_BITS = np.uint32(0xFFFFF000)  # of a float32: 12 bits of precision


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


def split(numbers: Array) -> tuple[Array, Array]:
    """Splits `f32[...]` into two `f32[...]` of 12 bits of precision each, whose sum it is."""
    upper = (numbers.view(np.uint32) & UPPER_BITS).view(np.float32)
    return upper, numbers - upper


def product(x_parts: Sequence[Array], y_parts: Sequence[Array]) -> Array:
    """Multiplies float32 numbers so that a compiler that merges roundings changes nothing.

    Each part of x times y is rounded once, and then their sum. With both parts of y the products
    are exact, so it does not matter where a compiler rounds. NumPy merges nothing: there y may be
    left in one part, which gives the same numbers.

    Args:
      x_parts: `f32[...]` of 12 bits each, as `split` returns them; bytes are one part.
      y_parts: `f32[...]`: the two of `split`, or y alone.

    Returns:
      `f32[...]`.
    """
    sums = [functools.reduce(operator.add, [x * y for y in y_parts]) for x in x_parts]
    return functools.reduce(operator.add, sums)
