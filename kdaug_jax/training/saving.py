"""What a run saves and when, and what it makes up for after a stop."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from kdaug_jax.errors import Preempted
from kdaug_jax.evaluation.exported import Evaluated, keep
from kdaug_jax.evaluation.run import needed_variables
from kdaug_jax.runtime import manifest, mark, signals, workdir
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.runtime.processes import on_first
from kdaug_jax.runtime.writer import Writer, read_rows
from kdaug_jax.training import failures
from kdaug_jax.training.between import Between
from kdaug_jax.training.intervals import due
from kdaug_jax.training.setup import Setup
from kdaug_jax.training.state import as_tree
from kdaug_jax.training.window import Window
from kdaug_jax.types import TrainState

# What the metrics of the validation split begin with.
FRONT = "eval/validation/"
# Step and metrics of the members of an evaluation.
Scores = tuple[int, Sequence[Mapping[str, float]]]


def best_metrics(setup: Setup) -> list[dict[str, float]]:
    """Returns what each member scored in the best evaluation of its validation split.

    Args:
      setup: the run, whose `checkpoint.best` is what the best is chosen by.

    Returns:
      For each member `best/step` and the metrics as `best/<metric>`; nothing where no best is
      chosen.
    """
    chosen, lowest = setup.criterion["best"], setup.criterion["lowest"]

    def read() -> list[dict[str, float]]:
        best: dict[str, dict[str, Any]] = {}
        for row in read_rows(setup.directory) if chosen else ():
            member, value = row.get("member", ""), row.get(chosen)
            if value is None or math.isnan(value):
                continue
            before = best.get(member, {}).get(chosen, math.inf if lowest else -math.inf)
            # Of equally good ones the newest, as of checkpoints.
            if value <= before if lowest else value >= before:
                best[member] = row
        return [_as_best(best.get(name, {})) for name in setup.names]

    return on_first(read)


def keep_rows(
    setup: Setup, step: int, states: Sequence[TrainState], alive: Sequence[int],
    check: Callable[[], None],
) -> list[str]:
    """Writes metrics that have a row for each example, see `evaluation.exported`.

    Args:
      setup: the run.
      step: the last one.
      states: of the members.
      alive: numbers of the members that are finite.
      check: called before each batch; may raise to end the evaluation.

    Returns:
      Names of the files that were written.
    """
    evaluator, _ = setup.moment(step, 0)
    if not any(metric.rows for metric in evaluator.spec.metrics.values()):
        return []
    evaluated = [
        Evaluated(use, evaluator, split) for use, split in setup.dataset.splits.items()
        if use != "train"
    ] + [Evaluated(item.data.name, item.evaluator, item.data.split) for item in setup.sets]
    variables = {
        number: functools.partial(needed_variables, evaluator, states[number], setup.frozen)
        for number in alive
    }
    return keep(setup.directory, step, evaluated, variables, setup.names, check)


def _as_best(row: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        f"best/{name.removeprefix(FRONT)}": value for name, value in row.items()
        if name.startswith(FRONT)
    }
    return {"best/step": row["step"], **metrics} if metrics else {}


def open_checkpoints(setup: Setup, say: Callable[[str], None]) -> Checkpoints:
    """Opens the checkpoints of a run.

    Args:
      setup: the run.
      say: prints a line.
    """
    section = setup.first.config["checkpoint"]
    return Checkpoints(
        setup.directory / "checkpoints", keep=section["keep"], say=say,
        saved=lambda: mark.note_saved(setup.directory), retry_minutes=section["retry_minutes"],
        **setup.criterion,
    )


def open_writer(
    setup: Setup, step: int, notes: Mapping[str, Any], say: Callable[[str], None]
) -> Writer:
    """Opens the files of metrics of a run.

    Args:
      setup: the run.
      step: that it resumes from, 0 for a new one.
      notes: beside the checkpoint of that step.
      say: prints a line.
    """
    return Writer(
        setup.directory, setup.names, step, noted=notes.get("rows"), say=say,
        retry_minutes=setup.first.config["checkpoint"]["retry_minutes"],
    )


def left(directory: Path, save_last: Callable[[], None] | None) -> Preempted:
    """Saves the current step of a run, if it has begun; returns the error to end with.

    Args:
      directory: the working directory.
      save_last: saves the current step and waits for it; None before the first.
    """
    if save_last is not None:
        save_last()
    saved = manifest.steps(directory / "checkpoints")
    if not saved:
        return signals.preempted("nothing was trained yet", "run again to start")
    return signals.preempted(f"step {saved[0]} is saved", "run again to go on")


class Saving:
    """Saves the states of a run."""

    def __init__(
        self, setup: Setup, checkpoints: Checkpoints, window: Window, writer: Writer,
        time: Goodput, between: Between | None = None,
    ):
        self._between = between
        self._setup, self._checkpoints, self._window = setup, checkpoints, window
        self._writer = writer
        self._time, self._saved_at = time, monotonic()

    def due(self, before: int, step: int) -> bool:
        """Returns whether a step is saved.

        Args:
          before: step of the call before.
          step: taken since.

        Raises:
          CheckpointError: saves have failed for too long.
        """
        intervals = self._setup.intervals
        minutes, overdue = intervals.save_minutes, self._checkpoints.failing()
        logged = due(before, step, intervals.log)
        if minutes > 0 and logged and not overdue:
            overdue = on_first(lambda: monotonic() - self._saved_at > 60 * minutes)
        return overdue and logged or any(due(before, step, every) for every in intervals.save)

    def save(self, step: int, states: Sequence[TrainState], scores: Scores) -> list[TrainState]:
        """Saves in the background what is known to be finite: all losses up to here, all states.

        Args:
          step: of the states.
          states: one a member.
          scores: the last evaluation.

        Returns:
          The states, those that are not finite replaced.

        Raises:
          CheckpointError: saves have failed for too long.
          NonFiniteError: no member is left.
        """
        self._window.fetch()
        with self._time("checkpoint"):
            states = failures.checked(self._setup, states, self._window, self._checkpoints, step)
            metrics = failures.checkpoint_metrics(self._setup, *scores, step)
            notes = {**self._window.notes(), "run": workdir.run_id(self._setup.directory),
                     "members": self._setup.names, "rows": on_first(self._writer.notes)}
            if self._between is not None:
                notes["between"] = self._between.notes()
            self._checkpoints.save(
                step, as_tree(states), metrics, notes, before=self._writer.sync
            )
            self._saved_at = monotonic()
        return states

    def failed(self) -> bool:
        """Waits for the save under way; returns whether it failed and may be tried again."""
        with self._time("checkpoint"):
            self._checkpoints.last()
        return self._checkpoints.failing()

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
          CheckpointError: it failed.
        """
        with self._time("checkpoint"):
            self._checkpoints.wait()

    def unscored(self, step: int) -> bool:
        """Returns whether a run was stopped in the evaluation of a step, or before its decisions.

        Args:
          step: from which the run is resumed.
        """
        names = [self._setup.names[number] for number in self._window.alive]
        undecided = self._between is not None and self._between.undecided(step)
        return 0 < step < self._setup.intervals.total and on_first(lambda: undecided or not (
            self._writer.wrote(step, names, FRONT) and self._checkpoints.has_metrics(step)
        ))

    def add_metrics(self, scores: Scores) -> None:
        """Adds the metrics of an evaluation to the checkpoint of its step, if that is saved."""
        metrics = failures.checkpoint_metrics(self._setup, *scores, scores[0])
        self._checkpoints.add_metrics(scores[0], metrics)
