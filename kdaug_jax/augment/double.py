"""IEEE double precision in uint32 arithmetic, bit for bit, for devices that have no float64.

Pillow interpolates in double precision and then cuts the fraction off, so a value one rounding
below a whole number is another pixel. Only the same roundings give the same pixels. What is here
is what interpolation needs: sums, products and whole parts of normal numbers and zero.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Below the exponent of every normal number, so that a sum takes the other operand's.
_ZERO = -(1 << 14)


class Double(NamedTuple):
    """Numbers ±(high * 2^32 + low) * 2^(exponent - 63), each field of one shape.

    The top bit of `high` is set, and the lowest 11 bits of `low` are not: 53 bits of precision.
    Zero has both words 0 and an exponent below all others.

    Attributes:
      negative: `bool[...]`.
      exponent: `i32[...]`.
      high: `u32[...]`.
      low: `u32[...]`.
    """

    negative: jax.Array
    exponent: jax.Array
    high: jax.Array
    low: jax.Array

    def __neg__(self) -> Double:
        return self._replace(negative=~self.negative)


def words(numbers) -> np.ndarray:
    """Gives the bits of host numbers, to be carried to the device.

    Args:
      numbers: finite floats, `[...]`.

    Returns:
      `u32[...,2]`, upper and lower word of each IEEE double.
    """
    bits = np.asarray(numbers, np.float64).view(np.uint64)
    return np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], -1).astype(np.uint32)


def from_words(bits: jax.Array) -> Double:
    """Reads numbers from `words`.

    Args:
      bits: `u32[...,2]`.

    Returns:
      `[...]`; numbers too small to be normal become zero.
    """
    upper, lower = bits[..., 0], bits[..., 1]
    biased = ((upper >> 20) & 0x7FF).astype(jnp.int32)
    zero = biased == 0
    high = jnp.uint32(1 << 31) | ((upper & 0xFFFFF) << 11) | (lower >> 21)
    return Double(
        ((upper >> 31) == 1) & ~zero,
        jnp.where(zero, _ZERO, biased - 1023),
        jnp.where(zero, 0, high),
        jnp.where(zero, 0, lower << 11),
    )


def from_int(number: jax.Array) -> Double:
    """Reads whole numbers.

    Args:
      number: `i32[...]`, above -2^31.

    Returns:
      `[...]`.
    """
    size = jnp.abs(number).astype(jnp.uint32)
    zeros = lax.clz(size)
    high = size << jnp.minimum(zeros, 31)
    exponent = jnp.where(number == 0, _ZERO, 31 - zeros.astype(jnp.int32))
    return Double(number < 0, exponent, high, jnp.zeros_like(high))


def _shift_right(high: jax.Array, low: jax.Array, by: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shifts 64 bits by 0..63; whatever falls out sets the lowest bit."""
    far, by = by >= 32, by & 31
    lost = jnp.where(far, low, 0)
    low, high = jnp.where(far, high, low), jnp.where(far, 0, high)
    # Two shifts, because one by 32 is not defined.
    lost = lost | ((low << 1) << (31 - by))
    low = (low >> by) | ((high << 1) << (31 - by))
    return high >> by, low | (lost != 0).astype(jnp.uint32)


def _normal(negative: jax.Array, exponent: jax.Array, high: jax.Array, low: jax.Array) -> Double:
    """Moves the top bit of 64 bits to its place and rounds them to 53, half to even."""
    empty = high == 0
    high, low = jnp.where(empty, low, high), jnp.where(empty, 0, low)
    zero = high == 0
    by = jnp.minimum(lax.clz(high), 31)
    high, low = (high << by) | ((low >> 1) >> (31 - by)), low << by
    exponent = exponent - by.astype(jnp.int32) - jnp.where(empty, 32, 0)
    # Just under half of the last place that is kept; an odd number adds what is missing.
    rounded = low + 0x3FF + ((low >> 11) & 1)
    high = high + (rounded < low).astype(jnp.uint32)
    carried = (high == 0) & ~zero
    return Double(
        negative & ~zero,
        jnp.where(zero, _ZERO, exponent + carried.astype(jnp.int32)),
        jnp.where(carried, jnp.uint32(1 << 31), high),
        rounded & jnp.uint32(0xFFFFF800),
    )


def add(x: Double, y: Double) -> Double:
    """Adds, rounded to the nearest double, half to even.

    Args:
      x: `[...]`.
      y: `[...]`, of a shape that broadcasts with that of `x` at equal rank.

    Returns:
      `[...]`.
    """
    more = (x.high > y.high) | ((x.high == y.high) & (x.low > y.low))
    larger = (x.exponent > y.exponent) | ((x.exponent == y.exponent) & more)
    a = Double(*(jnp.where(larger, one, other) for one, other in zip(x, y, strict=True)))
    b = Double(*(jnp.where(larger, other, one) for one, other in zip(x, y, strict=True)))
    by = jnp.minimum(a.exponent - b.exponent, 62).astype(jnp.uint32)
    # All one bit lower, which makes room for the carry of a sum.
    a_high, a_low = _shift_right(a.high, a.low, jnp.ones_like(by))
    b_high, b_low = _shift_right(b.high, b.low, by + 1)
    minus = a.negative != b.negative
    low = jnp.where(minus, a_low - b_low, a_low + b_low)
    carry = jnp.where(minus, a_low < b_low, low < a_low).astype(jnp.uint32)
    high = jnp.where(minus, a_high - b_high - carry, a_high + b_high + carry)
    return _normal(a.negative, a.exponent + 1, high, low)


def multiply(x: Double, y: Double) -> Double:
    """Multiplies, rounded to the nearest double, half to even.

    Args:
      x: `[...]`.
      y: `[...]`, of a shape that broadcasts with that of `x` at equal rank.

    Returns:
      `[...]`.
    """
    one, other = x.high * y.low, x.low * y.high
    middle = one + other
    carry = (middle < one).astype(jnp.uint32)
    lowest = lax.mulhi(x.low, y.low)
    sticky = middle + lowest
    carry = carry + (sticky < middle).astype(jnp.uint32)
    sticky = sticky | (x.low * y.low)
    low = x.high * y.high
    high = lax.mulhi(x.high, y.high)
    for part in (lax.mulhi(x.high, y.low), lax.mulhi(x.low, y.high), carry):
        low = low + part
        high = high + (low < part).astype(jnp.uint32)
    low = low | (sticky != 0).astype(jnp.uint32)
    return _normal(x.negative != y.negative, x.exponent + y.exponent + 1, high, low)


def truncate(x: Double) -> jax.Array:
    """Gives the whole part of each number, rounded toward zero.

    Args:
      x: `[...]`.

    Returns:
      `i32[...]`; numbers of 2^31 and more give 2^31 - 1 with their sign.
    """
    by = jnp.clip(31 - x.exponent, 0, 31).astype(jnp.uint32)
    whole = jnp.where(x.exponent < 0, 0, x.high >> by)
    whole = jnp.where(x.exponent > 30, 0x7FFFFFFF, whole).astype(jnp.int32)
    return jnp.where(x.negative, -whole, whole)
