"""Calibration: reliability diagram, ECE, MCE and Brier score."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.metrics.arguments import need_logits, need_rows
from kdaug_jax.metrics.classification import Pair, answered, class_numbers, clean, total


class Reliability(NamedTuple):
    """Sums over the examples of each bin of confidence; sums of batches add up (see `merge`).

    Attributes:
      count: `f32[M]`, examples.
      right: `f32[M]`, correctly predicted examples.
      confidence: `f32[M]`, sum of the largest probabilities.
    """

    count: jax.Array
    right: jax.Array
    confidence: jax.Array


def reliability(
    logits: jax.Array, label: jax.Array, mask: jax.Array, *, bins: int = 15
) -> Reliability:
    """Sorts examples into equal bins (lo, hi] of their largest probability.

    Paper 004's code has 10 bins, Guo et al. 15.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      bins: M, at least 1.

    Returns:
      Sums by bin; confidence is NaN where logits name no class, and so are ECE and MCE.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    need_rows(mask, logits)
    need_logits(logits, mask)
    knows = answered(logits)
    label = class_numbers(label, mask, logits.shape[-1])
    logits = clean(logits, mask)
    confidence = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
    right = (knows & (jnp.argmax(logits, axis=-1) == label)).astype(jnp.float32)
    inner = jnp.asarray(np.arange(1, bins) / bins, jnp.float32)
    number = jnp.searchsorted(inner, confidence, side="left")
    cell = jnp.where(mask, number, bins)

    def summed(value):
        return jnp.zeros(bins, jnp.float32).at[cell].add(value, mode="drop")

    return Reliability(summed(jnp.ones_like(right)), summed(right), summed(confidence))


def gaps(sums: Reliability) -> tuple[np.ndarray, np.ndarray]:
    """Returns each bin's |accuracy - mean confidence| and its share of the examples.

    Args:
      sums: see `reliability`.

    Returns:
      Two `f64[M]`; gaps of empty bins are 0.
    """
    count, right, confidence = (np.asarray(array, np.float64) for array in sums)
    filled = np.maximum(count, 1.0)
    return np.abs(right - confidence) / filled, count / max(count.sum(), 1.0)


def ece(sums: Reliability) -> float:
    """Expected calibration error: the mean gap over examples, NaN for none; see `gaps`."""
    gap, share = gaps(sums)
    return float(np.sum(gap * share)) if share.any() else float("nan")


def mce(sums: Reliability) -> float:
    """Maximum calibration error: the largest gap of a bin, NaN of no examples; see `gaps`."""
    gap, share = gaps(sums)
    return float(np.max(gap)) if share.any() else float("nan")


def brier(logits: jax.Array, label: jax.Array, mask: jax.Array) -> Pair:
    """Sums the squared differences between probabilities and the one-hot label, over classes.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (sum `f32[]`, number counted `f32[]`), 0..2 an example.

    Source: Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".
    """
    need_rows(mask, logits)
    need_logits(logits, mask)
    p = jax.nn.softmax(clean(logits, mask), axis=-1)
    label = class_numbers(label, mask, logits.shape[-1])
    target = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    squares = jnp.sum(jnp.square(p - target), axis=-1)
    return total(jnp.where(label < logits.shape[-1], squares, jnp.nan), mask)
