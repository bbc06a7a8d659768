"""Max pooling, whose gradient XLA's CPU backend computes slowly by itself."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.models.convolutions.apply import platforms
from kdaug_jax.models.convolutions.windows import interleave


def max_pool(
    x: jax.Array, size: int, stride: int, padding: int = 0
) -> jax.Array:
    """Takes the largest of each square window; the gradient goes to the first of equal ones.

    Args:
      x: `dtype[B,H,W,C]`.
      size: side of the windows.
      stride: step between windows, in both directions.
      padding: pixels on each side that are smaller than any other.

    Returns:
      `dtype[B,H',W',C]`.
    """
    compared = (size, stride, padding) == (2, 2, 0) and platforms() == ("cpu",)
    if compared and x.dtype == jnp.float32:
        return _largest_of_four(x)
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding),) * 2)


def _quarters(x: jax.Array) -> list[jax.Array]:
    """Returns the pixels of 2×2 squares by their place in it; others are left out."""
    height, width = (length // 2 * 2 for length in x.shape[1:3])
    return [x[:, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]


@jax.custom_vjp
def _largest_of_four(x):
    return functools.reduce(jnp.maximum, _quarters(x))


def _forward(x):
    largest = _largest_of_four(x)
    return largest, (x, largest)


def _backward(saved, cotangent):
    x, largest = saved
    given, parts = jnp.zeros(largest.shape, bool), []
    for pixels in _quarters(x):
        takes = (pixels == largest) & ~given
        given = given | takes
        parts.append(jnp.where(takes, cotangent, 0.0))
    height, width = (2 * length for length in largest.shape[1:3])
    gradient = interleave((parts[:2], parts[2:]), height, width)
    rest = ((0, 0), (0, x.shape[1] - height), (0, x.shape[2] - width), (0, 0))
    return (jnp.pad(gradient, rest),)


_largest_of_four.defvjp(_forward, _backward)
