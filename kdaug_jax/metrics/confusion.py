"""Who is taken for whom, and precision, recall and F1 averaged over classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.metrics.classification import clean


def confusion(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts examples by their class (rows) and the class they are taken for (columns).

    Args:
      logits: `[B,C]`; of equal ones the first counts.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      `i32[C,C]`; counts of batches add up.
    """
    classes = logits.shape[-1]
    taken = jnp.argmax(clean(logits, mask), axis=-1)
    cell = jnp.where(mask, label * classes + taken, classes * classes)
    counts = jnp.zeros(classes * classes, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(classes, classes)


def precision_recall_f1(counts: jax.Array) -> dict[str, float]:
    """Averages precision, recall and F1 over classes (macro), on the host in float64.

    Classes that are neither a label nor an answer are left out; a class that is never the answer
    has precision 0. F1 is the mean of the classes' F1, not that of the means.

    Args:
      counts: `i32[C,C]`, see `confusion`.

    Returns:
      "precision", "recall" and "f1"; NaN where nothing was counted.
    """
    counts = np.asarray(counts, np.float64)
    right, answers, labels = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    seen = answers + labels > 0
    if not seen.any():
        return {"precision": np.nan, "recall": np.nan, "f1": np.nan}
    per_class = {
        "precision": right / np.maximum(answers, 1),
        "recall": right / np.maximum(labels, 1),
        "f1": 2 * right / np.maximum(answers + labels, 1),
    }
    return {name: float(values[seen].mean()) for name, values in per_class.items()}
