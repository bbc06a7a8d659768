"""PRNG keys: each is a function of the place where it is used; none is carried along.

A key depends on `(seed, role, epoch, index)` for what is drawn per example, and on
`(seed, role, epoch, step)` for what is drawn per batch. Roles are strings, hashed by CRC-32 so
that they mean the same in every process and Python version.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax.types import Clock


def root(seed: ArrayLike) -> jax.Array:
    """Returns the root key of a seed (`u32[]`, traced or not); threefry on every backend."""
    return jax.random.key(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")


def fold(key: jax.Array, role: str) -> jax.Array:
    """Derives the key of `role` from a key or, elementwise, from an array of keys.

    Args:
      key: `key[...]`.
      role: what the key is used for.

    Returns:
      `key[...]` of the same shape.
    """
    number = jnp.uint32(zlib.crc32(role.encode()))
    derive = jax.random.fold_in
    for _ in range(key.ndim):
        derive = jax.vmap(derive, in_axes=(0, None))
    return derive(key, number)


def init_key(seed: ArrayLike, role: str) -> jax.Array:
    """Returns the key that initialises the parameters of `role`."""
    return fold(root(seed), "init/" + role)


def example_keys(clock: Clock, role: str, index: jax.Array) -> jax.Array:
    """Returns a key per example, independent of the batch and the place in which it lies.

    Args:
      clock: only its seed and epoch are used.
      role: what the keys are used for, such as a view's name.
      index: `i32[B]`, position of each example in its base split.

    Returns:
      `key[B]`.
    """
    key = jax.random.fold_in(fold(root(clock.seed), "example/" + role), clock.epoch)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def redraw(keys: jax.Array, draw: jax.Array) -> jax.Array:
    """Returns the keys of another draw for the same examples; draw 0 keeps the keys.

    Args:
      keys: `key[N]`.
      draw: `i32[N]`, at least 0.

    Returns:
      `key[N]`.
    """
    return jnp.where(draw > 0, jax.vmap(jax.random.fold_in)(keys, draw), keys)


def batch_key(clock: Clock, role: str) -> jax.Array:
    """Returns the key for what `role` draws once per batch, or micro-batch, of a step."""
    key = jax.random.fold_in(fold(root(clock.seed), "batch/" + role), clock.epoch)
    return jax.random.fold_in(jax.random.fold_in(key, clock.step), clock.part)
