"""Metrics of classifiers as (sum, count) pairs, so that any split of a data set adds up.

Rows that only fill a batch up are masked: they do not count, whatever they hold. Logits that name
no class (see `answered`) are never right and agree with nothing; means of their logarithms are NaN.
Labels are class numbers 0..C-1, of any integer type. Others are refused where their values are
known, outside of traced code, as are probabilities in place of logits; under `jit` accuracies and
bins count such an example as wrong, means of logarithms and squares are NaN, and sums by class
leave it out (see `class_numbers`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.errors import ArgumentError
from kdaug_jax.metrics.arguments import need_labels, need_logits, need_rows
from kdaug_jax.types import is_known

Pair = tuple[jax.Array, jax.Array]


def total(value: jax.Array, mask: jax.Array) -> Pair:
    """Sums `f32[B]` over the rows that count: (sum `f32[]`, number counted `f32[]`)."""
    return jnp.sum(jnp.where(mask, value, 0.0)), jnp.sum(mask, dtype=jnp.float32)


def clean(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns logits in float32 with zeros in masked rows, so that no NaN of theirs can spread."""
    need_rows(mask, logits)
    return jnp.where(mask[:, None], logits.astype(jnp.float32), 0.0)


def log_probabilities(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns log softmax `f32[B,C]` of logits, see `clean`; known probabilities are refused."""
    need_rows(mask, logits)
    need_logits(logits, mask)
    return jax.nn.log_softmax(clean(logits, mask), axis=-1)


def answered(logits: jax.Array) -> jax.Array:
    """Returns which rows name a class: none of `[B,C]` is NaN and the largest is finite.

    An `argmax` of NaNs would name class 0. Classes that are left out may be at -inf.
    """
    largest = jnp.max(logits.astype(jnp.float32), axis=-1)  # NaN where any is
    return jnp.isfinite(largest)


def class_numbers(label: jax.Array, mask: jax.Array, classes: int) -> jax.Array:
    """Returns labels `i32[B]`, with C in place of what is no class: it would count from the end.

    Args:
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      classes: C.

    Raises:
      ArgumentError: see `arguments.need_labels`.
    """
    need_labels(label, mask, classes)
    label = jnp.asarray(label).astype(jnp.int32)
    return jnp.where((label >= 0) & (label < classes), label, classes)


def top_k_accuracy(logits: jax.Array, label: jax.Array, mask: jax.Array, k: ArrayLike) -> Pair:
    """Counts examples whose label is among the k largest logits; of equal ones the first win.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      k: `i32[]`, 1..C.

    Returns:
      (number right `f32[]`, number counted `f32[]`). Logits that hold a NaN are never right.
    """
    need_rows(mask, logits)
    if is_known(k) and not (np.asarray(k) >= 1 and np.asarray(k) % 1 == 0):
        raise ArgumentError(f"k = {k}", "must be a whole number of at least 1")
    knows = answered(logits)
    label = class_numbers(label, mask, logits.shape[-1])
    logits = clean(logits, mask)
    logit = jnp.take_along_axis(logits, label[:, None], axis=-1)
    first = jnp.arange(logits.shape[-1])[None, :] >= label[:, None]
    behind = (logits < logit) | ((logits == logit) & first)
    ahead = jnp.sum(~behind, axis=-1, dtype=jnp.int32)
    return total(((ahead < k) & knows).astype(jnp.float32), mask)


def accuracy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> Pair:
    """Counts examples whose label has the largest logit; of equal ones the first wins.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (number right `f32[]`, number counted `f32[]`). Logits that hold a NaN are never right.
    """
    return top_k_accuracy(logits, label, mask, 1)


def nll(logits: jax.Array, label: jax.Array, mask: jax.Array) -> Pair:
    """Sums the negative log likelihood of the labels, in nats.

    Args:
      logits: `[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.

    Returns:
      (sum `f32[]`, number counted `f32[]`).
    """
    log_p = log_probabilities(logits, mask)
    label = class_numbers(label, mask, logits.shape[-1])
    log_p_label = jnp.take_along_axis(log_p, label[:, None], axis=-1)
    return total(-log_p_label[:, 0], mask)


def merge(a: Any, b: Any) -> Any:
    """Adds the sums of two sets of examples for the same metric, pairs or other trees.

    Raises:
      ArgumentError: they are sums of different metrics or settings: their shapes differ.
    """
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(sums)] for sums in (a, b)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            f"got sums of shapes {shapes[0]} and {shapes[1]}", "merge sums of the same settings"
        )
    return jax.tree.map(jnp.add, a, b)


def mean(pair: Pair) -> jax.Array:
    """Returns sum / count, `f32[]`; NaN where nothing was counted."""
    return jnp.divide(pair[0], pair[1])
