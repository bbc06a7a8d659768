"""Confusion matrix, and precision, recall and F1 averaged over classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.errors import ArgumentError
from kdaug_jax.metrics.arguments import need_rows
from kdaug_jax.metrics.classification import answered, class_numbers, clean


def confusion(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts examples by true class (rows) and predicted class (columns).

    Rows whose logits hold a NaN name no class and are left out; `unanswered` counts them.

    Args:
      logits: `[B,C]`; of equal ones the first counts.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      `i32[C,C]`; counts of batches add up.
    """
    need_rows(mask, logits)
    classes = logits.shape[-1]
    predicted = jnp.argmax(clean(logits, mask), axis=-1)
    counts = mask & answered(logits)
    label = class_numbers(label, mask, classes)
    cell = jnp.where(counts, label * classes + predicted, classes * classes)
    counts = jnp.zeros(classes * classes, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(classes, classes)


def unanswered(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts examples whose logits name no class, see `answered`, by true class.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      `i32[C]`; counts of batches add up.
    """
    need_rows(mask, logits)
    counts = mask & ~answered(logits)
    label = class_numbers(label, mask, logits.shape[-1])
    # Compared and not scattered: every evaluation counts them, and TPUs scatter one by one.
    is_class = label[:, None] == jnp.arange(logits.shape[-1])[None, :]
    return jnp.sum(counts[:, None] & is_class, axis=0, dtype=jnp.int32)


def precision_recall_f1(
    counts: jax.Array, unanswered: ArrayLike = 0
) -> dict[str, float]:
    """Averages precision, recall and F1 over classes (macro), on the host in float64.

    Classes that occur neither as a label nor as a prediction are skipped; a class that is never
    predicted has precision 0. F1 is the mean of the classes' F1, not the F1 of the means.

    Args:
      counts: `i32[C,C]`, see `confusion`.
      unanswered: `i32[C]`, see `unanswered`: they are wrong.

    Returns:
      "precision", "recall" and "f1"; NaN where nothing was counted.

    Raises:
      ArgumentError: the matrix holds no counts, such as one that was divided by sums of its rows.
    """
    counts = np.asarray(counts, np.float64)
    if (counts < 0).any() or (counts % 1).any():
        raise ArgumentError(
            f"got a matrix of sum {counts.sum():.4g} that holds no whole numbers",
            "must be counts, as `confusion` returns",
        )
    right, predicted, labels = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    labels = labels + np.asarray(unanswered, np.float64)
    occurs = predicted + labels > 0
    if not occurs.any():
        return {"precision": np.nan, "recall": np.nan, "f1": np.nan}
    per_class = {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(labels, 1),
        "f1": 2 * right / np.maximum(predicted + labels, 1),
    }
    return {name: float(values[occurs].mean()) for name, values in per_class.items()}
