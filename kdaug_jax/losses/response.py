"""Losses on logits, one value an example: cross entropy, KL and their kin.

Everything is computed in float32 whatever the logits' dtype. The caller detaches the teacher,
averages over the batch and weighs the terms. Student, teacher and labels of different classes or
examples are refused with an ArgumentError, see `arrays.need_logits`, which also says what becomes
of class numbers that are out of range. So are, where their values are known (outside of traced
code), probabilities in place of logits, labels that are no distribution, and options out of range.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import centred, need_logits, need_no_probabilities, need_number
from kdaug_jax.types import ClassCount, Fraction, Positive, is_known


def _log_softmax(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)


def _divergence(log_student: jax.Array, log_teacher: jax.Array, keep: jax.Array) -> jax.Array:
    """Returns the sum over kept classes of p_t (log p_t - log p_s), 0 where p_t is 0."""
    p_teacher = jnp.exp(log_teacher)
    # The difference may be inf - inf where p_t is 0, so it is masked before the product; p_t is
    # multiplied in on all classes, so that a NaN of the teacher is never hidden.
    ratio = jnp.where(keep & (p_teacher > 0), log_teacher - log_student, 0.0)
    return jnp.sum(p_teacher * ratio, axis=-1)


def cross_entropy(
    student: jax.Array, labels: jax.Array, *, label_smoothing: Fraction = 0.0
) -> jax.Array:
    """Cross entropy -sum_c q_c log p_c with q = (1 - smoothing) labels + smoothing / C.

    Args:
      student: `[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities, or `i32[B]`, class numbers 0..C-1; others are
        refused, or count as no class where they are traced.
      label_smoothing: `f32[]`, 0..1, the share of the uniform distribution.

    Returns:
      `f32[B]`.

    Source: Szegedy et al. 2016, section 7, for the smoothing.
    """
    need_logits(student, labels=labels)
    _need_distribution(labels)
    target = _smoothed(labels, student.shape[-1], label_smoothing)
    return -jnp.sum(target * _log_softmax(student), axis=-1)


def binary_cross_entropy(
    student: jax.Array, labels: jax.Array, *,
    label_smoothing: Fraction = 0.0, threshold: Fraction = 1.0,
) -> jax.Array:
    """Mean over classes of the cross entropy of each logit's own sigmoid.

    Args:
      student: `[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities, or `i32[B]`, class numbers 0..C-1; others are
        refused, or count as no class where they are traced.
      label_smoothing: `f32[]`, 0..1, the share of the uniform distribution.
      threshold: `f32[]`, 0..1; classes of a larger target are present, with target 1, all others
        absent, with 0; at 1 targets stay as they are. 0.2 in procedure A2 of the source.

    Returns:
      `f32[B]`.

    Source: Wightman et al. 2021, "ResNet Strikes Back", section 2.2.
    """
    need_logits(student, labels=labels)
    need_number("threshold", threshold, 0.0, 1.0)
    logits = student.astype(jnp.float32)
    target = _smoothed(labels, student.shape[-1], label_smoothing)
    threshold = jnp.asarray(threshold, jnp.float32)
    target = jnp.where(threshold < 1.0, (target > threshold).astype(jnp.float32), target)
    # log σ(x) and log(1 − σ(x)) without overflow.
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(target * positive + (1.0 - target) * negative, axis=-1)


def _need_distribution(labels: jax.Array) -> None:
    if not is_known(labels) or jnp.issubdtype(labels.dtype, jnp.integer):
        return
    largest = np.asarray(labels, np.float64).sum(axis=-1).max(initial=0.0)
    if largest > 1.01:  # of half precision; less than 1 in rows that do not count
        raise ArgumentError(
            f"got a label whose probabilities sum to {largest:.4g}",
            "must be at most 1; binary_cross_entropy takes several classes an example",
        )


def _smoothed(labels: jax.Array, classes: int, label_smoothing: Fraction) -> jax.Array:
    need_number("label_smoothing", label_smoothing, 0.0, 1.0)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    smoothing = jnp.asarray(label_smoothing, jnp.float32)
    return (1.0 - smoothing) * labels.astype(jnp.float32) + smoothing / classes


def standardize(logits: jax.Array) -> jax.Array:
    """Standardises each row: (z - mean) / (std + 1e-7), std with divisor C - 1.

    Args:
      logits: `[B,C]`.

    Returns:
      `f32[B,C]`; the gradient flows through mean and deviation.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation", with the deviation
    of its public code.
    """
    logits = logits.astype(jnp.float32)
    deviation = centred(logits)
    square = jnp.sum(deviation * deviation, axis=-1, keepdims=True)
    variance = square / max(logits.shape[-1] - 1, 1)
    # The square root of 0 has no gradient; of equal logits the standardised ones are 0.
    safe = jnp.where(variance > 0, variance, 1.0)
    return deviation / (jnp.where(variance > 0, jnp.sqrt(safe), 0.0) + 1e-7)


def soften(logits: jax.Array, temperature: Positive, standardized: bool = False) -> jax.Array:
    """Returns log softmax(z / T) of the logits or the standardised logits z.

    Args:
      logits: `[B,C]`.
      temperature: `f32[]`, T > 0.
      standardized: see `standardize`.

    Returns:
      `f32[B,C]`.
    """
    need_number("temperature", temperature, 0.0, over=True)
    logits = standardize(logits) if standardized else logits.astype(jnp.float32)
    return _log_softmax(logits / jnp.asarray(temperature, jnp.float32))


def _scale(temperature: Positive, times_t2: bool) -> jax.Array:
    temperature = jnp.asarray(temperature, jnp.float32)
    return temperature * temperature if times_t2 else jnp.ones_like(temperature)


def kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: Positive = 1.0,
    times_t2: bool = True,
    class_mean: bool = False,
    standardize: bool = False,
) -> jax.Array:
    """T^2 KL(teacher || student) = T^2 sum_c p_t (log p_t - log p_s), p = softmax(logits / T).

    Function matching (Beyer et al. 2022) is this loss alone at T = 1, on views that are mixed for
    both networks. Logit standardisation is `standardize` with T = 2 and weight 9.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.
      times_t2: multiply by T^2, which keeps the size of the gradient.
      class_mean: divide by C, as the public code of paper 004 does.
      standardize: standardise each row of logits first.

    Returns:
      `f32[B]`.

    Source: Hinton et al. 2015, section 2; Wang et al. 2020 (arXiv:2012.02909), eq. 1; Das et al.
    2020, section 3.2.
    """
    need_logits(student, teacher)
    log_student = soften(student, temperature, standardize)
    log_teacher = soften(teacher, temperature, standardize)
    all_classes = jnp.ones(teacher.shape, bool)
    value = _scale(temperature, times_t2) * _divergence(log_student, log_teacher, all_classes)
    return value / student.shape[-1] if class_mean else value


def lskd(student: jax.Array, teacher: jax.Array, *, temperature: Positive = 2.0) -> jax.Array:
    """Logit standardisation: `kl` of standardised logits, at T = 2.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.

    Returns:
      `f32[B]`.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation"; its code weighs it
    9 beside 0.1 times cross entropy.
    """
    return kl(student, teacher, temperature=temperature, standardize=True)


def cross_entropy_kd(
    student: jax.Array, teacher: jax.Array, *, temperature: Positive = 1.0, times_t2: bool = False
) -> jax.Array:
    """Cross entropy -sum_c p_t log p_s of softened probabilities: `kl` plus a constant.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.
      times_t2: multiply by T^2.

    Returns:
      `f32[B]`.

    Source: Fu et al. 2020 (role-wise augmentation), eq. 4, which has it at T = 1 without T^2.
    """
    need_logits(student, teacher)
    log_student = soften(student, temperature)
    p_teacher = jnp.exp(soften(teacher, temperature))
    terms = p_teacher * jnp.where(p_teacher == 0, 0.0, log_student)
    return -_scale(temperature, times_t2) * jnp.sum(terms, axis=-1)


def hard_kd(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Cross entropy with the teacher's likeliest class; of equal ones the first.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.

    Returns:
      `f32[B]`; NaN where a teacher's logit is NaN, which names no class.

    Source: Touvron et al. 2021 (DeiT), section 4, "hard-label distillation".
    """
    need_logits(student, teacher)
    labels = jnp.argmax(teacher, axis=-1).astype(jnp.int32)
    unknown = jnp.isnan(jnp.max(teacher, axis=-1))
    return jnp.where(unknown, jnp.nan, cross_entropy(student, labels))


def dml(
    student: jax.Array, teacher: jax.Array, *, symmetric: bool = False, eps: float = 0.0
) -> jax.Array:
    """Deep mutual learning: KL(peer || student) at T = 1, the peer held fixed.

    Two trained networks need two of these terms, one in each direction. Paper 003 uses a fixed
    teacher and the mean of both directions (`symmetric`); its code trains the teacher with the same
    value, which is again one term in each direction.

    Args:
      student: `[B,C]`, logits of the network that learns.
      teacher: `[B,C]`, logits of its peer.
      symmetric: take (KL(peer || student) + KL(student || peer)) / 2.
      eps: what the public TensorFlow code adds inside the logarithm, log(eps + p / (q + eps)),
        1e-8 there; 0 for the exact divergence.

    Returns:
      `f32[B]`.

    Source: Zhang et al. 2018, "Deep Mutual Learning", eq. 4-8; Fu et al. 2020 (role-wise
    augmentation), section 5.2, for the fixed teacher, and its public code for the symmetric form.
    """
    need_logits(student, teacher)
    log_student, log_peer = soften(student, 1.0), soften(teacher, 1.0)
    if not symmetric:
        return _mutual(log_student, log_peer, eps)
    return 0.5 * (_mutual(log_student, log_peer, eps) + _mutual(log_peer, log_student, eps))


def _mutual(log_q: jax.Array, log_p: jax.Array, eps: float) -> jax.Array:
    if eps == 0:
        return _divergence(log_q, log_p, jnp.ones(log_p.shape, bool))
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    return jnp.sum(p * jnp.log(eps + p / (q + eps)), axis=-1)


def top_classes(logits: jax.Array, k: ClassCount) -> jax.Array:
    """Marks the k largest logits of each row; of equal ones the first, as `jax.lax.top_k`.

    One sort of the values and a running count, rather than indices, so that k may be traced.

    Args:
      logits: `[B,C]`.
      k: `i32[]`, 1..C.

    Returns:
      `bool[B,C]`, True k times a row; no gradient flows through it.
    """
    need_number("k", k, 1, logits.shape[-1], whole=True)
    logits = jax.lax.stop_gradient(logits)
    k = jnp.asarray(k, jnp.int32)
    smallest_kept = jax.lax.dynamic_index_in_dim(jnp.sort(logits, descending=True), k - 1, axis=-1)
    above, equal = logits > smallest_kept, logits == smallest_kept
    ties = k - jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
    return above | (equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= ties))


def topk_kl(
    student: jax.Array, teacher: jax.Array, *, k: ClassCount, renormalize: bool = False
) -> jax.Array:
    """Sum over the teacher's k likeliest classes of p_t (log p_t - log p_s), at temperature 1.

    Probabilities are those of all C classes and the other classes' summands are left out, so that
    a value may be negative. With k = C this is `kl`.

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
    need_logits(student, teacher)
    keep = top_classes(teacher, k)
    if renormalize:
        student = jnp.where(keep, student.astype(jnp.float32), -jnp.inf)
        teacher = jnp.where(keep, teacher.astype(jnp.float32), -jnp.inf)
    return _divergence(_log_softmax(student), _log_softmax(teacher), keep)


def average_teachers(logits: Sequence[jax.Array], temperature: Positive = 1.0) -> jax.Array:
    """Returns logits of the mean probabilities, T log((1/N) sum_i softmax(z_i / T)), of N teachers.

    At T = 1 a loss with another temperature softens the mean; at the loss's own temperature it sees
    the mean of the softened probabilities. The two differ.

    Args:
      logits: N times `f32[B,C]`.
      temperature: `f32[]`, T > 0, at which probabilities are averaged.

    Returns:
      `f32[B,C]`, T times logarithms of probabilities.

    Raises:
      ArgumentError: the teachers have different classes or examples, or the logits are those of
        one teacher, whose examples would be averaged.
    """
    if getattr(logits, "ndim", 3) < 3:
        raise ArgumentError(
            f"got logits {list(logits.shape)} of one teacher", "give a list of teachers' logits"
        )
    for other in logits:
        need_no_probabilities("a teacher", other)
    for others in logits[1:]:
        need_logits(logits[0], others)
    temperature = jnp.asarray(temperature, jnp.float32)
    log_p = jnp.stack([soften(z, temperature) for z in logits])
    return temperature * (jax.nn.logsumexp(log_p, axis=0) - jnp.log(float(len(logits))))
