"""Validates what metrics are given: shapes and types always, values where they are known.

Shapes and types are those of the trace, so inside `jit` nothing of this is computed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import is_known, need_class_numbers

# How far sums of rows of probabilities, perhaps of half precision, lie from each other.
_TOLERANCE = 4e-3


def need_rows(mask: jax.Array, *logits: jax.Array) -> None:
    """Validates logits of the same examples and classes.

    Args:
      mask: `bool[B]`, False on rows that do not count.
      *logits: `[B,C]` each.

    Raises:
      ArgumentError: a shape or type is another.
    """
    for array in logits:
        if array.ndim != 2 or array.shape != logits[0].shape:
            raise ArgumentError(
                "got logits " + " and ".join(str(list(each.shape)) for each in logits),
                "must be [B,C], of the same examples and classes",
            )
    need_mask(mask, logits[0].shape[0])


def need_mask(mask: jax.Array, rows: int) -> None:
    """Validates a mask.

    Args:
      mask: `bool[B]`, False on rows that do not count.
      rows: B.

    Raises:
      ArgumentError: shape or type are others.
    """
    if mask.shape != (rows,) or mask.dtype != jnp.bool_:
        raise ArgumentError(f"got a mask {mask.dtype}{list(mask.shape)}", f"must be bool[{rows}]")


def need_labels(label: jax.Array, mask: jax.Array, classes: int) -> None:
    """Validates class numbers.

    Args:
      label: `i32[B]`, of any integer type.
      mask: `bool[B]`, False on rows that do not count.
      classes: C.

    Raises:
      ArgumentError: shape or type are others, or a number that counts is known and not 0..C-1.
    """
    if label.shape != mask.shape or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ArgumentError(
            f"got labels {label.dtype}{list(label.shape)}",
            f"must be class numbers, i32{list(mask.shape)}",
        )
    need_class_numbers(label, classes, mask)


def need_logits(logits: jax.Array, mask: jax.Array) -> None:
    """Validates that no probabilities are given where a softmax is going to be taken.

    Args:
      logits: `[B,C]`.
      mask: `bool[B]`, False on rows that do not count.

    Raises:
      ArgumentError: the values are known, and all rows are positive with the same sum.
    """
    if not (is_known(logits) and is_known(mask)):
        return
    if are_probabilities(np.asarray(logits)[np.asarray(mask)]):
        raise ArgumentError(
            "got rows that are positive and have the same sum, so these are probabilities",
            "give logits, or the logarithm of probabilities",
        )


def need_shares(human: jax.Array, logits: jax.Array, mask: jax.Array) -> None:
    """Validates shares of human labels, where counts would be a multiple of them.

    Args:
      human: `f32[B,C]`.
      logits: `[B,C]`.
      mask: `bool[B]`, False on rows that do not count.

    Raises:
      ArgumentError: the shapes differ, or rows that count are known not to be shares.
    """
    if human.shape != logits.shape:
        raise ArgumentError(
            f"got human labels {list(human.shape)} with logits {list(logits.shape)}",
            "must be of the same examples and classes",
        )
    if is_known(human) and is_known(mask):
        need_distributions(np.asarray(human)[np.asarray(mask)], "divide counts by their sum")


def need_distributions(rows: np.ndarray, remedy: str) -> None:
    """Validates that rows are probabilities; rows that hold a NaN are passed over.

    Args:
      rows: `f[N,C]`.
      remedy: for the message.

    Raises:
      ArgumentError: a value is negative, or a sum is not 1.
    """
    values = np.asarray(rows, np.float64)
    values = values[~np.isnan(values).any(axis=1)]
    if not values.size:
        return
    sums = values.sum(axis=1)
    sum_of_worst = sums[np.argmax(np.abs(sums - 1.0))]
    if values.min() < 0.0 or abs(sum_of_worst - 1.0) > _TOLERANCE:
        raise ArgumentError(
            f"got rows that are no probabilities: the smallest value is {values.min():.4g}, a sum "
            f"is {sum_of_worst:.4g}", remedy,
        )


def are_probabilities(outputs: np.ndarray) -> bool:
    """Returns whether rows look like probabilities, or a multiple of them, rather than logits.

    That is, no value is negative and all rows have the same sum. Logits that are positive by chance
    have sums of their own.

    Args:
      outputs: `f[B,C]`.
    """
    values = np.asarray(outputs, np.float64)
    if values.shape[1] < 2 or not values.size or values.min() < 0.0:
        return False
    sums = values.sum(axis=1)
    several = len(values) > 1 or abs(sums[0] - 1.0) <= _TOLERANCE
    alike = sums.max() - sums.min() <= _TOLERANCE * sums.max()
    # Networks that have not learned anything may return the same row for all images.
    constant = bool((values == values[:1]).all()) and abs(sums[0] - 1.0) > _TOLERANCE
    return bool(several and alike and sums.max() > 0.0 and not constant)
