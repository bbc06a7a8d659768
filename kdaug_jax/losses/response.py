"""Losses on logits, one value an example: cross entropy, KL and KL on the teacher's top classes.

Everything is computed in float32 whatever the logits' dtype. The caller detaches the teacher,
averages over the batch and weighs the terms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.types import ClassCount, Fraction, Positive


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _divergence(log_student: jax.Array, log_teacher: jax.Array, keep: jax.Array) -> jax.Array:
    """Gives the sum over kept classes of p_t (log p_t - log p_s), 0 where p_t is 0."""
    p_teacher = jnp.exp(log_teacher)
    # The difference may be inf - inf where p_t is 0, so it is dropped before it is multiplied;
    # p_t is multiplied in on all classes, so that a teacher that is NaN is never hidden.
    ratio = jnp.where(keep & (p_teacher > 0), log_teacher - log_student, 0.0)
    return jnp.sum(p_teacher * ratio, axis=-1)


def cross_entropy(
    student: jax.Array, labels: jax.Array, *, label_smoothing: Fraction = 0.0
) -> jax.Array:
    """Cross entropy -sum_c q_c log p_c with q = (1 - smoothing) labels + smoothing / C.

    Args:
      student: `[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities, or `i32[B]`, class numbers.
      label_smoothing: `f32[]`, 0..1, the share of the uniform distribution.

    Returns:
      `f32[B]`.

    Source: Szegedy et al. 2016, section 7, for the smoothing.
    """
    target = _smoothed(labels, student.shape[-1], label_smoothing)
    return -jnp.sum(target * _log_softmax(student), axis=-1)


def binary_cross_entropy(
    student: jax.Array, labels: jax.Array, *, label_smoothing: Fraction = 0.0
) -> jax.Array:
    """Mean over classes of the cross entropy of each logit's own sigmoid.

    Args:
      student: `[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities, or `i32[B]`, class numbers.
      label_smoothing: `f32[]`, 0..1, the share of the uniform distribution.

    Returns:
      `f32[B]`.

    Source: Wightman et al. 2021, "ResNet Strikes Back", section 2.2.
    """
    logits = student.astype(jnp.float32)
    target = _smoothed(labels, student.shape[-1], label_smoothing)
    # log σ(x) and log(1 − σ(x)) without overflow.
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(target * positive + (1.0 - target) * negative, axis=-1)


def _smoothed(labels: jax.Array, classes: int, label_smoothing: Fraction) -> jax.Array:
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    smoothing = jnp.asarray(label_smoothing, jnp.float32)
    return (1.0 - smoothing) * labels.astype(jnp.float32) + smoothing / classes


def kl(student: jax.Array, teacher: jax.Array, *, temperature: Positive = 1.0) -> jax.Array:
    """T^2 KL(teacher || student) = T^2 sum_c p_t (log p_t - log p_s), p = softmax(logits / T).

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0; the factor T^2 keeps the gradient's size.

    Returns:
      `f32[B]`.

    Source: Hinton et al. 2015, section 2; Wang et al. 2020 (arXiv:2012.02909), eq. 1.
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    log_student = _log_softmax(student.astype(jnp.float32) / temperature)
    log_teacher = _log_softmax(teacher.astype(jnp.float32) / temperature)
    every = jnp.ones(teacher.shape, bool)
    return temperature * temperature * _divergence(log_student, log_teacher, every)


def top_classes(logits: jax.Array, k: ClassCount) -> jax.Array:
    """Marks the k largest logits of each row; of equal ones the first, as `jax.lax.top_k`.

    One sort of the values and a running count, rather than indices, so that k may be traced.

    Args:
      logits: `[B,C]`.
      k: `i32[]`, 1..C.

    Returns:
      `bool[B,C]`, k True a row; no gradient flows through it.
    """
    logits = jax.lax.stop_gradient(logits)
    k = jnp.asarray(k, jnp.int32)
    least = jax.lax.dynamic_index_in_dim(jnp.sort(logits, descending=True), k - 1, axis=-1)
    above, equal = logits > least, logits == least
    wanted = k - jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
    return above | (equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= wanted))


def topk_kl(
    student: jax.Array, teacher: jax.Array, *, k: ClassCount, renormalize: bool = False
) -> jax.Array:
    """Sum over the teacher's k likeliest classes of p_t (log p_t - log p_s), at temperature 1.

    Probabilities are those of all C classes, so one value may be negative: what lies outside
    the k classes is left out. With k = C this is `kl`.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      k: `i32[]`, 1..C.
      renormalize: divide both sets of k probabilities by their sums, which makes it a
        divergence.

    Returns:
      `f32[B]`.

    Source: Wei et al. 2020 (arXiv:2003.11342), eq. 3-4, with the sign of a loss.
    """
    keep = top_classes(teacher, k)
    if renormalize:
        student = jnp.where(keep, student.astype(jnp.float32), -jnp.inf)
        teacher = jnp.where(keep, teacher.astype(jnp.float32), -jnp.inf)
    return _divergence(_log_softmax(student), _log_softmax(teacher), keep)
