"""What may act between the intervals of a population: it copies states and changes numbers.

The loop evaluates all members after each interval of `eval.every_epochs` and then asks. It does
not know what the decisions are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kdaug_jax.experiment.config import overlay
from kdaug_jax.runtime import sharding
from kdaug_jax.training.setup import Setup
from kdaug_jax.types import TrainState

# Metrics of the members by number, of those that have not failed.
Scores = Mapping[int, Mapping[str, float]]


class Decisions(NamedTuple):
    """What happens to the members before the next interval.

    Attributes:
      copies: pairs of (target, source), numbers of members: the target's state is replaced by the
        source's of before all copies.
      overrides: for each member its traced numbers from now on, by path.
    """

    copies: Sequence[tuple[int, int]]
    overrides: Sequence[Mapping[str, Any]]


class Between(Protocol):
    """Decides between intervals, as a function of its notes and of the scores alone."""

    def begin(self, setup: Setup, notes: Mapping[str, Any]) -> Decisions:
        """Validates a run before its first step, or takes up what `notes` returned."""

    def undecided(self, step: int) -> bool:
        """Returns whether a step has yet to be decided on."""

    def decide(self, step: int, scores: Scores) -> Decisions:
        """Decides what happens after a step.

        Args:
          step: optimiser steps taken.
          scores: of the validation split.
        """

    def notes(self) -> dict[str, Any]:
        """Returns what a checkpoint stores, as JSON has it."""


def act(
    decisions: Decisions, setup: Setup, states: Sequence[TrainState]
) -> tuple[Setup, list[TrainState]]:
    """Carries out decisions.

    Args:
      decisions: for the members of a run.
      setup: the run.
      states: one a member.

    Returns:
      The run with the new numbers, and the states, none of which shares memory with another.

    Raises:
      ConfigError: a path that is not traced in the first phase, or a number out of range.
    """
    numbers = [list(phase) for phase in setup.numbers]
    for member, overrides in enumerate(decisions.overrides):
        overlay(setup.first.hparams, setup.first.ranges, overrides)
        for phase, program in enumerate(setup.programs):
            known = {path: value for path, value in overrides.items() if path in program.hparams}
            numbers[phase][member] = overlay(
                setup.numbers[phase][member], program.ranges, known
            )
    placed = [[sharding.put_whole(setup.mesh, hparams) for hparams in phase] for phase in numbers]
    after = list(states)
    for target, source in decisions.copies:
        after[target] = sharding.settle(jax.tree.map(jnp.copy, states[source]))
    return setup._replace(numbers=numbers, hparams=placed), after
