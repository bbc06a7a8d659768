"""Predictions compared with the distribution of human labels, and mean predictions by class."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.metrics.arguments import (
    need_distributions,
    need_logits,
    need_mask,
    need_shares,
)
from kdaug_jax.metrics.classification import Pair, class_numbers, clean, log_probabilities, total

# Lower bound of probabilities in a logarithm, where float32 has underflowed.
TINY = float(np.finfo(np.float32).tiny)


def human_kl(logits: jax.Array, human: jax.Array) -> jax.Array:
    """KL(human || network) of each example, in nats.

    The paper prints the reverse, KL(network || human), which is infinite where nobody chose a
    class, and a sum over 10,000 images, which contradicts the values of its table. Its text calls
    it a cross entropy, which this is up to a constant.

    Args:
      logits: `[B,C]`.
      human: `f32[B,C]`, shares of human labels.

    Returns:
      `f32[B]`.

    Raises:
      ArgumentError: the shapes differ, or known values are no logits or no shares.

    Source: Das et al. 2020, section 4; Peterson et al. 2019 (CIFAR-10H).
    """
    every = np.ones(logits.shape[0], bool)
    need_logits(logits, every)
    need_shares(human, logits, every)
    return _human_kl(logits, human)


def _human_kl(logits: jax.Array, human: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = human > 0
    log_h = jnp.log(jnp.where(chosen, human, 1.0))
    return jnp.sum(human * jnp.where(chosen, log_h - log_p, 0.0), axis=-1)


def human_kl_total(logits: jax.Array, human: jax.Array, mask: jax.Array) -> Pair:
    """Sums `human_kl` over the rows that count: (sum `f32[]`, number counted `f32[]`)."""
    need_logits(logits, mask)
    need_shares(human, logits, mask)
    return total(_human_kl(clean(logits, mask), human), mask)


def human_cross_entropy(logits: jax.Array, human: jax.Array, mask: jax.Array) -> Pair:
    """Sums the cross entropy -sum_c h_c log p_c with the human shares h, in nats.

    Args:
      logits: `[B,C]`.
      human: `f32[B,C]`, shares of human labels.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (sum `f32[]`, number counted `f32[]`).
    """
    need_shares(human, logits, mask)
    log_p = log_probabilities(logits, mask)
    return total(-jnp.sum(human * jnp.where(human > 0, log_p, 0.0), axis=-1), mask)


class ClassSums(NamedTuple):
    """Sums of vectors by class; sums of batches add up (see `merge`).

    Attributes:
      total: `f32[K,D]`.
      count: `f32[K]`.
    """

    total: jax.Array
    count: jax.Array


def class_sums(vector: jax.Array, label: jax.Array, mask: jax.Array, classes: int) -> ClassSums:
    """Sums vectors, such as probabilities, over the examples of each class.

    Args:
      vector: `f32[B,D]`.
      label: `i32[B]`, the true class.
      mask: `bool[B]`, False on rows that do not count.
      classes: K.

    Returns:
      Sums by class.
    """
    need_mask(mask, vector.shape[0])
    cell = jnp.where(mask, class_numbers(label, mask, classes), classes)
    vector = jnp.where(mask[:, None], vector.astype(jnp.float32), 0.0)
    summed = jnp.zeros((classes, vector.shape[1]), jnp.float32).at[cell].add(vector, mode="drop")
    count = jnp.zeros(classes, jnp.float32).at[cell].add(1.0, mode="drop")
    return ClassSums(summed, count)


def class_means(sums: ClassSums) -> np.ndarray:
    """Returns `f64[K,D]`, the mean vector of each class; NaN for a class without examples."""
    count = np.asarray(sums.count, np.float64)[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(sums.total, np.float64) / count


def kl_matrix(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns KL(p_i || q_j) of each row i of p and j of q, in nats.

    Args:
      p: `f64[K,C]`, probabilities.
      q: `f64[L,C]`, probabilities, at least the smallest normal float32 in the logarithm.

    Returns:
      `f64[K,L]`; for class means of humans and network this is Figure 6 of paper 004, and the mean
      of its diagonal is the class-level KL.

    Raises:
      ArgumentError: rows are no probabilities.

    Source: Das et al. 2020, Figure 6.
    """
    for rows in (p, q):
        need_distributions(rows, "give probabilities: the softmax of logits, shares for counts")
    entropy = np.sum(p * np.log(np.maximum(p, TINY)), axis=1)
    return entropy[:, None] - p @ np.log(np.maximum(q, TINY)).T


def human_kl_class(human: ClassSums, network: ClassSums) -> float:
    """Mean over classes of KL(mean human labels || mean prediction).

    Args:
      human: sums of human shares by true class.
      network: sums of the network's probabilities by true class.

    Returns:
      Nats; the mean over the classes that have examples, without the scaling of the paper's figure
      by minima and maxima.

    Source: Das et al. 2020, as in its public code.
    """
    occurs = np.asarray(human.count) > 0
    matrix = kl_matrix(class_means(human)[occurs], class_means(network)[occurs])
    return _mean(np.diag(matrix))


def class_separability(sums: ClassSums) -> float:
    """Mean over all pairs of classes, including equal ones (0), of KL between mean predictions.

    Args:
      sums: sums of probabilities by true class.

    Returns:
      Nats, over the classes that have examples.

    Source: Das et al. 2020, section 4.
    """
    means = class_means(sums)[np.asarray(sums.count) > 0]
    return _mean(kl_matrix(means, means))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
