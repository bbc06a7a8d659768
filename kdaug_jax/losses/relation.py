"""Relational losses: distances, angles and similarities between the examples of a group.

Each takes the features of one group, `[B,...]` of any widths unless stated, and returns one value.
Differences of examples are computed directly, not from Gram matrices, so that close examples lose
no digits; that takes B^2 D numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import (
    flat,
    huber,
    matmul,
    need_equal,
    need_same_examples,
    normalized,
)
from kdaug_jax.types import NonNegative


def _need(min_group: int, student: jax.Array) -> None:
    if student.shape[0] < min_group:
        raise ArgumentError(
            f"compares examples and got {student.shape[0]}",
            f"needs at least {min_group} in a group",
        )


def _differences(features: jax.Array) -> jax.Array:
    """Returns `f32[B,B,D]`, exactly 0 for examples that are equal up to the rounding of float32.

    A compiler may round the two sides of a - a differently, and the direction of the remainder
    would be noise with a huge gradient.
    """
    rows = flat(features)
    difference = rows[:, None, :] - rows[None, :, :]
    square = jnp.sum(rows * rows, axis=-1)
    limit = 1e-12 * (square[:, None] + square[None, :])
    apart = jnp.sum(difference * difference, axis=-1) > limit
    apart &= ~jnp.eye(rows.shape[0], dtype=bool)
    return jnp.where(apart[:, :, None], difference, 0.0)


def _distances(difference: jax.Array) -> jax.Array:
    """Returns lengths `f32[B,B]`, at least 1e-6, where the square root has a gradient."""
    square = jnp.sum(difference * difference, axis=-1)
    close = square <= 1e-12
    return jnp.where(close, 1e-6, jnp.sqrt(jnp.where(close, 1.0, square)))


def rkd_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Huber distance of pairwise distances, each divided by the mean of its network's.

    The mean of the losses is over all B^2 pairs, including each example with itself (0); the mean
    distance excludes those. Invariant to scale, rotation and shift of the features.

    Args:
      student: `[B,...]`, B at least 2.
      teacher: `[B,...]`.

    Returns:
      `f32[]`.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2.1.
    """
    need_same_examples(student, teacher)
    _need(2, student)
    other = ~jnp.eye(student.shape[0], dtype=bool)

    def relative(features):
        distance = jnp.where(other, _distances(_differences(features)), 0.0)
        return distance / (jnp.sum(distance) / jnp.sum(other, dtype=jnp.float32))

    return jnp.mean(huber(relative(student) - relative(teacher)))


def rkd_angle(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Huber distance of the cosines of the angles that all triplets of examples form.

    The mean is over all B^3 triplets; those with an example twice have a loss of 0. Invariant to
    scale, rotation and shift of the features.

    Args:
      student: `[B,...]`, B at least 3.
      teacher: `[B,...]`.

    Returns:
      `f32[]`.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2.2.
    """
    need_same_examples(student, teacher)
    _need(3, student)
    return jnp.mean(huber(_cosines(student) - _cosines(teacher)))


def _cosines(features: jax.Array) -> jax.Array:
    """Returns `f32[B,B,B]`, at [i,j,k] the cosine of the angle at i between j and k."""
    edges = normalized(_differences(features))
    return matmul(edges, jnp.swapaxes(edges, -1, -2))


def rkd(
    student: jax.Array,
    teacher: jax.Array,
    *,
    distance: NonNegative = 25.0,
    angle: NonNegative = 50.0,
) -> jax.Array:
    """Relational distillation: distance `rkd_distance` + angle `rkd_angle`.

    The weights 25 and 50 are those of RepDistiller; the paper has 1 and 2.

    Args:
      student: `[B,...]`, B at least 3.
      teacher: `[B,...]`.
      distance: `f32[]`, at least 0.
      angle: `f32[]`, at least 0.

    Returns:
      `f32[]`.

    Source: Park et al. 2019, "Relational Knowledge Distillation", section 3.2.
    """
    return distance * rkd_distance(student, teacher) + angle * rkd_angle(student, teacher)


def rkd_role_parts(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns distance and angle in the form of paper 003's public code: on rows of length 1.

    There an example's distance to itself is 1e-6 and is part of the mean distance.

    Args:
      student: `[B,C]`, logits, B at least 3.
      teacher: `[B,C]`, logits.

    Returns:
      Two `f32[]`.
    """
    need_same_examples(student, teacher)
    _need(3, student)
    rows = [_unit(features) for features in (student, teacher)]

    def relative(features):
        distance = _distances(_differences(features))
        return distance / (jnp.mean(distance) + 1e-8)

    return jnp.mean(huber(relative(rows[0]) - relative(rows[1]))), rkd_angle(*rows)


def _unit(features: jax.Array) -> jax.Array:
    features = flat(features)
    square = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def rkd_role(
    student: jax.Array,
    teacher: jax.Array,
    *,
    distance: NonNegative = 50.0,
    angle: NonNegative = 100.0,
) -> jax.Array:
    """Relational distillation in the form of paper 003's public code, meant for logits.

    Args:
      student: `[B,C]`, logits, B at least 3.
      teacher: `[B,C]`, logits.
      distance: `f32[]`, at least 0.
      angle: `f32[]`, at least 0.

    Returns:
      `f32[]`.

    Source: Fu et al. 2020 (role-wise augmentation), in its public code.
    """
    of_distance, of_angle = rkd_role_parts(student, teacher)
    return distance * of_distance + angle * of_angle


def sp(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Similarity preserving: squared differences of row-normalised Gram matrices, over B^2.

    Args:
      student: `[B,...]`.
      teacher: `[B,...]`.

    Returns:
      `f32[]`.

    Source: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", eq. 2-4.
    """
    need_same_examples(student, teacher)
    _need(2, student)
    return jnp.mean(jnp.square(_gram(student) - _gram(teacher)))


def _gram(features: jax.Array) -> jax.Array:
    rows = flat(features)
    return normalized(matmul(rows, rows.T))


def pkt(student: jax.Array, teacher: jax.Array, *, eps: float = 1e-7) -> jax.Array:
    """Probabilistic transfer: divergence of similarities, as probabilities of being neighbours.

    Similarities are (1 + cosine) / 2, divided by the sum of their row; the mean of
    p log((p + eps) / (q + eps)) is over all B^2 pairs.

    Args:
      student: `[B,...]`.
      teacher: `[B,...]`.
      eps: more than 0, added to lengths and inside the logarithm.

    Returns:
      `f32[]`.

    Source: Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge
    Transfer".
    """
    need_same_examples(student, teacher)
    _need(2, student)
    q, p = (_neighbours(features, eps) for features in (student, teacher))
    return jnp.mean(p * jnp.log((p + eps) / (q + eps)))


def _neighbours(features: jax.Array, eps: float) -> jax.Array:
    rows = flat(features)
    square = jnp.sum(rows * rows, axis=-1, keepdims=True)
    positive = square > 0
    length = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    rows = rows / (length + eps)
    similar = (matmul(rows, rows.T) + 1.0) / 2.0
    return similar / jnp.sum(similar, axis=-1, keepdims=True)


def cc(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Correlation congruence: products of the errors |s - t| of neighbours in the batch.

    The mean over i of sum_d |s_i - t_i| |s_i+1 - t_i+1|, between each example and the next, as in
    the public code; the paper's kernel over all pairs is not in that code.

    Args:
      student: `[B,D]`, embedded.
      teacher: `[B,D]`, embedded.

    Returns:
      `f32[]`.

    Raises:
      ArgumentError: less than 2 examples, or unequal widths.

    Source: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", as in
    RepDistiller.
    """
    _need(2, student)
    need_equal("widths", student, teacher)
    error = jnp.abs(flat(student) - flat(teacher))
    return jnp.mean(jnp.sum(error[:-1] * error[1:], axis=-1))
