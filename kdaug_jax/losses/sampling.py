"""Rows of memory banks, and negatives of other classes drawn on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Info

# Above it, positions among the strata would not fit into 32 bits.
MOST = 46_340
POSITIVES = ("exact", "relax")


def sampling_state(info: Info, negatives: int) -> dict[str, jax.Array]:
    """Makes the tables that rows are found and drawn with, to be kept in a term's state.

    Args:
      info: labels of the training split and its positions in the base split.
      negatives: K, how many an example.

    Returns:
      "label" `i32[N]`, of each row; "order" `i32[N]`, rows sorted by class; "start" `i32[C+1]`,
      where each class begins there; and, for a part of a split, "index" `i32[N]`, rising positions,
      and "row" `i32[N]`, their rows.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    if not 1 <= negatives <= MOST:
        raise ArgumentError(f"got negatives={negatives}", f"must be 1..{MOST}")
    labels = np.asarray(info.labels)
    if len(np.unique(labels)) < 2:
        raise ArgumentError("negatives are of other classes", "needs at least 2 classes")
    starts = np.searchsorted(np.sort(labels), np.arange(info.num_classes + 1))
    state = {"label": labels, "order": np.argsort(labels, kind="stable"), "start": starts}
    if info.index is not None and not np.array_equal(info.index, np.arange(len(labels))):
        order = np.argsort(info.index, kind="stable")
        state |= {"index": np.asarray(info.index)[order], "row": order}
    return {name: jnp.asarray(array.astype(np.int32)) for name, array in state.items()}


def rows_of(state: dict[str, jax.Array], index: jax.Array) -> jax.Array:
    """Finds the rows of examples.

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


def contrast_rows(
    state: dict[str, jax.Array], key: jax.Array, rows: jax.Array, index: jax.Array,
    negatives: int, positive: str,
) -> jax.Array:
    """Draws for each example the row of its positive, then rows of other classes.

    The M rows of other classes are split, in the order of their classes, into K equal strata, and
    one row is drawn from each: every row is as likely as any other and none comes twice. With less
    than K such rows they are drawn with repetition.

    Args:
      state: see `sampling_state`.
      key: of the term and step; each example draws with its own, made from its index.
      rows: `i32[B]`.
      index: `i32[B]`, positions in the base split.
      negatives: K.
      positive: "exact" for the example itself, "relax" for any of its class.

    Returns:
      `i32[B,1+K]`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    if positive not in POSITIVES:
        raise ArgumentError(f"got positive={positive!r}", "must be 'exact' or 'relax'")
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (1 + negatives,), jnp.float32))(keys)
    label = state["label"][rows]
    first = state["start"][label][:, None]
    own = state["start"][label + 1][:, None] - first
    others = state["label"].shape[0] - own
    place = _places(draw[:, 1:], others, negatives)
    found = state["order"][jnp.where(place < first, place, place + own)]
    if positive == "relax":
        same = state["order"][first + _below(draw[:, :1], own)]
        return jnp.concatenate([same, found], axis=1)
    return jnp.concatenate([rows[:, None], found], axis=1)


def _below(draw: jax.Array, count: jax.Array) -> jax.Array:
    """Turns numbers in 0..1 into whole numbers 0..count-1."""
    return jnp.minimum((draw * count.astype(jnp.float32)).astype(jnp.int32), count - 1)


def _places(draw: jax.Array, count: jax.Array, wanted: int) -> jax.Array:
    """Gives `i32[B,K]` in 0..count-1, one of each stratum, or any where count < K."""
    k = jnp.arange(wanted + 1, dtype=jnp.int32)[None, :]
    # floor(k count / K) without leaving 32 bits.
    edge = k * (count // wanted) + (k * (count % wanted)) // wanted
    low, width = edge[:, :-1], edge[:, 1:] - edge[:, :-1]
    return jnp.where(count >= wanted, low + _below(draw, width), _below(draw, count))
