"""Many runs through one compiled step; a plain run is a population of one.

The members of a population differ in traced hparams only (weights, magnitudes, rates, seeds), so
they share the program, the batches and the compiled step. Form `loop`: the members take turns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax.data import Feed
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.config import overlay, view_texts
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding
from kdaug_jax.training.step import make_train_step
from kdaug_jax.types import Hparams, Outputs, TrainState


class Member(NamedTuple):
    """One run of a population: its name ("" for a plain run) and what sets it apart."""

    name: str
    overrides: dict[str, Any]


def members(grid: Sequence[tuple[str, Sequence[Any]]]) -> tuple[Member, ...]:
    """Spans the grid of `config.population`.

    Args:
      grid: pairs of (path of a traced number, its values).

    Returns:
      One member for each combination, the last path varying fastest; for an empty grid one member
      named "".

    Raises:
      ConfigError: a path without values or given twice.
    """
    paths = [path for path, _ in grid]
    plain = [str(path).removesuffix(".base") for path in paths]
    for path, values in grid:
        listed = isinstance(path, str) and isinstance(values, list | tuple) and len(values) > 0
        if not listed or plain.count(path.removesuffix(".base")) > 1:
            raise ConfigError(
                "population", f"'{path}' has no values or is there twice", '("path", (values,))'
            )
        if len(set(map(repr, values))) < len(values):
            raise ConfigError("population", f"'{path}' repeats a value", "name each value once")
    combinations = itertools.product(*(values for _, values in grid))
    overrides = [dict(zip(paths, combination, strict=True)) for combination in combinations]
    return tuple(
        Member(",".join(f"{path}={value}" for path, value in member.items()), member)
        for member in overrides
    )


def hparams(
    programs: Sequence[Program], population: Sequence[Member]
) -> list[list[dict[str, np.ndarray]]]:
    """Returns each member's traced hparams in each phase.

    What a phase overrides holds for all members from then on.

    Args:
      programs: one a phase.
      population: the members.

    Returns:
      For each phase a list of one dict a member.

    Raises:
      ConfigError: a path that is not a traced number of the first phase, or out of range.
    """
    first = programs[0]
    for member in population:
        _check_crops(first, member.overrides)
        overlay(first.hparams, first.ranges, member.overrides)
    by_phase = []
    for program in programs:
        # A weight or rate lies at its own path or, with a schedule, at `.base`.
        fixed = [f"{path.removesuffix('.base')}." for path in program.overridden]
        kept = [
            {
                path: value
                for path, value in member.overrides.items()
                if not any(f"{path}.".startswith(other) for other in fixed)
            }
            for member in population
        ]
        by_phase.append([overlay(program.hparams, program.ranges, changes) for changes in kept])
    return by_phase


def _check_crops(program: Program, paths: Iterable[str]) -> None:
    """Raises ConfigError for a number of a crop that the host could vary and the device cannot."""
    unknown = [path for path in paths if path not in program.hparams and path.startswith("views.")]
    if unknown:
        known = views.host_numbers(view_texts(program.config), program.info)
        for path in known.intersection(unknown):
            raise ConfigError(
                path, "is not a traced number where crops run on the device",
                "add --config.data.crop=host",
            )


def steps_per_call(
    configured: int, intervals: Sequence[int], item_bytes: int, stage_bytes: int, backend: str
) -> int:
    """Chooses how many optimiser steps one call takes.

    Args:
      configured: `train.steps_per_call`; 0 chooses.
      intervals: steps, or intervals of steps, at which the loop has something to do.
      item_bytes: of the images that a process sends to its devices for a step, 0 for none.
      stage_bytes: `data.stage_gb` in bytes, for the call that runs and the next together.
      backend: the platform of the devices, such as "cpu".

    Returns:
      1 on a CPU, see `make_call`; elsewhere the largest number up to 100 that divides all intervals
      and whose batches may be staged, at least 1.
    """
    if configured or backend == "cpu":
        return configured or 1
    common = math.gcd(*intervals)
    most = min(common, 100)
    if item_bytes:
        most = min(most, max(stage_bytes // (2 * item_bytes), 1))
    return max(n for n in range(1, most + 1) if common % n == 0)


def make_call(
    program: Program, feed: Feed, steps: int, replicated: jax.sharding.NamedSharding
) -> Callable[..., tuple[TrainState, Any]]:
    """Makes the jitted function that runs some steps of one member.

    Args:
      program: the phase.
      feed: where batches come from.
      steps: optimiser steps a call. More than one runs as `lax.scan`, which saves dispatch on
        accelerators; on CPU the gradient of a convolution in a rolled loop is about 29 times
        slower, so one step a call is right there.
      replicated: sharding of what every device holds whole, on the devices of the run.

    Returns:
      `call(state, frozen, constants, items, hparams, given={}) -> (state, metrics)`; items, metrics
      and `given`, outputs of `network@view` pairs that are not run, have a leading axis of length
      `steps`. The state is donated.
    """
    step = make_train_step(program)

    def call(state: TrainState, frozen, constants, items, hparams: Hparams, given=None):
        def body(state, inputs):
            item, given = inputs
            return step(state, frozen, feed.batch(constants, item), hparams, given)

        inputs = items, given or {}
        if steps > 1:
            return jax.lax.scan(body, state, inputs)
        state, metrics = body(state, jax.tree.map(lambda array: array[0], inputs))
        return state, jax.tree.map(lambda array: array[None], metrics)

    within = sharding.within(replicated.mesh, call)
    lies = program.state_shardings(replicated.mesh)
    return jax.jit(within, donate_argnums=0, out_shardings=(lies, replicated))


def advance(
    call: Callable[..., tuple[TrainState, Any]],
    states: Sequence[TrainState],
    frozen: Mapping[str, Any],
    constants: Any,
    items: Sequence[Any],
    hparams: Sequence[Hparams],
    given: Mapping[str, Outputs] | None = None,
    failed: Collection[int] = (),
) -> tuple[list[TrainState], list[Any]]:
    """Runs one call of every member on the same examples.

    Args:
      call: what `make_call` made, compiled or not.
      states: one a member; donated.
      frozen: variables of the frozen networks, shared by all members.
      constants: arrays of the feed that stay on the devices, shared by all members.
      items: what the feed sends for the steps of this call, one entry a member: the same examples,
        whose host crops may differ.
      hparams: traced hparams, one dict a member.
      given: outputs of `network@view` pairs that are not run, shared by all members; see
        `make_call`.
      failed: numbers of members that keep their state.

    Returns:
      New states and metrics, one a member; None for metrics of members that keep their state.
    """
    extra = () if given is None else (given,)
    results = [
        (state, None) if number in failed
        else sharding.settle(call(state, frozen, constants, item, member, *extra))
        for number, (state, item, member) in enumerate(zip(states, items, hparams, strict=True))
    ]
    return [state for state, _ in results], [metrics for _, metrics in results]
