"""What is not finite: members of a population that fail, states that must not be saved."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import NonFiniteError
from kdaug_jax.evaluation.run import evaluate_state
from kdaug_jax.runtime.checkpoint import FINITE, Checkpoints
from kdaug_jax.training.population import Member
from kdaug_jax.training.setup import Setup
from kdaug_jax.training.state import as_tree, from_tree, initial_states
from kdaug_jax.training.window import Window
from kdaug_jax.types import TrainState

# Stands in results in place of metrics: {"seed=1": {"failed": {"step": 7, "where": "terms.ce"}}}.
FAILED = "failed"
REMEDY = "lower the rate or the weight and run again"


# It runs once a save, so XLA need not optimise it, which takes longer.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def all_finite(state: TrainState) -> jax.Array:
    """Returns whether all floating numbers of a state are finite, `bool[]`."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # A largest value is NaN where any is; a CPU finds it 40 times as fast, not optimised, as it
    # asks whether each value is finite.
    largest = [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in leaves]
    return jnp.all(jnp.isfinite(jnp.stack([value.astype(jnp.float32) for value in largest])))


def wrong_leaf(state: TrainState) -> str:
    """Returns the path of the first array of a state that is not finite, "" if all are."""
    if all_finite(state):
        return ""
    for path, leaf in jax.tree.leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.all(jnp.isfinite(leaf)):
            return jax.tree_util.keystr(path, simple=True, separator=".")
    return ""


def checked(
    setup: Setup, states: Sequence[TrainState], window: Window, checkpoints: Checkpoints, step: int
) -> list[TrainState]:
    """Returns states that may be saved: those that are not finite are replaced by the last saved.

    Args:
      setup: the run.
      states: one a member.
      window: learns which members fail.
      checkpoints: of the run.
      step: of the states.

    Raises:
      NonFiniteError: no member is left; names the array.
    """
    for number in window.alive:
        if wrong := wrong_leaf(states[number]):
            window.fail(number, step, wrong)
    replaced = [number for number in window.failed if not all_finite(states[number])]
    if not replaced:
        return list(states)
    stored = checkpoints.restore(as_tree(list(states)))
    good = initial_states(setup) if stored is None else from_tree(stored[0])
    return [good[number] if number in replaced else state for number, state in enumerate(states)]


def remedy(
    setup: Setup, states: Sequence[TrainState], member: int, checkpoints: Checkpoints, step: int
) -> str:
    """Returns what may be done about a run that was not finite at a step.

    A checkpoint of the step before is set aside unless its state evaluates to finite numbers on
    the validation split: it would fail again for ever.

    Args:
      setup: the run.
      states: the last finite states.
      member: number of the one that failed last.
      checkpoints: of the run.
      step: at which a loss, a gradient or the state was not finite.
    """
    text, saved = REMEDY, checkpoints.last()
    unsound = saved is not None and saved >= step - 1
    if unsound and not _evaluates_finitely(setup, states[member], member):
        checkpoints.set_aside(saved, "nonfinite")
        text = (f"step {saved} evaluates to no finite numbers and is set aside as "
                f"{saved}.nonfinite; {text}")
        saved = checkpoints.last()
    if saved is None:
        return text
    return f"{text} with --allow_config_change, to go on from step {saved}"


def _evaluates_finitely(setup: Setup, state: TrainState, member: int) -> bool:
    evaluator, moment = setup.moment(int(state.step), member)
    numbers = evaluate_state(
        evaluator, state, setup.frozen, moment, setup.dataset.splits, "validation"
    ).numbers
    return _count(numbers) >= len(evaluator.spec.predictors)


def _count(numbers: Mapping[str, float]) -> int:
    """Returns how many predictors have a finite NLL, which every run evaluates."""
    return sum(name.endswith("/nll") for name in numbers)


def checkpoint_metrics(
    setup: Setup, evaluated: int, scores: Sequence[Mapping[str, float]], step: int
) -> dict[str, float]:
    """Returns the metrics that a checkpoint is saved with.

    Args:
      setup: the run.
      evaluated: step of the scores; those of an earlier step do not belong to this checkpoint.
      scores: of the validation split, of each member; empty for members that failed.
      step: of the checkpoint.

    Returns:
      Means over the members, and the step as `FINITE` if the state evaluated to finite numbers.
    """
    scores = [values for values in scores if values and evaluated == step]
    names = set.intersection(*map(set, scores)) if scores else set()
    means = {name: float(np.mean([values[name] for values in scores])) for name in names}
    finite = _count(means) >= len(setup.evaluator.spec.predictors)
    return {**means, FINITE: float(step)} if finite else means


def marked(
    members: Sequence[Member], final: Sequence[Mapping[str, float]], failed: Mapping[int, Any]
) -> dict[str, Any]:
    """Returns the results of a run by member; failed ones hold step and place of their fault."""
    return {
        member.name: {FAILED: dict(failed[number])} if number in failed else dict(values)
        for number, (member, values) in enumerate(zip(members, final, strict=True))
    }


def healthy(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the results of the members that did not fail."""
    return {member: values for member, values in results.items() if FAILED not in values}


def raise_failed(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises NonFiniteError if the results of a finished population mark a member as failed."""
    failed = {member: values[FAILED] for member, values in results.items() if FAILED in values}
    if failed:
        text = "; ".join(
            f"{member}: {fault['where']} at step {fault['step']}"
            for member, fault in failed.items()
        )
        raise NonFiniteError(
            "population", f"{len(failed)} of {len(results)} runs were not finite ({text})",
            "the others are finished; leave these out, or lower the rate or the weight",
        )
