"""Evaluates networks on a split, exactly, on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import metrics
from kdaug_jax.data import Split, eval_batches
from kdaug_jax.evaluation import metric_table
from kdaug_jax.evaluation.eval_step import Evaluator, Sums, make_eval
from kdaug_jax.runtime import sharding
from kdaug_jax.types import TrainState


class Evaluation(NamedTuple):
    """What an evaluation found, by name: numbers, and arrays for plots."""

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


def evaluate_split(
    evaluator: Evaluator,
    compiled: dict[Any, Callable[..., Sums]],
    variables: Mapping[str, Any],
    params: Mapping[str, Any],
    split: Split,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
    human: bool = False,
) -> Evaluation:
    """Evaluates on a whole split.

    Args:
      evaluator: who is asked for what.
      compiled: what `make_eval` made before, kept here between calls.
      variables: of the networks that are asked.
      params: of the terms that answer.
      split: the examples.
      batch_size: rows a batch, at most as many as the split has, rounded up to what the devices
        share evenly; the last batch is filled up with rows that do not count.
      check: called before each batch; may raise to end the evaluation.
      human: whether the evaluator's table of people's answers is of this split.

    Returns:
      Values by name below the split; numbers that are not finite are left out.
    """
    mesh, human = evaluator.mesh, human and evaluator.human is not None
    batch_size = -(-min(batch_size, len(split)) // mesh.size) * mesh.size
    rows = sharding.local_rows(mesh, batch_size)

    def over(first: bool, before: Sums, merge: Callable[[Any, Any], Any]) -> Sums:
        if (human, first) not in compiled:
            compiled[human, first] = make_eval(evaluator, human, first)
        total = None
        for number, batch in enumerate(eval_batches(split, batch_size, rows)):
            check()
            people = evaluator.human[batch.index] if human else None
            batch, people = sharding.put_batch(mesh, (batch, people))
            part = sharding.settle(compiled[human, first](
                variables, params, batch, people, np.int32(number), before
            ))
            total = part if total is None else merge(total, part)
        return total

    before = over(True, {}, _join) if evaluator.metrics_of(human, first=True) else {}
    sums, every = jax.device_get(over(False, before, metrics.merge)), evaluator.metrics_of(human)
    found: dict[str, Any] = {}
    for front, own in sums.items():
        for (metric, suffix), value in own.items():
            if metric:
                values = every[metric].finish(value, evaluator.settings)
            else:
                values = {"": float(value[0]) / float(value[1])}
            for name, one in values.items():
                found["/".join(filter(None, (front, name + suffix)))] = one
    return Evaluation(metric_table.numbers(found), metric_table.arrays(found))


def _join(a: Sums, b: Sums) -> Sums:
    return {
        name: {key: metrics.merge_moments(a[name][key], b[name][key]) for key in own}
        for name, own in a.items()
    }


def variables_of(state: TrainState, network: str) -> Mapping[str, Any]:
    """Gives a trained network's variables for inference: the averaged ones where they are kept."""
    source = state.ema or {"params": state.params, "network_state": state.network_state}
    return {
        "params": source["params"][network], "batch_stats": source["network_state"][network]
    }


def params_of(state: TrainState) -> Mapping[str, Any]:
    """Gives the terms' own parameters: the averaged ones where they are kept."""
    return (state.ema or {"params": state.params})["params"]["terms"]
