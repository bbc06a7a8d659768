"""Rows of memory banks, and negatives of other classes drawn on the device."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Info

# The largest K with K^2 < 2^31, so that edges of strata are computed in 32 bits.
MOST = 46_340
POSITIVES = ("exact", "relax")


class Strata(NamedTuple):
    """Where negatives lie among all rows sorted by class, which strata are cut out of.

    Attributes:
      order: `i32[N]`, rows sorted by class.
      place: `i32[B,K]`, rising: the negative of each of the K strata, a position in `order`.
      first: `i32[B,1]`, where the example's own class begins.
      same: `i32[B,1]`, how many rows it has.
    """

    order: jax.Array
    place: jax.Array
    first: jax.Array
    same: jax.Array


def sampling_state(info: Info, negatives: int) -> dict[str, jax.Array]:
    """Returns tables of rows and classes for a term's state.

    Args:
      info: labels of the training split and its positions in the base split.
      negatives: K, number of negatives per example.

    Returns:
      "label" `i32[N]`, of each row; "order" `i32[N]`, rows sorted by class; "start" `i32[C+1]`,
      where each class begins there; and, for a part of a split, "index" `i32[N]`, rising positions,
      and "row" `i32[N]`, their rows.

    Raises:
      ArgumentError: K is out of range, or there is only one class.
    """
    if not 1 <= negatives <= MOST:
        raise ArgumentError(f"got negatives={negatives}", f"must be 1..{MOST}")
    labels = np.asarray(info.labels)
    if len(np.unique(labels)) < 2:
        raise ArgumentError(
            f"draws negatives of other classes and got {len(np.unique(labels))} class",
            "needs at least 2 classes",
        )
    starts = np.searchsorted(np.sort(labels), np.arange(info.num_classes + 1))
    state = {"label": labels, "order": np.argsort(labels, kind="stable"), "start": starts}
    if info.index is not None and not np.array_equal(info.index, np.arange(len(labels))):
        order = np.argsort(info.index, kind="stable")
        state |= {"index": np.asarray(info.index)[order], "row": order}
    return {name: jnp.asarray(array.astype(np.int32)) for name, array in state.items()}


def rows_of(state: dict[str, jax.Array], index: jax.Array) -> jax.Array:
    """Returns the rows of examples.

    Args:
      state: see `sampling_state`.
      index: `i32[B]`, positions in the base split.

    Returns:
      `i32[B]`.
    """
    index = jnp.asarray(index, jnp.int32)
    if "index" not in state:
        return index
    return state["row"][jnp.searchsorted(state["index"], index)]


def has_strata(info: Info, negatives: int) -> bool:
    """Returns whether every class leaves at least K rows of other classes, so that none repeats."""
    counts = np.bincount(np.asarray(info.labels), minlength=info.num_classes)
    return bool(counts.sum() - counts.max() >= negatives)


def contrast_rows(
    state: dict[str, jax.Array], key: jax.Array, rows: jax.Array, index: jax.Array,
    negatives: int, positive: str,
) -> tuple[jax.Array, Strata]:
    """Draws the row of each example's positive, then K rows of other classes.

    The M rows of other classes, sorted by class, are split into K equal strata, and one row is
    drawn from each: all rows are equally likely and none is drawn twice. Where M < K they are drawn
    with repetition.

    Args:
      state: see `sampling_state`.
      key: PRNG key of the term and step, folded with the index of each example.
      rows: `i32[B]`.
      index: `i32[B]`, positions in the base split.
      negatives: K.
      positive: "exact" for the example itself, "relax" for a random one of its class.

    Returns:
      `i32[B,1+K]`, and the strata of the negatives, to be used where `has_strata`.

    Raises:
      ArgumentError: `positive` is neither.
    """
    if positive not in POSITIVES:
        raise ArgumentError(f"got positive={positive!r}", "must be 'exact' or 'relax'")
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (1 + negatives,), jnp.float32))(keys)
    label = state["label"][rows]
    first = state["start"][label][:, None]
    same_class = state["start"][label + 1][:, None] - first
    other_classes = state["label"].shape[0] - same_class
    place = _places(draw[:, 1:], other_classes, negatives)
    place = jnp.where(place < first, place, place + same_class)
    first_row = rows[:, None]
    if positive == "relax":
        first_row = state["order"][first + _below(draw[:, :1], same_class)]
    drawn = jnp.concatenate([first_row, state["order"][place]], axis=1)
    return drawn, Strata(state["order"], place, first, same_class)


def stratum_of(strata: Strata) -> tuple[jax.Array, jax.Array]:
    """Returns the stratum that each row belongs to, of the rows sorted by class.

    Args:
      strata: of the negatives.

    Returns:
      `i32[B,N]`, 0..K-1, rising, and `bool[B,N]`, False for rows of the example's own class.
    """
    size, count = strata.order.shape[0], strata.place.shape[1]
    position = jnp.arange(size, dtype=jnp.int32)[None, :]
    before, after = position < strata.first, position >= strata.first + strata.same
    others = size - strata.same
    rank = jnp.where(after, position - strata.same, jnp.minimum(position, strata.first))
    rank = jnp.minimum(rank, others - 1)
    # The product of rank and K has more than 32 bits; the estimate is less than one stratum off.
    share = count / others.astype(jnp.float32)
    near = ((rank.astype(jnp.float32) + 0.5) * share).astype(jnp.int32)
    near = jnp.clip(near, 0, count - 1)
    below = _edge(near + 1, others, count) <= rank
    above = _edge(near, others, count) > rank
    return near + below.astype(jnp.int32) - above.astype(jnp.int32), before | after


def _below(draw: jax.Array, count: jax.Array) -> jax.Array:
    """Converts numbers in 0..1 to integers 0..count-1."""
    return jnp.minimum((draw * count.astype(jnp.float32)).astype(jnp.int32), count - 1)


def _places(draw: jax.Array, count: jax.Array, strata: int) -> jax.Array:
    """Returns `i32[B,K]` in 0..count-1, one of each of K strata, or any where count < K."""
    edge = _edge(jnp.arange(strata + 1, dtype=jnp.int32)[None, :], count, strata)
    low, width = edge[:, :-1], edge[:, 1:] - edge[:, :-1]
    return jnp.where(count >= strata, low + _below(draw, width), _below(draw, count))


def _edge(k: jax.Array, count: jax.Array, strata: int) -> jax.Array:
    """Returns floor(k count / K), where stratum k begins, in 32 bits."""
    return k * (count // strata) + (k * (count % strata)) // strata
