"""The training state of step 0, and the form in which states are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding
from kdaug_jax.training.setup import Setup
from kdaug_jax.types import Hparams, TrainState


def make_init(
    program: Program, frozen: Mapping[str, Any], sharding: jax.sharding.Sharding | None = None
) -> Callable[[Hparams], TrainState]:
    """Makes the one function that initialises every run of a program.

    Args:
      program: the first phase of an experiment.
      frozen: variables of its frozen networks; only their shapes are used, except of those that
        a trained network starts from.
      sharding: where the state is to lie; by default on the default device.

    Returns:
      `init(hparams) -> TrainState`, jitted once for all seeds.
    """
    sources = {one.init: frozen[one.init] for one in program.networks.values() if one.init}
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), frozen)
    # Random initialisers compile slowly and run once, so XLA need not optimise them. The option
    # is only accepted by a jit that is not inside another.
    init = jax.jit(
        lambda hparams, sources: program.init(hparams, {**shapes, **sources}),
        out_shardings=sharding,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return lambda hparams: init(hparams, sources)


def initial_states(setup: Setup) -> list[TrainState]:
    """Makes every member's state of step 0."""
    init = make_init(setup.first, setup.frozen, sharding.replicated(setup.mesh))
    return [sharding.settle(init(own)) for own in setup.hparams[0]]


def as_tree(states: list[TrainState]) -> dict[str, Any]:
    """Gives the stored form: `{"0": {"step": ..., "params": ...}, "1": ...}`, members by number."""
    return {
        str(number): {field: getattr(state, field) for field in state.__dataclass_fields__}
        for number, state in enumerate(states)
    }


def from_tree(tree: dict[str, Any]) -> list[TrainState]:
    """Gives the states back that `as_tree` took."""
    return [TrainState(**tree[str(number)]) for number in range(len(tree))]
