"""T. stddev: how much a teacher's mean prediction varies over samples of augmented views."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.metrics.arguments import need_mask

# Rows of a sample; 10 batches of 64 in the public code.
GROUP = 640
# How far the sum of a group's mean probabilities may lie from 1: rounding, of half precision too.
_TOLERANCE = 4e-3


def group_sums(
    probabilities: jax.Array, first: jax.Array, mask: jax.Array, groups: int, group: int = GROUP
) -> jax.Array:
    """Sums probabilities over groups of consecutive rows; sums of batches add up (see `merge`).

    Args:
      probabilities: `f32[B,C]`.
      first: `i32[]`, number of rows before this batch, without padding.
      mask: `bool[B]`, False on rows that do not count, all at the end.
      groups: G, number of groups; rows after them are skipped.
      group: rows in a group.

    Returns:
      `f32[G,C]`.
    """
    need_mask(mask, probabilities.shape[0])
    number = (first + jnp.arange(probabilities.shape[0])) // group
    cell = jnp.where(mask, number, groups)
    rows = jnp.where(mask[:, None], probabilities.astype(jnp.float32), 0.0)
    return jnp.zeros((groups, rows.shape[1]), jnp.float32).at[cell].add(rows, mode="drop")


def t_stddev(sums: np.ndarray, group: int = GROUP) -> float:
    """Mean over classes of the standard deviation, over groups of views, of the mean probability.

    The lower the value, the better an augmentation is for distillation: the teacher's mean
    prediction depends less on the sample of views. It needs no student.

    Args:
      sums: `f32[G,C]`, see `group_sums`; at least 2 full groups.
      group: rows in a group.

    Returns:
      The mean over classes of the standard deviation with divisor G - 1, as PyTorch's.

    Raises:
      ArgumentError: less than 2 groups, or sums that are not those of `group` probabilities.

    Source: Wang et al. 2022, "What Makes a 'Good' Data Augmentation in Knowledge Distillation",
    section 3, and its public code, which also includes the views before augmentation.
    """
    means = np.asarray(sums, np.float64) / group
    if len(means) < 2:
        raise ArgumentError(f"got {len(means)} groups of {group} views", "needs at least 2")
    largest = float(np.max(np.abs(means.sum(axis=1) - 1.0)))
    if largest > _TOLERANCE:
        raise ArgumentError(
            f"sums over {group} views are {1 + largest:.3g} or {1 - largest:.3g} times {group}",
            "give the number of views of a group, full groups, and probabilities",
        )
    return float(np.mean(np.std(means, axis=0, ddof=1)))
