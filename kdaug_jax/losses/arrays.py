"""What several losses compute with: exact products, lengths, pooling. All in float32."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices in full float32, where accelerators would otherwise round the factors.

    Args:
      a: `f32[...,N,K]`.
      b: `f32[...,K,M]`.

    Returns:
      `f32[...,N,M]`.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def flat(features: jax.Array) -> jax.Array:
    """Gives `f32[B,D]` of `[B,...]`."""
    return features.reshape(features.shape[0], -1).astype(jnp.float32)


def normalized(x: jax.Array, axis: int = -1, eps: float = 1e-12) -> jax.Array:
    """Divides by max(length, eps), as PyTorch's `F.normalize`; 0 has the gradient 0.

    Args:
      x: `f32[...]`.
      axis: along which the length is taken.
      eps: the smallest length that is divided by.

    Returns:
      `f32[...]`.
    """
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    # The square of a small eps is no float32, and the square root of 0 has no gradient.
    positive = square > 0
    length = jnp.sqrt(jnp.where(positive, square, 1.0))
    return jnp.where(positive, x / jnp.maximum(length, eps), 0.0)


def huber(difference: jax.Array) -> jax.Array:
    """Gives d^2 / 2 up to 1 and |d| - 1/2 beyond, elementwise (smooth L1 with beta = 1)."""
    size = jnp.abs(difference)
    return jnp.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


def pool_to(features: jax.Array, side: int) -> jax.Array:
    """Averages over windows, so that maps become `side` x `side`.

    Args:
      features: `f32[B,H,H,C]`, H a multiple of `side`.
      side: the new height and width.

    Returns:
      `f32[B,side,side,C]`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    batch, height, width, channels = features.shape
    if height == width == side:
        return features
    if height % side or width % side:
        raise ArgumentError(
            f"cannot pool maps of {height}x{width} to {side}x{side}",
            "choose features of which one divides the other",
        )
    windows = features.reshape(batch, side, height // side, side, width // side, channels)
    return jnp.mean(windows, axis=(2, 4))


def pooled_alike(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pools the larger of two maps to the smaller one's height and width.

    Args:
      a: `[B,H,W,C]`.
      b: `[B,H',W',C']`.

    Returns:
      Both in float32, with equal height and width.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    need_maps(a, b)
    side = min(a.shape[1], b.shape[1])
    return tuple(pool_to(x.astype(jnp.float32), side) for x in (a, b))


def need_maps(*features: jax.Array) -> None:
    """Refuses what is not a batch of maps.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    for one in features:
        if one.ndim != 4:
            raise ArgumentError(
                f"works on maps [B,H,W,C], got {list(one.shape)}", "choose a feature before the pooling"
            )


def need_equal(what: str, student: jax.Array, teacher: jax.Array) -> None:
    """Refuses a student and a teacher whose activations have different shapes.

    Args:
      what: what has to be equal, for the message.
      student: `[B,...]`.
      teacher: `[B,...]`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    if student.shape != teacher.shape:
        raise ArgumentError(
            f"needs equal {what}, the student has {list(student.shape[1:])} and the teacher "
            f"{list(teacher.shape[1:])}",
            "choose other features, or a loss with an adapter",
        )


def masked_mean(value: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages `f32[B]` over the rows that count; 0 where none does.

    Args:
      value: `f32[B]`.
      mask: `bool[B]`.

    Returns:
      `f32[]`.
    """
    kept = jnp.sum(mask, dtype=jnp.float32)
    return jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(kept, 1.0)


def over_groups(
    function: Callable[..., jax.Array], groups: int, *arrays: jax.Array
) -> jax.Array:
    """Averages a loss that compares examples over the groups of a batch.

    Args:
      function: `f(*arrays [B/groups,...]) -> f32[]` of one group.
      groups: their number.
      *arrays: `[B,...]`, or trees of such.

    Returns:
      `f32[]`.
    """
    if groups == 1:
        return function(*arrays)
    split = jax.tree.map(lambda array: array.reshape(groups, -1, *array.shape[1:]), arrays)
    return jnp.mean(jax.vmap(function)(*split))
