"""Class structure of embeddings: cohesion within, adhesion between, and discrimination.

Two passes over a split: `moments` of the embeddings first, then `unit_sums` of the standardised
embeddings, from which all mean cosines follow in O(N d) without computing pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.metrics.arguments import need_mask
from kdaug_jax.metrics.human import ClassSums, class_sums

# Values that differ by less than this share of the largest may differ by rounding alone: a network
# in other batches gives other low bits, and so do sums in another order.
ROUNDING = 16 * float(np.finfo(np.float32).eps)


class Moments(NamedTuple):
    """Moments of each dimension; `merge_moments` combines those of batches.

    Attributes:
      count: `f32[]`.
      mean: `f32[D]`.
      square: `f32[D]`, sum of squared deviations from the mean.
      low, high: `f32[D]`, smallest and largest value.
    """

    count: jax.Array
    mean: jax.Array
    square: jax.Array
    low: jax.Array
    high: jax.Array


def moments(embedding: jax.Array, mask: jax.Array) -> Moments:
    """Returns the moments of a batch.

    Args:
      embedding: `[B,...]`, flattened to `[B,D]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      Mean, squared deviations and range by dimension.
    """
    rows = _rows(embedding, mask)
    counts = mask[:, None]
    count = jnp.sum(mask, dtype=jnp.float32)
    mean = jnp.sum(rows, axis=0) / jnp.maximum(count, 1.0)
    deviation = jnp.where(counts, rows - mean[None, :], 0.0)
    low = jnp.min(jnp.where(counts, rows, jnp.inf), axis=0)
    high = jnp.max(jnp.where(counts, rows, -jnp.inf), axis=0)
    return Moments(count, mean, jnp.sum(deviation * deviation, axis=0), low, high)


def _rows(embedding: jax.Array, mask: jax.Array) -> jax.Array:
    need_mask(mask, embedding.shape[0])
    rows = embedding.reshape(embedding.shape[0], -1).astype(jnp.float32)
    return jnp.where(mask[:, None], rows, 0.0)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Combines the moments of two sets of examples.

    Source: Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances".
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    difference = b.mean - a.mean
    square = a.square + b.square + difference * difference * (a.count * share)
    return Moments(
        count, a.mean + difference * share, square, jnp.minimum(a.low, b.low),
        jnp.maximum(a.high, b.high),
    )


class UnitSums(NamedTuple):
    """Sums of unit vectors by class; sums of batches add up (see `merge`).

    Attributes:
      vectors: sums of the vectors.
      square: `f32[K]`, sums of their squared lengths, 1 each but for vectors of length 0.
    """

    vectors: ClassSums
    square: jax.Array


def unit_sums(
    embedding: jax.Array, label: jax.Array, mask: jax.Array, moments: Moments, classes: int
) -> UnitSums:
    """Standardises embeddings with the moments of the whole split and sums their directions.

    Args:
      embedding: `[B,...]`, flattened to `[B,D]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      moments: moments of the split; the deviation is that of the population. A dimension that is
        constant but for rounding becomes 0, and so does an embedding that differs from the mean by
        no more than that.
      classes: K.

    Returns:
      Sums by class.
    """
    deviation = jnp.sqrt(moments.square / jnp.maximum(moments.count, 1.0))
    rounding = ROUNDING * jnp.maximum(jnp.abs(moments.low), jnp.abs(moments.high))
    varies = moments.high - moments.low > rounding
    scale = jnp.where(varies, 1.0 / jnp.where(varies, deviation, 1.0), 0.0)
    rows = (_rows(embedding, mask) - moments.mean[None, :]) * scale[None, :]
    length = jnp.sqrt(jnp.sum(rows * rows, axis=1, keepdims=True))
    least = jnp.sqrt(jnp.sum(jnp.square(rounding * scale)))
    known = length > least
    unit = jnp.where(known, rows / jnp.where(known, length, 1.0), 0.0)
    square = class_sums(unit * unit, label, mask, classes).total
    return UnitSums(class_sums(unit, label, mask, classes), jnp.sum(square, axis=1))


class Discrimination(NamedTuple):
    """The result of `class_discrimination`.

    Attributes:
      cohesion: mean over classes of the mean cosine of pairs within a class.
      adhesion: mean over pairs of classes of the mean cosine between them, half of it as Table 5
        prints it.
      discrimination: (cohesion - adhesion) / sqrt(d).
      cohesion_per_class: `f64[K]`, NaN for classes of less than 2 examples.
      adhesion_per_pair: `f64[K,K]`, NaN on the diagonal and for classes without examples.
    """

    cohesion: float
    adhesion: float
    discrimination: float
    cohesion_per_class: np.ndarray
    adhesion_per_pair: np.ndarray


def class_discrimination(
    sums: UnitSums, *, dim: int | None = None, table5: bool = False
) -> Discrimination:
    """Computes cohesion, adhesion and discrimination, on the host in float64.

    The text of paper 004 swaps the names: it calls cohesion inter-class and adhesion intra-class.
    Its formula is half the mean cohesion; its Table 5 has the mean, half the mean adhesion, and the
    divisor sqrt(K) = sqrt(10).

    Args:
      sums: see `unit_sums`.
      dim: d, by default the embedding's width.
      table5: reproduce Table 5 of the last features before the classifier: adhesion is half the
        mean, and discrimination (cohesion - adhesion) / sqrt(K).

    Returns:
      The measures.

    Source: Das et al. 2020, section 4 and Table 5.
    """
    total = np.asarray(sums.vectors.total, np.float64)
    count = np.asarray(sums.vectors.count, np.float64)
    gram = total @ total.T
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (np.diag(gram) - np.asarray(sums.square, np.float64)) / (count * (count - 1))
        between = gram / np.outer(count, count)
    within[count < 2] = np.nan
    np.fill_diagonal(between, np.nan)
    between[~np.isfinite(between)] = np.nan
    cohesion, adhesion = _mean(within), _mean(between)
    adhesion = adhesion / 2 if table5 else adhesion
    divisor = np.sqrt(len(count) if table5 else dim or total.shape[1])
    value = (cohesion - adhesion) / divisor
    return Discrimination(cohesion, adhesion, float(value), within, between)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
