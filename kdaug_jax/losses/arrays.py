"""Helpers that several losses share: products, lengths, pooling, shape checks; in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.metrics.arguments import are_probabilities
from kdaug_jax.types import is_known, need_class_numbers

# Values that differ by less than this share of the largest may differ by rounding alone.
ROUNDING = 16 * float(np.finfo(np.float32).eps)
# How far shares of half precision may lie outside of 0..1.
_TOLERANCE = 4e-3


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies matrices in full float32, where accelerators would otherwise round the factors.

    Args:
      a: `f32[...,N,K]`.
      b: `f32[...,K,M]`.

    Returns:
      `f32[...,N,M]`.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def flat(features: jax.Array) -> jax.Array:
    """Returns `[B,...]` as rows `f32[B,D]`."""
    return features.reshape(features.shape[0], -1).astype(jnp.float32)


def centred(rows: jax.Array) -> jax.Array:
    """Subtracts the mean of each row.

    Args:
      rows: `f32[...,M]`.

    Returns:
      `f32[...,M]`; 0, without a gradient, in a row that is constant but for rounding, which would
      otherwise grow to any size where it is divided by its deviation.
    """
    difference = rows - jnp.mean(rows, axis=-1, keepdims=True)
    size, spread = (
        jnp.max(jnp.abs(array), axis=-1, keepdims=True) for array in (rows, difference)
    )
    return jnp.where(spread > ROUNDING * size, difference, 0.0)


def normalized(x: jax.Array, axis: int = -1, eps: float = 1e-12) -> jax.Array:
    """Divides by max(length, eps), as PyTorch's `F.normalize`; 0 has the gradient 0.

    Args:
      x: `f32[...]`.
      axis: along which the length is taken.
      eps: the smallest length that is divided by.

    Returns:
      `f32[...]`.
    """
    square = jnp.sum(x * x, axis=axis, keepdims=True)
    # The square of a small eps is no float32, and the square root of 0 has no gradient.
    positive = square > 0
    length = jnp.sqrt(jnp.where(positive, square, 1.0))
    return jnp.where(positive, x / jnp.maximum(length, eps), 0.0)


def huber(difference: jax.Array) -> jax.Array:
    """Returns d^2 / 2 up to |d| = 1 and |d| - 1/2 beyond, elementwise (smooth L1, beta = 1)."""
    size = jnp.abs(difference)
    return jnp.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


def pool_to(features: jax.Array, side: int) -> jax.Array:
    """Averages maps over windows to `side` × `side`.

    Args:
      features: `f32[B,H,H,C]`, H a multiple of `side`.
      side: the new height and width.

    Returns:
      `f32[B,side,side,C]`.

    Raises:
      ArgumentError: H is no multiple of `side`.
    """
    batch, height, width, channels = features.shape
    if height == width == side:
        return features
    if height % side or width % side:
        raise ArgumentError(
            f"cannot pool maps of {width}×{height} to {side}×{side}",
            "choose features where one size divides the other",
        )
    windows = features.reshape(batch, side, height // side, side, width // side, channels)
    return jnp.mean(windows, axis=(2, 4))


def pooled_alike(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pools the larger of two maps to the smaller one's height and width.

    Args:
      a: `[B,H,W,C]`.
      b: `[B,H',W',C']`.

    Returns:
      Both in float32, with equal height and width.

    Raises:
      ArgumentError: not maps, or one size does not divide the other.
    """
    need_maps(a, b)
    side = min(a.shape[1], b.shape[1])
    return tuple(pool_to(x.astype(jnp.float32), side) for x in (a, b))


def need_same_examples(*features: jax.Array) -> None:
    """Validates that features are of as many examples: one would be compared with all others.

    Args:
      *features: `[B,...]`.

    Raises:
      ArgumentError: they are not.
    """
    counts = {feature.shape[0] for feature in features}
    if len(counts) > 1:
        shapes = " and ".join(str(list(feature.shape)) for feature in features)
        raise ArgumentError(f"got features {shapes}", "they must be of the same examples")


def need_maps(*features: jax.Array) -> None:
    """Validates that features are batches of maps.

    Args:
      *features: `[B,H,W,C]`.

    Raises:
      ArgumentError: a feature has another number of axes, or other examples.
    """
    need_same_examples(*features)
    for feature in features:
        if feature.ndim != 4:
            raise ArgumentError(
                f"works on maps [B,H,W,C], got {list(feature.shape)}",
                "choose a feature before the pooling",
            )


def need_equal(what: str, student: jax.Array, teacher: jax.Array) -> None:
    """Validates that a student's and a teacher's activations have equal shapes.

    Args:
      what: what has to be equal, for the message.
      student: `[B,...]`.
      teacher: `[B,...]`.

    Raises:
      ArgumentError: they differ.
    """
    if student.shape != teacher.shape:
        raise ArgumentError(
            f"needs equal {what}, the student has {list(student.shape[1:])} and the teacher "
            f"{list(teacher.shape[1:])}",
            "choose other features, or a loss with an adapter",
        )


def need_logits(
    student: jax.Array, teacher: jax.Array | None = None, labels: jax.Array | None = None
) -> None:
    """Validates that logits and labels have the same classes and the same examples.

    Values are checked where they are known, outside of traced code: of class numbers, of labels,
    and whether logits are probabilities, whose softmax would be a distribution near the uniform.
    Traced class numbers outside of 0..C-1 count as a label without any class: a one-hot row of
    zeros.

    Args:
      student: `[...,C]`, logits.
      teacher: `[...,C]`, logits.
      labels: `f32[...,C]`, class probabilities, or `i32[...]`, class numbers.

    Raises:
      ArgumentError: the numbers of classes or of examples differ, a class number or a label is
        out of range, or probabilities are given in place of logits.
    """
    *batch, classes = student.shape
    if teacher is not None:
        _need_shape("the student has", "the teacher", student.shape, teacher.shape)
        need_no_probabilities("the teacher", teacher)
    need_no_probabilities("the student", student)
    if labels is None:
        return
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        _need_shape("the logits have", "the labels", student.shape, labels.shape)
        _need_shares(labels)
        return
    if list(labels.shape) != batch:
        raise ArgumentError(
            f"got logits {list(student.shape)} and class numbers {list(labels.shape)}",
            f"class numbers must be {batch}",
        )
    need_class_numbers(labels, classes)


def _need_shape(has: str, other: str, shape: tuple[int, ...], given: tuple[int, ...]) -> None:
    if given == shape:
        return
    if len(given) == len(shape) and given[-1] != shape[-1]:
        raise ArgumentError(
            f"{has} {shape[-1]} classes and {other} {given[-1]}", "both must have the same classes"
        )
    raise ArgumentError(
        f"{has} the shape {list(shape)} and {other} {list(given)}",
        "both must be of the same examples and classes",
    )


def need_no_probabilities(whose: str, logits: jax.Array) -> None:
    """Validates that known values are logits, and not what a softmax makes of them.

    Args:
      whose: for the message.
      logits: `[...,C]`.

    Raises:
      ArgumentError: no value is negative and all rows sum to 1. Multiples of probabilities pass:
        losses are tried on logits such as 10 times a one-hot row.
    """
    if not is_known(logits):
        return
    rows = np.asarray(logits).reshape(-1, logits.shape[-1])
    if are_probabilities(rows) and abs(rows.sum(axis=1, dtype=np.float64).max() - 1.0) < _TOLERANCE:
        raise ArgumentError(
            f"{whose} has rows that are positive and sum to 1, so these are probabilities",
            "give logits, or the logarithm of probabilities",
        )


def _need_shares(labels: jax.Array) -> None:
    if not is_known(labels):
        return
    values = np.asarray(labels, np.float64)
    wrong = ~((values >= -_TOLERANCE) & (values <= 1.0 + _TOLERANCE))
    if wrong.any():
        raise ArgumentError(
            f"got a label that gives a class {values[wrong][0]:g}",
            "must be class probabilities, 0..1, or class numbers",
        )


def need_number(
    name: str, number: Any, low: float, high: float = np.inf, *, over: bool = False,
    whole: bool = False,
) -> None:
    """Validates an option where its value is known, outside of traced code.

    Args:
      name: of the option.
      number: what was given.
      low: smallest legal value.
      high: largest legal value.
      over: whether `low` itself is not legal.
      whole: whether fractions are not legal.

    Raises:
      ArgumentError: it is out of range.
    """
    if not is_known(number):
        return
    value = np.asarray(number)
    fits = (value > low if over else value >= low) & (value <= high) & np.isfinite(value)
    if fits.all() and not (whole and (value % 1).any()):
        return
    reach = f"more than {low:g}" if over else f"{low:g}..{high:g}"
    kind = "a whole number " if whole else ""
    raise ArgumentError(f"{name} = {number}", f"must be {kind}{reach}")


def masked_mean(value: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages a loss over the examples that count; 0 where none does.

    Args:
      value: `f32[...]`.
      mask: `bool[...]`, of the same shape.

    Returns:
      `f32[]`.
    """
    counts = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(jnp.sum(counts), 1.0)


def split_groups(tree: Any, groups: int) -> Any:
    """Splits arrays `[B,...]` of a tree into groups, `[groups,B/groups,...]`."""
    return jax.tree.map(
        lambda array: einops.rearrange(array, "(g b) ... -> g b ...", g=groups), tree
    )


def over_groups(
    function: Callable[..., jax.Array], groups: int, *arrays: jax.Array
) -> jax.Array:
    """Averages a loss that compares examples over the groups of a batch.

    Args:
      function: `f(*arrays [B/groups,...]) -> f32[]` of one group.
      groups: their number.
      *arrays: `[B,...]`, or trees of such.

    Returns:
      `f32[]`.
    """
    if groups == 1:
        return function(*arrays)
    return jnp.mean(jax.vmap(function)(*split_groups(arrays, groups)))
