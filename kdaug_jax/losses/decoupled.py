"""Decoupled distillation: the target class and the other classes, each with its own weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.losses.arrays import need_logits
from kdaug_jax.losses.response import soften
from kdaug_jax.types import NonNegative, Positive


def dkd(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 8.0,
    temperature: Positive = 4.0,
    standardize: bool = False,
) -> jax.Array:
    """T^2 (alpha KL of [target, rest] + beta KL among the other classes).

    Both divergences are computed from log softmax over subsets of classes, so that no value has to
    be clamped. The papers' warm-up, min(epoch / 20, 1), is a schedule of the term's weight. beta is
    8 for wide pairs of ResNets, 6 for WRN and VGG, 2 for ResNet-56/20 and 110/32; ImageNet has
    T = 1 and beta = 0.5.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities, whose largest is the target, or `i32[B]`,
        class numbers 0..C-1; others give meaningless values when traced.
      alpha: `f32[]`, at least 0, weight of the target class's part.
      beta: `f32[]`, at least 0, weight of the other classes' part.
      temperature: `f32[]`, T > 0.
      standardize: standardise each row of logits first, see `response.standardize`.

    Returns:
      `f32[B]`.

    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", eq. 7.
    """
    need_logits(student, teacher, labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jnp.argmax(labels, axis=-1)
    target = jax.nn.one_hot(labels, student.shape[-1], dtype=jnp.bool_)
    temperature = jnp.asarray(temperature, jnp.float32)
    log_student, log_teacher = (
        _parts(soften(z, temperature, standardize), target) for z in (student, teacher)
    )
    binary = _divergence(log_student[0], log_teacher[0])
    rest = _divergence(log_student[1], log_teacher[1])
    alpha, beta = jnp.asarray(alpha, jnp.float32), jnp.asarray(beta, jnp.float32)
    return temperature * temperature * (alpha * binary + beta * rest)


def _parts(log_p: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log [p of the target, p of the rest] `[B,2]` and log p among the rest `[B,C]`."""
    # A finite stand-in for -inf, whose gradient would be NaN.
    rest = jnp.where(target, -1e30, log_p)
    log_rest = jax.nn.logsumexp(rest, axis=-1)
    log_target = jnp.sum(jnp.where(target, log_p, 0.0), axis=-1)
    among = jnp.where(target, 0.0, log_p - log_rest[..., None])
    return jnp.stack([log_target, log_rest], axis=-1), jnp.where(target, -1e30, among)


def _divergence(log_q: jax.Array, log_p: jax.Array) -> jax.Array:
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, log_p - log_q, 0.0), axis=-1)
