"""Tries a foreign network on a few images: each image must be answered by itself, with logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.frozen.adapting import require_outputs

# Images of a batch, and of a shorter one.
IMAGES, FEWER = 16, 5
# Share of the largest logit by which answers may differ between batches: two units in the last
# place of bfloat16. Statistics of a batch and dropout change most rows by far more.
_BETWEEN = 2.0**-6
# The same for two equal calls, whose sums some devices order otherwise.
_AGAIN = 1e-5


def probe(
    where: str, answer: Callable[[np.ndarray], np.ndarray], images: np.ndarray,
    probabilities: bool = False,
) -> None:
    """Validates that a network answers each image by itself, always alike, and with logits.

    Args:
      where: config path of the network, for messages.
      answer: maps `[n,H,W,C]` to logits `f32[n,K]`, for n of `IMAGES` and of `FEWER`.
      images: `[IMAGES,H,W,C]`, of which some must be distinct.
      probabilities: whether the logits are logarithms of what the network returns.

    Raises:
      ConfigError: the answers depend on the rest of the batch, are drawn at random, or are
        probabilities.
    """
    first, again = answer(images), answer(images)
    order = np.random.default_rng(0).permutation(len(images))
    permuted, fewer = answer(images[order]), answer(images[:FEWER])
    remedy = "export it in inference mode (model.eval(), train=False)"
    if _differ(first, again, _AGAIN):
        raise ConfigError(where, "answers the same images differently each time", remedy)
    if _differ(first[order], permuted, _BETWEEN):
        raise ConfigError(
            where, "answers an image differently at another place of the batch, as dropout in "
            "training mode does", remedy,
        )
    if _differ(first[:FEWER], fewer, _BETWEEN):
        raise ConfigError(
            where, f"answers the same images differently in a batch of {FEWER} than of "
            f"{len(images)}, as BatchNorm in training mode does", remedy,
        )
    returned = np.exp(first.astype(np.float64)) if probabilities else first
    require_outputs(where, "every row of its outputs", returned, probabilities)


def _differ(first: np.ndarray, second: np.ndarray, share: float) -> bool:
    """Returns whether a quarter of the rows differ by more than a share of the largest value."""
    # Logits of a row may be shifted alike without a meaning.
    first, second = (a - a.mean(axis=1, keepdims=True) for a in (first, second))
    largest = max(np.abs(first).max(), np.abs(second).max(), 1e-30)
    rows = np.abs(first - second).max(axis=1) > share * largest
    return bool(rows.mean() > 0.25 or not np.isfinite(largest))


def permuted_accuracy(confusion: np.ndarray) -> float | None:
    """Returns the accuracy that a reordering of the predicted classes would give.

    Args:
      confusion: `f[C,C]`, examples by class (rows) and predicted class.

    Returns:
      The accuracy, 0..1; None unless most examples of the classes that would move are predicted
      as one other class, by more than chance.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.asarray(confusion, np.float64)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    moved = rows != columns
    before, after = counts[rows, rows][moved].sum(), counts[rows, columns][moved].sum()
    examples = counts[moved].sum()
    # Three deviations of the difference of two counts.
    if not moved.any() or after < examples / 2 or after - before < 3 * (after + before) ** 0.5:
        return None
    return float(counts[rows, columns].sum() / counts.sum())
