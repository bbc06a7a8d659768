"""Weights and activations of a few bits, with straight-through gradients.

Source: Zhou et al., 2016, "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with
Low Bitwidth Gradients".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdaug_jax.errors import ConfigError


def quantize_weight(w: jax.Array, bits: int, detach_max: bool = False) -> jax.Array:
    """Rounds weights to 2^bits levels in [-1, 1], or to ±their mean size at 1 bit.

    From 2 bits on: `2·round_k(tanh(w) / (2·max|tanh w|) + 1/2) - 1`, the maximum over the whole
    tensor. At 1 bit: `sign(w)·mean|w|` with sign(0) = 1 and gradient 1. Rounding has gradient 1.

    Args:
      w: weights of one layer, of any shape.
      bits: 1..8, or 32 to leave them alone.
      detach_max: whether the maximum counts as a constant for gradients, as in many ports.

    Returns:
      Array of the shape and type of `w`.

    Raises:
      ConfigError: there are no such bits.
    """
    if _is_full(bits):
        return w
    if bits == 1:
        size = lax.stop_gradient(jnp.mean(jnp.abs(w)))
        return _straight_through(jnp.where(w >= 0, size, -size), w)
    squashed = jnp.tanh(w)
    most = jnp.max(jnp.abs(squashed))
    if detach_max:
        most = lax.stop_gradient(most)
    most = jnp.where(most > 0, most, 1.0)  # weights that are all zero stay so, nearly
    return 2.0 * _round(squashed / (2.0 * most) + 0.5, bits) - 1.0


def quantize_activation(x: jax.Array, bits: int) -> jax.Array:
    """Clips activations to [0, 1] and rounds them to 2^bits levels.

    The gradient is 1 where x lies in [0, 1], bounds included, and 0 elsewhere.

    Args:
      x: activations of any shape.
      bits: 1..8, or 32 for a plain ReLU without an upper bound.

    Returns:
      Array of the shape and type of `x`.

    Raises:
      ConfigError: there are no such bits.
    """
    if _is_full(bits):
        return jax.nn.relu(x)
    inside = (x >= 0) & (x <= 1)
    # Not jnp.clip: its gradient at the bounds themselves is ½.
    clipped = jnp.where(inside, x, lax.stop_gradient(jnp.clip(x, 0.0, 1.0)))
    return _round(clipped, bits)


def _is_full(bits: int) -> bool:
    """Returns whether there is nothing to round; raises ConfigError for illegal bits."""
    if isinstance(bits, bool) or bits not in (*range(1, 9), 32):
        raise ConfigError("bits", f"is {bits}", "1 to 8, or 32 for full precision")
    return bits == 32


def _round(x: jax.Array, bits: int) -> jax.Array:
    """Rounds `x` in [0, 1] to multiples of 1/(2^bits - 1), halves to even; gradient 1."""
    steps = float(2**bits - 1)
    return _straight_through(jnp.round(x * steps) / steps, x)


def _straight_through(y: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the value of `y`, to the last bit, and the gradient of `x`."""
    return lax.stop_gradient(y) + (x - lax.stop_gradient(x))
