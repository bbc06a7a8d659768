"""Losses on feature maps, one value an example; unless stated, of one feature, not summed."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import (
    flat,
    matmul,
    need_equal,
    need_maps,
    need_same_examples,
    normalized,
    pooled_alike,
)
from kdaug_jax.types import NonNegative


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared difference of features of equal shape; the caller applies FitNet's regressor.

    Args:
      student: `[B,...]`.
      teacher: `[B,...]`, of the same shape.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Romero et al. 2015, "FitNets", eq. 3, without the factor 1/2.
    """
    need_equal("shapes", student, teacher)
    return jnp.mean(jnp.square(flat(student) - flat(teacher)), axis=-1)


def attention(features: jax.Array, p: int) -> jax.Array:
    """Returns the attention map mean_c f^p as a row of length 1.

    Args:
      features: `f32[B,H,W,C]`.
      p: at least 1.

    Returns:
      `f32[B,H*W]`.
    """
    return normalized(flat(jnp.mean(jax.lax.integer_pow(features, p), axis=-1)))


def at(student: jax.Array, teacher: jax.Array, *, p: int = 2) -> jax.Array:
    """Attention transfer: mean squared difference of attention maps of length 1.

    The larger map is averaged down to the smaller. The mean over pixels is that of the public code;
    the paper has half the sum.

    Args:
      student: `[B,H,W,C]`.
      teacher: `[B,H',W',C']`.
      p: exponent of the activations.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", eq. 2.
    """
    need_same_examples(student, teacher)
    if p < 1:
        raise ArgumentError(f"got p={p}", "must be at least 1")
    s, t = (attention(maps, p) for maps in pooled_alike(student, teacher))
    return jnp.mean(jnp.square(s - t), axis=-1)


def nst(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Neuron selectivity: squared mean discrepancy of channels under the kernel (a.b)^2.

    Channels are maps of length 1. The larger map is averaged down to the smaller.

    Args:
      student: `[B,H,W,C]`.
      teacher: `[B,H',W',C']`.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Huang and Wang 2017, "Like What You Like", with the polynomial kernel.
    """
    need_same_examples(student, teacher)
    s, t = (_channels(maps) for maps in pooled_alike(student, teacher))

    def kernel(a, b):
        return jnp.mean(jnp.square(matmul(a, jnp.swapaxes(b, -1, -2))), axis=(-2, -1))

    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


def _channels(maps: jax.Array) -> jax.Array:
    """Returns channels `f32[B,C,H*W]` of length 1 along the last axis."""
    batch, height, width, channels = maps.shape
    return normalized(jnp.swapaxes(maps.reshape(batch, height * width, channels), -1, -2))


def fsp(student: Sequence[jax.Array], teacher: Sequence[jax.Array]) -> jax.Array:
    """Flow between layers: mean squared difference of the Grams of neighbouring features, summed.

    The Gram of features i and i+1 is mean_pixels f_i f_i+1, the larger map averaged down. Student
    and teacher need equal channels. It is meant for an initial phase.

    Args:
      student: at least two `[B,H,W,C]`.
      teacher: as many `[B,H',W',C]`.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Yim et al. 2017, "A Gift from Knowledge Distillation", eq. 1-2.
    """
    return sum(fsp_parts(student, teacher))


def fsp_parts(student: Sequence[jax.Array], teacher: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the parts of `fsp`, `f32[B]` for each pair of neighbouring features."""
    need_maps(*student, *teacher)
    if len(student) < 2:
        raise ArgumentError(
            f"compares neighbouring features and got {len(student)}", "name at least 2"
        )
    for s, t in zip(student, teacher, strict=True):
        need_equal("widths", s[:, 0, 0], t[:, 0, 0])
    parts = []
    for i in range(len(student) - 1):
        s, t = _flow(*student[i : i + 2]), _flow(*teacher[i : i + 2])
        parts.append(jnp.mean(jnp.square(s - t), axis=(-2, -1)))
    return parts


def _flow(below: jax.Array, above: jax.Array) -> jax.Array:
    """Returns `f32[B,C,C']`, the mean over pixels of products of channels."""
    below, above = (
        maps.reshape(maps.shape[0], -1, maps.shape[-1]) for maps in pooled_alike(below, above)
    )
    return matmul(jnp.swapaxes(below, -1, -2), above) / below.shape[1]


def ab(
    student: jax.Array, teacher: jax.Array, *, margin: NonNegative = 1.0
) -> jax.Array:
    """Activation boundaries: squared hinge on the sign of each unit of the teacher.

    Args:
      student: `[B,...]`, before the ReLU, after the connector.
      teacher: `[B,...]`, before the ReLU, of the same shape.
      margin: `f32[]`, of the hinge.

    Returns:
      `f32[B]`, sums over units.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Heo et al. 2019, "Knowledge Transfer via Distillation of Activation Boundaries".
    """
    need_equal("shapes", student, teacher)
    s, active = flat(student), flat(teacher) > 0
    margin = jnp.asarray(margin, jnp.float32)
    low, high = jnp.square(jnp.maximum(s + margin, 0.0)), jnp.square(jnp.maximum(margin - s, 0.0))
    return jnp.sum(jnp.where(active, high, low), axis=-1)


def feature_weights(count: int) -> list[float]:
    """Returns weights 2^(i-n+1) of features i = 0..n-1: the last 1, each before it half as much."""
    return [2.0 ** (i - count + 1) for i in range(count)]


def factor_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Factor transfer: mean absolute difference of the factors' attention maps of length 1.

    Attention maps (p = 2) of the factors are those of the public code; the paper compares the
    factors. The larger map is averaged down to the smaller.

    Args:
      student: `[B,H,W,F]`, the translator's factor.
      teacher: `[B,H',W',F']`, the paraphraser's factor.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: shapes that do not fit.

    Source: Kim et al. 2018, "Paraphrasing Complex Network", as in RepDistiller.
    """
    need_same_examples(student, teacher)
    s, t = (attention(maps, 2) for maps in pooled_alike(student, teacher))
    return jnp.mean(jnp.abs(s - t), axis=-1)


def gaussian_nll(mean: jax.Array, target: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Mean of ((t - m)^2 / v + log v) / 2 with v = softplus(log_scale) + 1e-5 by channel.

    Args:
      mean: `f32[B,H,W,C]`, predicted.
      target: `[B,H,W,C]`.
      log_scale: `f32[C]`.

    Returns:
      `f32[B]`.

    Source: Ahn et al. 2019, "Variational Information Distillation".
    """
    variance = (jax.nn.softplus(log_scale) + 1e-5)[None, None, None, :]
    square = jnp.square(target.astype(jnp.float32) - mean)
    return jnp.mean(0.5 * (square / variance + jnp.log(variance)), axis=(1, 2, 3))
