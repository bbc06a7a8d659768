"""The training states of step 0 or of a checkpoint, and the form in which they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.members import matched
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import mark, sharding, weight_cuts, workdir
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.training.setup import Setup
from kdaug_jax.types import Hparams, TrainState


def make_init(
    program: Program, frozen: Mapping[str, Any], shardings: Any = None
) -> Callable[[Hparams], TrainState]:
    """Makes the function that initialises every run of a program.

    Args:
      program: the first phase of an experiment.
      frozen: variables of its frozen networks; only their shapes are used, except of
        `Program.sources`.
      shardings: how the state is to lie, see `Program.state_shardings`; by default on the default
        device.

    Returns:
      `init(hparams) -> TrainState`, jitted once for all seeds.
    """
    sources = {name: frozen[name] for name in program.sources}
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), frozen)

    def make(hparams: Hparams, sources: Mapping[str, Any]) -> TrainState:
        read = {
            name: weight_cuts.gathered(program.networks[name].shard, variables)
            for name, variables in sources.items()
        }
        return program.init(hparams, {**shapes, **read})

    if any(program.networks[name].shard for name in sources) and shardings is not None:
        make = sharding.within(jax.tree.leaves(shardings)[0].mesh, make)
    # Random initialisers compile slowly and run once, so XLA need not optimise them. The option
    # is only accepted by a jit that is not inside another.
    init = jax.jit(
        make,
        out_shardings=shardings,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return lambda hparams: init(hparams, sources)


def initial_states(setup: Setup) -> list[TrainState]:
    """Makes every member's state of step 0."""
    init = make_init(setup.first, setup.frozen, setup.first.state_shardings(setup.mesh))
    return [sharding.settle(init(hparams)) for hparams in setup.hparams[0]]


def as_tree(states: list[TrainState]) -> dict[str, Any]:
    """Returns the stored form: `{"0": {"step": ..., "params": ...}, ...}`, members by number."""
    return {
        str(number): {field: getattr(state, field) for field in state.__dataclass_fields__}
        for number, state in enumerate(states)
    }


def from_tree(tree: dict[str, Any]) -> list[TrainState]:
    """Returns the states of a tree that `as_tree` made."""
    return [TrainState(**tree[str(number)]) for number in range(len(tree))]


def restore_states(
    setup: Setup, checkpoints: Checkpoints, time: Goodput
) -> tuple[list[TrainState], dict[str, Any]]:
    """Returns every member's state of the newest checkpoint, or of step 0; and its notes.

    Members go by name.

    Args:
      setup: the run.
      checkpoints: of the run.
      time: measures where time goes.

    Returns:
      The states, and what was stored beside them (see `Window.notes`).

    Raises:
      ConfigError: the checkpoint lies behind the end of the run, or is of another run.
      CheckpointError: the checkpoint holds other members, or the disk has no room for another.
    """
    with time("compile"):
        states, notes = initial_states(setup), {}
    with time("checkpoint"):
        names = setup.names
        stored = checkpoints.notes().get("members", names)
        matched(setup.members, stored, str(checkpoints.directory))
        restored = checkpoints.restore(as_tree([states[names.index(name)] for name in stored]))
        if restored is not None:
            tree, notes = restored
            mark.require_same(setup.directory, checkpoints.directory, notes.get("run"))
            numbers = [stored.index(name) for name in names]
            states = [from_tree(tree)[number] for number in numbers]
            notes = _reordered(notes, numbers)
    step, total = step_of(states), setup.first.total_steps
    if step > total:
        raise ConfigError(
            "train.epochs", f"the run ends at step {total} but stands at {step}",
            "use another --workdir",
        )
    if step < total:
        workdir.require_room(checkpoints.directory, states)
    return states, notes


def step_of(states: Sequence[TrainState]) -> int:
    """Returns the steps that a population has taken; members that failed stand at fewer."""
    return max(int(state.step) for state in states)


def _reordered(notes: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Returns notes of members by their numbers now, from `numbers`, those that were stored."""
    failed = notes.get("failed", {})
    return {
        **notes,
        "window": [notes["window"][number] for number in numbers],
        "failed": {
            str(now): failed[str(number)] for now, number in enumerate(numbers)
            if str(number) in failed
        },
    }
