"""Lookups as matrix products with zeros and ones, exact, for devices whose gathers are slow.

A TPU fetches elements one by one, but multiplies matrices of bfloat16 at once and sums in float32.
Bytes are exact in bfloat16, float32 numbers in three pieces of it, and sums of whole numbers below
2^24 in float32, so no bit depends on which way was taken.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOST_WEIGHTS = 258  # 255 * 255 * 258 < 2^24
_UPPER = np.uint32(0xFFFF0000)


def pieces(lines: jax.Array) -> list[jax.Array]:
    """Splits `[...]` into bfloat16 numbers that add up to it: one for u8, three for f32."""
    if lines.dtype == jnp.uint8:
        return [lines.astype(jnp.bfloat16)]
    parts, rest = [], lines
    for _ in range(3):
        bits = lax.bitcast_convert_type(rest, jnp.uint32) & _UPPER
        part = lax.bitcast_convert_type(bits, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))
        rest = rest - part
    return parts


def pick(lines: jax.Array, places: jax.Array) -> jax.Array:
    """Takes lines along the first axis.

    Args:
      lines: `u8[N,...]` or `f32[N,...]`.
      places: `i32[M]`.

    Returns:
      `[M,...]` of the same dtype; zeros where a place is not in 0..N-1.
    """
    numbers = jnp.arange(lines.shape[0], dtype=jnp.int32)[None]
    hot = (places[:, None] == numbers).astype(jnp.bfloat16)
    parts = [
        jnp.tensordot(hot, part, 1, preferred_element_type=jnp.float32) for part in pieces(lines)
    ]
    # From the smallest on: each sum is a part of the number, so it is exact.
    total = parts[-1]
    for part in parts[-2::-1]:
        total = part + total
    return total.astype(jnp.int32).astype(jnp.uint8) if lines.dtype == jnp.uint8 else total


def weighted_sums(lines: jax.Array, first: jax.Array, weights: jax.Array) -> jax.Array:
    """Adds up lines that follow each other, with whole weights.

    Args:
      lines: `u8[N,...]`.
      first: `i32[M]`, number of the first line of each sum; lines outside count as zeros.
      weights: `i32[M,count]`, -2^23 to 2^23, count at most `MOST_WEIGHTS`.

    Returns:
      `i32[M,...]`.
    """
    numbers = jnp.arange(lines.shape[0], dtype=jnp.int32)[None]
    offsets = numbers - first[:, None]
    dense = jnp.zeros(offsets.shape, jnp.int32)
    for place in range(weights.shape[1]):
        dense = jnp.where(offsets == place, weights[:, place : place + 1], dense)
    values = lines.astype(jnp.bfloat16)
    # Three pieces of eight bits; the upper one has the sign.
    total = 0
    for piece, shift in ((dense & 255, 0), ((dense >> 8) & 255, 8), (dense >> 16, 16)):
        part = jnp.tensordot(
            piece.astype(jnp.bfloat16), values, 1, preferred_element_type=jnp.float32
        )
        total = total + (part.astype(jnp.int32) << shift)
    return total


def tally(values: jax.Array) -> jax.Array:
    """Counts values.

    Args:
      values: `i32[...]` in 0..255, fewer than 2^24.

    Returns:
      `i32[256]`.
    """
    flat = values.reshape(-1)[:, None]
    digits = jnp.arange(16, dtype=jnp.int32)[None]
    upper, lower = (
        (digit == digits).astype(jnp.bfloat16) for digit in (flat >> 4, flat & 15)
    )
    counts = lax.dot_general(
        upper, lower, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return counts.astype(jnp.int32).reshape(256)
