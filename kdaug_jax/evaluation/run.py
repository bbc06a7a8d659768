"""Evaluates predictors on whole splits, exactly, on any number of devices."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import metrics
from kdaug_jax.data import Split, check_eval_memory, eval_batches
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation import metric_table
from kdaug_jax.evaluation.eval_step import (
    EPOCH,
    SEED,
    EvalSpec,
    Moment,
    Sums,
    make_eval_step,
    make_view,
)
from kdaug_jax.evaluation.predictors import Predictor, Selection, with_selected
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Batch, TrainState

# Where no member is asked for.
_ANY = Moment({"seed": np.uint32(SEED)}, EPOCH)
# Metrics by name, for each member of a population.
Results = dict[str, dict[str, float]]
# For networks alone, which do not depend on a run's numbers.
NOWHERE = Moment({}, 0)


class Evaluator(NamedTuple):
    """Evaluates a set of predictors; its jitted steps compile once and are used for all members.

    Attributes:
      spec: what is computed.
      selections: what is selected among on the validation split.
      batch_size: rows a batch.
      workers: see `data.workers`.
      first_pass: jitted, for metrics that need a pass beforehand.
      step: jitted, for all metrics.
    """

    spec: EvalSpec
    selections: tuple[Selection, ...]
    batch_size: int
    workers: int
    first_pass: Callable[..., Sums]
    step: Callable[..., Sums]


class Evaluation(NamedTuple):
    """Results of an evaluation by full name: numbers, and arrays for plots."""

    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]


def make_evaluator(
    spec: EvalSpec, selections: tuple[Selection, ...], batch_size: int, workers: int = 0
) -> Evaluator:
    """Makes an evaluator; nothing is compiled before it is used.

    Args:
      spec: what to compute.
      selections: what to select among.
      batch_size: rows a batch; the last batch of a split is filled up with masked rows.
      workers: see `data.workers`.
    """
    first_pass, step = make_eval_step(spec, first=True), make_eval_step(spec)
    return Evaluator(spec, selections, batch_size, workers, first_pass, step)


def make_network_evaluator(
    evaluator: Evaluator, network: str, more: tuple[str, ...] = ()
) -> Evaluator:
    """Makes the evaluator of one network alone, without metrics that compare it with a teacher.

    Args:
      evaluator: of the run.
      network: name of the network.
      more: metrics beside those of the run.
    """
    spec = evaluator.spec
    alone = {name: row for name, row in spec.metrics.items() if row.needs != "teacher"}
    alone |= {name: metric_table.resolve_metric(name) for name in more}
    predictor = Predictor(network, ((network, 0),))
    spec = spec._replace(predictors=(predictor,), metrics=alone, training_views=())
    return make_evaluator(spec, (), evaluator.batch_size, evaluator.workers)


def evaluate_state(
    evaluator: Evaluator,
    state: TrainState,
    frozen: Mapping[str, Any],
    moment: Moment,
    splits: Mapping[str, Split],
    use: str,
    check: Callable[[], None] = lambda: None,
    validation: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluates a training state on a split: networks, branches, ensembles and selections.

    Args:
      evaluator: of the run.
      state: of the run; its averaged weights are evaluated where they are kept.
      frozen: variables of the frozen networks.
      moment: whose state it is, and when.
      splits: examples by use.
      use: "validation" or "test".
      check: called before each batch; may raise to end the evaluation.
      validation: numbers of the validation split, by which branches and networks are selected;
        needed where `use` is another split.

    Returns:
      Values by full name, `eval/<use>/...`.
    """
    variables = needed_variables(evaluator, state, frozen)
    values = evaluate_split(evaluator, variables, params_of(state), splits, use, check, moment)
    numbers = with_selected({**(validation or {}), **values.numbers}, evaluator.selections)
    front = f"eval/{use}/"
    return values._replace(
        numbers={name: value for name, value in numbers.items() if name.startswith(front)}
    )


def evaluate_split(
    evaluator: Evaluator,
    variables: Mapping[str, Any],
    params: Mapping[str, Any],
    splits: Mapping[str, Split],
    use: str,
    check: Callable[[], None] = lambda: None,
    moment: Moment = NOWHERE,
) -> Evaluation:
    """Evaluates all predictors on a whole split.

    Args:
      evaluator: of the predictors.
      variables: of the networks that the predictors need.
      params: of the terms that form ensembles.
      splits: examples by use.
      use: "validation" or "test"; people's answers are known for the latter.
      check: called before each batch; may raise to end the evaluation.
      moment: whose variables they are, and when; needed where training views are evaluated, or
        ensembles of terms with traced options.

    Returns:
      Values by full name, `eval/<use>/...`; numbers that are not finite are left out.

    Raises:
      ConfigError: batches have statistics of their own, and the split fills none.
    """
    spec, split = evaluator.spec, splits[use]
    mesh, human = spec.mesh, spec.human if use == "test" else None
    rows = batch_rows(evaluator, split)
    if spec.batch_statistics and len(split) < rows:
        raise ConfigError(
            "eval.batch_statistics", f"the {len(split)} examples of {use} fill no batch of {rows}",
            "use a smaller eval.batch_size, a multiple of the devices",
        )

    traced = Moment(
        {path: moment.hparams[path] for path in spec.numbers}, np.int32(moment.epoch)
    )

    def over(
        step: Callable[..., Sums], before: Sums, merge: Callable[[Any, Any], Any], pairs: bool
    ) -> Sums:
        total, running = None, None
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(contextlib.closing(batches_of(evaluator, split, moment)))
            partners = itertools.repeat(None)
            if pairs:
                others = batches_of(evaluator, split.take(partners_of(split)), moment)
                partners = stack.enter_context(contextlib.closing(others))
            for number, (batch, partner) in enumerate(zip(batches, partners, strict=False)):
                check()
                people = None if human is None else human[batch.index]
                both, people = sharding.put_batch(mesh, ((batch, partner), people))
                # No more than two batches are on the devices.
                jax.block_until_ready(running)
                running = sharding.settle(
                    step(variables, params, both, people, np.int32(number), before, traced)
                )
                total = running if total is None else merge(total, running)
        return total

    before = {}
    if spec.metrics_of(human is not None, first=True):
        before = over(evaluator.first_pass, {}, _join, False)
    sums = jax.device_get(over(evaluator.step, before, metrics.merge, spec.mixes))
    values: dict[str, Any] = {}
    for front, by_metric in sums.items():
        for (name, suffix), total in by_metric.items():
            if name:
                finished = spec.metrics[name].finish(total, spec.settings)
            else:
                finished = {"": float(total[0]) / float(total[1])}
            values |= {
                "/".join(filter(None, (f"eval/{use}", front, part + suffix))): value
                for part, value in finished.items()
            }
    return Evaluation(metric_table.numbers(values), metric_table.arrays(values))


def partners_of(split: Split) -> np.ndarray:
    """Returns with whom each example is mixed: the next one in a fixed random circle of all.

    It depends on which examples the split has, not on their order.

    Args:
      split: N examples.

    Returns:
      `i64[N]`, positions in the split.
    """
    by_index = np.argsort(split.index, kind="stable")
    circle = by_index[np.random.RandomState(SEED).permutation(len(split))]
    partners = np.empty(len(split), np.int64)
    partners[circle] = np.roll(circle, -1)
    return partners


def first_images(evaluator: Evaluator, split: Split, count: int) -> np.ndarray:
    """Returns the first images of a split as networks are given them: `[count,H,W,C]`.

    Args:
      evaluator: whose view is taken.
      split: its images; fewer than `count` are repeated.
      count: how many.
    """
    spec = evaluator.spec
    batch_size = -(-count // spec.mesh.size) * spec.mesh.size
    rows = sharding.local_rows(spec.mesh, batch_size)
    cutters = spec.cutters[:1]
    crops = functools.partial(spec.crops, _ANY, cutters) if cutters[0].leading else None
    batches = eval_batches(split, batch_size, rows, crops, cutters[0].stored, 0)
    make = jax.jit(
        sharding.within(spec.mesh, lambda batch: make_view(spec, batch, np.int32(0)).image),
        out_shardings=sharding.replicated(spec.mesh),
    )
    with contextlib.closing(batches):
        image = np.asarray(make(sharding.put_batch(spec.mesh, next(iter(batches)))))
    return image[np.arange(count) % min(count, len(split))]


def check_images(evaluator: Evaluator, splits: Mapping[str, Split]) -> None:
    """Validates that splits can be evaluated, so that none is refused after hours of training.

    Args:
      evaluator: of the splits.
      splits: by the name that messages give them.

    Raises:
      ConfigError: an image is too small or too large for a crop, or batches do not fit into memory.
    """
    for name, split in splits.items():
        for number, cutter in enumerate(evaluator.spec.cutters):
            cutter.check(split.sizes, name, "" if number else "eval.view")
        check_eval_memory(**_batches(evaluator, split))


def batch_rows(evaluator: Evaluator, split: Split) -> int:
    """Returns the rows of a batch of a split, which devices share evenly."""
    devices = evaluator.spec.mesh.size
    return -(-min(evaluator.batch_size, len(split)) // devices) * devices


def batches_of(evaluator: Evaluator, split: Split, moment: Moment = NOWHERE) -> Iterator[Batch]:
    """Yields the batches of a split in order, see `data.eval_batches`.

    Args:
      evaluator: of the split.
      split: N examples.
      moment: see `evaluate_split`.
    """
    return eval_batches(**_batches(evaluator, split, moment), workers=evaluator.workers)


def _batches(evaluator: Evaluator, split: Split, moment: Moment | None = None) -> dict[str, Any]:
    """Returns what `eval_batches` and `check_eval_memory` are told of the batches of a split."""
    spec, mesh = evaluator.spec, evaluator.spec.mesh
    cutters = spec.cutters if moment is None else spec.cutters_at(moment)
    batch_size = batch_rows(evaluator, split)
    crops = functools.partial(spec.crops, moment or _ANY, cutters)
    return {
        "split": split, "batch_size": batch_size, "rows": sharding.local_rows(mesh, batch_size),
        "crops": crops if any(cutter.leading for cutter in cutters) else None,
        "stored": any(cutter.stored for cutter in cutters),
    }


def _join(a: Sums, b: Sums) -> Sums:
    return {
        name: {key: metrics.merge_moments(a[name][key], b[name][key]) for key in by_metric}
        for name, by_metric in a.items()
    }


def needed_variables(
    evaluator: Evaluator, state: TrainState, frozen: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the variables of the networks that an evaluation of a state needs, by name."""
    networks = evaluator.spec.networks
    return {
        name: variables_of(state, name) if networks[name].trainable else frozen[name]
        for name in evaluator.spec.needed_networks
    }


def variables_of(state: TrainState, network: str) -> Mapping[str, Any]:
    """Returns a trained network's variables for inference, averaged where averages are kept."""
    source = state.ema or {"params": state.params, "network_state": state.network_state}
    return {
        "params": source["params"][network], "batch_stats": source["network_state"][network]
    }


def params_of(state: TrainState) -> Mapping[str, Any]:
    """Returns the terms' parameters, averaged where averages are kept."""
    return (state.ema or {"params": state.params})["params"]["terms"]
