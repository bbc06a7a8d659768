"""The state of a step that is taken in parts: updated once, as if the batch were one part.

Every micro-batch begins from the state before the step. What it changes is kept apart until all are
done, so that the number of micro-batches decides nothing but memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax.losses.term import RowUpdate, is_update
from kdaug_jax.models import batchnorm
from kdaug_jax.types import TrainState


class Changes(NamedTuple):
    """What one micro-batch changed, leaf by leaf in the order of the state's tree.

    Attributes:
      differences: of numbers, whose mean over micro-batches is added.
      latest: integers and the like, of which those of the last micro-batch stay.
      kept: what all micro-batches keep: rows of `RowUpdate`s with their values, and what BatchNorm
        saw.
    """

    differences: dict[int, jax.Array]
    latest: dict[int, jax.Array]
    kept: Any


def changes(state: TrainState, network_state: Any, term_state: Any) -> Changes:
    """Returns what a micro-batch changed.

    Args:
      state: before the step.
      network_state: `{network: Recorded}` that it returned.
      term_state: by term, which may hold `RowUpdate`s.
    """
    statistics = {name: recorded.statistics for name, recorded in network_state.items()}
    passes = {name: recorded.passes for name, recorded in network_state.items()}
    before = jax.tree.leaves((state.network_state, state.term_state))
    after = jax.tree.leaves((statistics, term_state), is_leaf=is_update)
    differences, latest, rows = {}, {}, {}
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if is_update(new):
            rows[number] = new.rows, new.values
        elif jnp.issubdtype(old.dtype, jnp.inexact):
            differences[number] = new - old
        else:
            latest[number] = new
    return Changes(differences, latest, (rows, passes))


def changed(state: TrainState, total: Changes) -> tuple[Any, Any]:
    """Returns running statistics and terms' state after all micro-batches of a step.

    BatchNorm of this package is as if the batch were one part. Other numbers move by the mean of
    what the micro-batches made of them.

    Args:
      state: before the step.
      total: mean differences, what the last micro-batch left, and what all kept with a leading
        axis.

    Returns:
      `{network: batch_stats}`, and states by term, which may hold `RowUpdate`s.
    """
    rows, passes = total.kept
    leaves, structure = jax.tree.flatten((state.network_state, state.term_state))
    for number, difference in total.differences.items():
        leaves[number] = leaves[number] + difference
    for number, leaf in total.latest.items():
        leaves[number] = leaf
    for number, (places, values) in rows.items():
        leaves[number] = RowUpdate(
            leaves[number], places.reshape(-1), values.reshape(-1, *values.shape[2:])
        )
    statistics, term_state = jax.tree.unflatten(structure, leaves)
    return (
        {name: batchnorm.moved(statistics[name], passes[name]) for name in statistics}, term_state
    )
