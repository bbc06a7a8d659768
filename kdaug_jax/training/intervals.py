"""Intervals of logging, evaluation and checkpoints, in optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kdaug_jax.experiment.program import Program
from kdaug_jax.experiment.schedules import whole_steps
from kdaug_jax.training import population


class Intervals(NamedTuple):
    """Where phases begin and what happens how often, in optimiser steps.

    Attributes:
      total: where the run ends.
      starts: where phases begin.
      log, evaluate: intervals, 0 for never.
      save: intervals; any of them may be due.
      save_minutes: wall-clock interval between checkpoints, 0 for none.
      per_call: steps a call.
    """

    total: int
    starts: tuple[int, ...]
    log: int
    evaluate: int
    save: tuple[int, ...]
    save_minutes: float
    per_call: int

    def phase(self, step: int) -> int:
        """Returns the number of the phase that a step belongs to."""
        return max(number for number, start in enumerate(self.starts) if start <= step)

    def call_length(self, step: int) -> int:
        """Returns how many steps the next call takes: none crosses the end of a phase."""
        ends = [start for start in self.starts if start > step]
        return min(self.per_call, min([*ends, self.total]) - step)

    def saves(self, step: int, seconds: float) -> int:
        """Estimates how many checkpoints are saved from a step to the end.

        Args:
          step: steps taken, fewer than all.
          seconds: of a step.

        Returns:
          Their number, at least the one at the end.
        """

        def until(end: int) -> int:
            together = end // math.lcm(*self.save) if len(self.save) > 1 else 0
            return sum(end // every for every in self.save) - together

        last = all(self.total % every for every in self.save)
        count = until(self.total) - until(step) + last
        if self.save_minutes:
            gap = seconds * (self.total - step) / count
            count *= max(math.ceil(gap / (60.0 * self.save_minutes)), 1)
        return min(count, math.ceil((self.total - step) / self.per_call))


def plan_intervals(programs: Sequence[Program], item_bytes: int, backend: str) -> Intervals:
    """Computes the intervals of a run from its phases.

    Args:
      programs: one a phase.
      item_bytes: see `population.steps_per_call`.
      backend: see `population.steps_per_call`.
    """
    first = programs[0]
    config, per_epoch = first.config, first.steps_per_epoch
    section = config["checkpoint"]
    log = config["log"]["every_steps"]
    evaluate = _interval(config["eval"]["every_epochs"], per_epoch)
    saves = (section["every_steps"], _interval(section["every_epochs"], per_epoch))
    starts = tuple(program.start_step for program in programs)
    intervals = [first.total_steps, *starts, log, evaluate, *saves]
    return Intervals(
        total=first.total_steps,
        starts=starts,
        log=log,
        evaluate=evaluate,
        save=tuple(every for every in saves if every),
        save_minutes=section["every_minutes"],
        per_call=population.steps_per_call(
            config["train"]["steps_per_call"], intervals, item_bytes,
            round(1e9 * config["data"]["stage_gb"]), backend,
        ),
    )


def _interval(epochs: float, steps_per_epoch: int) -> int:
    """Returns the steps between two events, at least 1; 0, which means never, stays 0."""
    return max(whole_steps(epochs, steps_per_epoch), 1) if epochs else 0


def due(before: int, step: int, every: int) -> bool:
    """Returns whether a multiple of `every` lies in before+1..step; False for 0."""
    return every > 0 and step // every > before // every
