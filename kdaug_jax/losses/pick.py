"""Scores of a pool of views, the hardest of which are kept, and how much harder those are."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import need_logits
from kdaug_jax.losses.response import kl, soften
from kdaug_jax.types import Positive


def kl_score(student: jax.Array, teacher: jax.Array, *, temperature: Positive = 4.0) -> jax.Array:
    """Divergence of student from teacher at temperature T, without the factor T^2.

    The paper's text sorts by "r", which it defines later as a ratio; eq. 2 defines this d.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.

    Returns:
      `f32[B]`.

    Source: Wang et al. 2020 (arXiv:2012.02909), eq. 2.
    """
    return kl(student, teacher, temperature=temperature, times_t2=False)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of softmax(logits) in nats.

    Args:
      logits: `[B,C]`.

    Returns:
      `f32[B]`.
    """
    need_logits(logits)
    log_p = soften(logits, 1.0)
    p = jnp.exp(log_p)
    return -jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1)


# Scores of a pool, `f(student, teacher) -> f32[B]`; the highest are kept.
PICKERS = {
    "kl": kl_score,
    "teacher_entropy": lambda student, teacher: entropy(teacher),
    "student_entropy": lambda student, teacher: entropy(student),
}


def hardest(score: jax.Array, keep: int) -> jax.Array:
    """Returns the positions of the `keep` largest scores, in rising order; of equal ones the last.

    Args:
      score: `f32[B]`.
      keep: 1..B.

    Returns:
      `i32[keep]`.

    Raises:
      ArgumentError: `keep` is not 1..B.

    Source: Wang et al. 2020 (arXiv:2012.02909), section 3.2: sort, and keep the last half.
    """
    if score.ndim != 1:
        raise ArgumentError(f"got scores {list(score.shape)}", "must be one an example, [B]")
    if not 1 <= keep <= score.shape[0]:
        raise ArgumentError(f"keeps {keep} of {score.shape[0]}", f"must be 1..{score.shape[0]}")
    order = jnp.argsort(score, stable=True)
    return jax.lax.stop_gradient(order[score.shape[0] - keep :].astype(jnp.int32))


def kept_ratio(score: jax.Array, kept: jax.Array) -> jax.Array:
    """Ratio of the mean score of the kept rows to that of the pool; the paper's r when score is d.

    Args:
      score: `f32[B]`.
      kept: `i32[K]`, positions.

    Returns:
      `f32[]`, more than 1 when high scores are kept; 1 for a pool whose mean is 0.

    Source: Wang et al. 2020 (arXiv:2012.02909), eq. 3.
    """
    pool = jnp.mean(score)
    return jnp.where(pool > 0, jnp.mean(score[kept]) / jnp.where(pool > 0, pool, 1.0), 1.0)


def label_disagreement(teacher: jax.Array, target: jax.Array) -> jax.Array:
    """Returns whether the teacher's likeliest class is not the label's; of equal ones the first.

    Args:
      teacher: `[B,C]`, logits.
      target: `f32[B,C]`, class probabilities, such as a mixed label.

    Returns:
      `bool[B]`; its mean is the share that the paper reports (52.1 % on ImageNet). A teacher whose
      logits hold a NaN disagrees.

    Source: Wang et al. 2020 (arXiv:2012.02909), section 4.3.
    """
    need_logits(teacher, labels=target)
    differs = jnp.argmax(teacher, axis=-1) != jnp.argmax(target, axis=-1)
    return differs | jnp.isnan(jnp.max(teacher, axis=-1))
