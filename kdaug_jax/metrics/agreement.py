"""Agreement of a student with its teacher, and the entropy of a teacher's predictions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.metrics.arguments import need_rows
from kdaug_jax.metrics.classification import Pair, answered, log_probabilities, total


def agreement(student: jax.Array, teacher: jax.Array, mask: jax.Array) -> Pair:
    """Counts examples for which student and teacher predict the same class.

    Args:
      student: `[B,C]`, logits; of equal ones the first counts.
      teacher: `[B,C]`, logits.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (number of equal predictions `f32[]`, number counted `f32[]`). Logits that hold a NaN agree
      with nothing.

    Source: Stanton et al. 2021, "Does Knowledge Distillation Really Work?", section 3.
    """
    need_rows(mask, student, teacher)
    knows = answered(student) & answered(teacher)
    same = knows & (jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1))
    return total(same.astype(jnp.float32), mask)


def predictive_kl(student: jax.Array, teacher: jax.Array, mask: jax.Array) -> Pair:
    """Sums KL(teacher || student) of the probabilities, in nats.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (sum `f32[]`, number counted `f32[]`).

    Source: Stanton et al. 2021, "Does Knowledge Distillation Really Work?", section 3.
    """
    need_rows(mask, student, teacher)
    log_s, log_t = (log_probabilities(z, mask) for z in (student, teacher))
    p = jnp.exp(log_t)
    return total(jnp.sum(p * jnp.where(p > 0, log_t - log_s, 0.0), axis=-1), mask)


def effective_classes(logits: jax.Array, mask: jax.Array) -> Pair:
    """Sums exp(entropy), the effective number of classes of a prediction.

    Args:
      logits: `[B,C]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (sum `f32[]`, number counted `f32[]`), 1..C an example.
    """
    log_p = log_probabilities(logits, mask)
    p = jnp.exp(log_p)
    return total(jnp.exp(-jnp.sum(p * jnp.where(p > 0, log_p, 0.0), axis=-1)), mask)
