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

from kdaug_jax.images.arithmetic import mulhi

_SIGN = np.uint32(1 << 31)
_BIAS = 1023
# Below the exponent of every normal number, so that a sum takes the other operand's.
_ZERO = -(1 << 14)


class Float64(NamedTuple):
    """The two words of IEEE float64 numbers: 1 bit of sign, 11 of exponent and 52 of fraction.

    Attributes:
      upper: `u32[...]`.
      lower: `u32[...]`.
    """

    upper: jax.Array
    lower: jax.Array

    def __neg__(self) -> Float64:
        return self._replace(upper=self.upper ^ _SIGN)


def to_bits(numbers) -> np.ndarray:
    """Returns the bits of host numbers, to be carried to the device.

    Args:
      numbers: finite floats, `[...]`.

    Returns:
      `u32[...,2]`, upper and lower word of each float64; see `from_bits`.
    """
    bits = np.asarray(numbers, np.float64).view(np.uint64)
    return np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], -1).astype(np.uint32)


def from_bits(bits: jax.Array) -> Float64:
    """Reads numbers `[...]` from the `u32[...,2]` of `to_bits`."""
    return Float64(bits[..., 0], bits[..., 1])


def from_int(number: jax.Array) -> Float64:
    """Reads whole numbers.

    Args:
      number: `i32[...]`, above -2^31.

    Returns:
      `[...]`.
    """
    size = jnp.abs(number).astype(jnp.uint32)
    zeros = lax.clz(size)
    high = size << (zeros & 31)
    exponent = jnp.where(number == 0, _ZERO, 31 - zeros.astype(jnp.int32))
    return _packed(number < 0, exponent, high, jnp.zeros_like(high))


def twice(x: Float64) -> Float64:
    """Doubles numbers `[...]`, which is exact."""
    return x._replace(upper=jnp.where(_is_zero(x), x.upper, x.upper + (1 << 20)))


def is_negative(x: Float64) -> jax.Array:
    """Says which numbers `[...]` are below zero: `bool[...]`."""
    return (x.upper >= _SIGN) & ~_is_zero(x)


def _is_zero(x: Float64) -> jax.Array:
    """Numbers too small to be normal count as zero."""
    return (x.upper & 0x7FF00000) == 0


def _exponent(x: Float64) -> jax.Array:
    biased = ((x.upper >> 20) & 0x7FF).astype(jnp.int32)
    return jnp.where(biased == 0, _ZERO, biased - _BIAS)


def _significand(x: Float64) -> tuple[jax.Array, jax.Array]:
    """Returns 64 bits of which the top one is set, but for zero, and the last 11 are not."""
    high = _SIGN | (x.upper << 11) | (x.lower >> 21)
    zero = _is_zero(x)
    return jnp.where(zero, 0, high), jnp.where(zero, 0, x.lower << 11)


def _packed(negative: jax.Array, exponent: jax.Array, high: jax.Array, low: jax.Array) -> Float64:
    """Packs ±(high * 2^32 + low) * 2^(exponent - 63), 53 bits; zero if the top bit is not set."""
    sign = negative.astype(jnp.uint32) << 31
    fraction = ((exponent + _BIAS).astype(jnp.uint32) << 20) | ((high << 1) >> 12)
    some = high >= _SIGN
    lower = (high << 21) | (low >> 11)
    return Float64(jnp.where(some, sign | fraction, 0), jnp.where(some, lower, 0))


def _shift_right(high: jax.Array, low: jax.Array, by: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shifts 64 bits by 0..63; whatever falls out sets the lowest bit."""
    far, by = by >= 32, by & 31
    lost = jnp.where(far, low, 0)
    low, high = jnp.where(far, high, low), jnp.where(far, 0, high)
    # Two shifts, because one by 32 is not defined.
    lost = lost | ((low << 1) << (31 - by))
    low = (low >> by) | ((high << 1) << (31 - by))
    return high >> by, low | (lost != 0).astype(jnp.uint32)


def _rounded(negative: jax.Array, exponent: jax.Array, high: jax.Array, low: jax.Array) -> Float64:
    """Moves the top bit of 64 bits to its place and rounds them to 53, half to even."""
    empty = high == 0
    high, low = jnp.where(empty, low, high), jnp.where(empty, 0, low)
    by = lax.clz(high) & 31  # any shift leaves 0 as it is
    high, low = (high << by) | ((low >> 1) >> (31 - by)), low << by
    exponent = exponent - by.astype(jnp.int32) - jnp.where(empty, 32, 0)
    # Just under half of the last place that is kept; an odd number adds what is missing.
    rounded = low + 0x3FF + ((low >> 11) & 1)
    carry = (rounded < low).astype(jnp.uint32)
    high = high + carry
    full = high < carry
    exponent = exponent + full.astype(jnp.int32)
    return _packed(negative, exponent, jnp.where(full, _SIGN, high), rounded)


def add(x: Float64, y: Float64) -> Float64:
    """Adds, rounded to the nearest float64, half to even.

    Args:
      x: `[...]`.
      y: `[...]`, of a shape that broadcasts with that of `x` at equal rank.

    Returns:
      `[...]`.
    """
    x_size, y_size = x.upper & ~_SIGN, y.upper & ~_SIGN
    larger = (x_size > y_size) | ((x_size == y_size) & (x.lower > y.lower))
    a = Float64(jnp.where(larger, x.upper, y.upper), jnp.where(larger, x.lower, y.lower))
    b = Float64(jnp.where(larger, y.upper, x.upper), jnp.where(larger, y.lower, x.lower))
    by = jnp.minimum(_exponent(a) - _exponent(b), 62).astype(jnp.uint32)
    # All one bit lower, which makes room for the carry of a sum.
    high, low = _significand(a)
    a_high, a_low = high >> 1, (low >> 1) | (high << 31)
    b_high, b_low = _shift_right(*_significand(b), by + 1)
    minus = ((a.upper ^ b.upper) & _SIGN) != 0
    low = jnp.where(minus, a_low - b_low, a_low + b_low)
    # Numbers are chosen, not truths: Mosaic has no choice between those.
    borrow, excess = ((x < y).astype(jnp.uint32) for x, y in ((a_low, b_low), (low, a_low)))
    carry = jnp.where(minus, borrow, excess)
    high = jnp.where(minus, a_high - b_high - carry, a_high + b_high + carry)
    return _rounded(a.upper >= _SIGN, _exponent(a) + 1, high, low)


def multiply(x: Float64, y: Float64) -> Float64:
    """Multiplies, rounded to the nearest float64, half to even.

    Args:
      x: `[...]`.
      y: `[...]`, of a shape that broadcasts with that of `x` at equal rank.

    Returns:
      `[...]`.
    """
    (x_high, x_low), (y_high, y_low) = _significand(x), _significand(y)
    cross, other_cross = x_high * y_low, x_low * y_high
    middle = cross + other_cross
    carry = (middle < cross).astype(jnp.uint32)
    rest = middle + mulhi(x_low, y_low)
    carry = carry + (rest < middle).astype(jnp.uint32)
    rest = rest | (x_low * y_low)
    low = x_high * y_high
    high = mulhi(x_high, y_high)
    for part in (mulhi(x_high, y_low), mulhi(x_low, y_high), carry):
        low = low + part
        high = high + (low < part).astype(jnp.uint32)
    low = low | (rest != 0).astype(jnp.uint32)
    negative = ((x.upper ^ y.upper) & _SIGN) != 0
    return _rounded(negative, _exponent(x) + _exponent(y) + 1, high, low)


def truncate(x: Float64) -> jax.Array:
    """Returns the whole part of each number, rounded toward zero.

    Args:
      x: `[...]`.

    Returns:
      `i32[...]`; numbers of 2^31 and more give 2^31 - 1 with their sign.
    """
    exponent = _exponent(x)
    by = jnp.clip(31 - exponent, 0, 31).astype(jnp.uint32)
    whole = jnp.where(exponent < 0, 0, _significand(x)[0] >> by)
    whole = jnp.where(exponent > 30, 0x7FFFFFFF, whole).astype(jnp.int32)
    return jnp.where(x.upper >= _SIGN, -whole, whole)
