"""Who is mixed with whom inside a group.

Valid rows find partners among the valid rows only, and each is the partner of exactly one; rows
that only fill the batch up are their own partners, as is a valid row that is alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def permutation(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Draws a uniform permutation of the valid rows; a row may be its own partner.

    Args:
      key: `key[]`.
      mask: `bool[B]`, True on valid rows.

    Returns:
      `i32[B]`, the row of each row's partner.
    """
    rows = jnp.arange(mask.shape[0])
    bits = jax.random.bits(key, mask.shape, jnp.uint32)
    # Both list the valid rows first: in order, and in a random order.
    shuffled = jnp.lexsort((jnp.where(mask, bits, rows.astype(jnp.uint32)), ~mask))
    return _matched(_valid_first(mask), shuffled)


def derangement(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Draws a uniform permutation in which no valid row is its own partner.

    Permutations are drawn until one fits, 2.7 on average.

    Args:
      key: `key[]`.
      mask: `bool[B]`, True on valid rows.

    Returns:
      `i32[B]`, the row of each row's partner.
    """
    rows = jnp.arange(mask.shape[0])
    possible = jnp.sum(mask) > 1

    def unfit(state):
        return possible & jnp.any(mask & (state[1] == rows))

    def redraw(state):
        attempt, _ = state
        return attempt + 1, permutation(jax.random.fold_in(key, attempt), mask)

    return jax.lax.while_loop(unfit, redraw, (jnp.uint32(0), rows))[1]


def flip(key: jax.Array, mask: jax.Array) -> jax.Array:
    """Pairs the first valid row with the last, and so on; the middle of an odd number is alone.

    Args:
      key: `key[]`, not used.
      mask: `bool[B]`, True on valid rows.

    Returns:
      `i32[B]`, the row of each row's partner.

    Source: `Mixup` of timm.
    """
    del key
    rows, ordered, valid = jnp.arange(mask.shape[0]), _valid_first(mask), jnp.sum(mask)
    return _matched(ordered, ordered[jnp.where(rows < valid, valid - 1 - rows, rows)])


def _valid_first(mask: jax.Array) -> jax.Array:
    return jnp.argsort(~mask, stable=True)


def _matched(rows: jax.Array, partners: jax.Array) -> jax.Array:
    """Returns each of `rows` its partner, by row."""
    return jnp.zeros_like(rows).at[rows].set(partners).astype(jnp.int32)


PARTNERS = {"permutation": permutation, "derangement": derangement, "flip": flip}
