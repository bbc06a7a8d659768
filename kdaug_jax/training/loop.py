"""The one training loop: build, restore, steps, evaluate, save."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, TextIO

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError, Preempted
from kdaug_jax.evaluation.run import Results, evaluate_state
from kdaug_jax.evaluation.sets import SETS, evaluate_sets
from kdaug_jax.runtime import sharding, workdir
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.runtime.console import Console
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.runtime.processes import on_first
from kdaug_jax.runtime.signals import Interrupted, Preemption
from kdaug_jax.runtime.writer import Writer
from kdaug_jax.training import population
from kdaug_jax.training.intervals import due
from kdaug_jax.training.progress import Progress
from kdaug_jax.training.setup import Setup, check_teachers, prepare
from kdaug_jax.training.staging import Staging
from kdaug_jax.training.state import as_tree, restore_states
from kdaug_jax.training.window import Window
from kdaug_jax.types import TrainState


def train(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    stream: TextIO | None = None,
) -> Results:
    """Runs an experiment, or resumes it from its newest checkpoint.

    Args:
      config: a ConfigDict or nested dicts; its frozen networks have checkpoints (see
        `training.teachers.ensure` for those that have none).
      directory: the working directory.
      allow_config_change: whether the directory may hold another config.
      stream: console, by default standard output.

    Returns:
      Final metrics by member name; a plain run is the member "".

    Raises:
      UserError: an error that a user can mend; nothing is left half-written.
      Preempted: SIGTERM came; the run is saved.
    """
    time = Goodput()
    directory = workdir.make(directory)
    console = Console(stream)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workdir.locked(directory))
        check = stack.enter_context(Preemption()).check
        with time("compile"):
            setup = prepare(
                config, directory, console.say, allow_config_change=allow_config_change,
                progress=console.progress,
            )
        stack.callback(setup.feed.close)
        settings = setup.first.config["checkpoint"]
        checkpoints = stack.enter_context(Checkpoints(
            directory / "checkpoints", keep=settings["keep"], best=settings["best"],
            say=console.say,
        ))
        states, sums = restore_states(setup, checkpoints, time)
        writer = stack.enter_context(Writer(directory, setup.names, int(states[0].step)))
        stack.callback(console.end_bar)
        run = _Run(setup, states, sums, checkpoints, writer, console, time, check)
        try:
            run.go()
            stored = workdir.read_results(directory)
            results = stored if run.resumed_finished and stored else run.finish()
        except Interrupted:
            raise run.leave() from None
        if jax.process_index() == 0:
            workdir.write_json(directory / "results.json", results)
            workdir.write_arrays(directory / "results.npz", run.arrays, setup.names)
        run.progress.results(setup, results, run.teachers)
        return results


class _Run:
    """The mutable part of a run: its states, its step, and what is due when."""

    def __init__(
        self, setup: Setup, states: list[TrainState], sums: Any, checkpoints: Checkpoints,
        writer: Writer, console: Console, time: Goodput, check: Callable[[], None],
    ):
        self.setup, self.states, self.checkpoints = setup, states, checkpoints
        self.writer, self.time, self.check = writer, time, check
        self.window = Window(len(states), setup.first.term_names, sums, checkpoints.last)
        self.progress = Progress(console)
        self.calls: dict[tuple[int, int], Any] = {}
        self.intervals = setup.intervals
        self.staging = Staging(setup.feed, setup.mesh, len(setup.members))
        self.running: Any = None  # metrics of the call that was started last
        self.step = int(states[0].step)
        self.resumed_finished = self.step == self.intervals.total
        self.scores: tuple[int, list[dict[str, float]]] = (-1, [])
        self.arrays: dict[str, np.ndarray] = {}
        self.saved_at = monotonic()

    def go(self) -> None:
        """Runs the remaining steps."""
        self.progress.start(self.setup, self.states[0], self.step)
        with self.time("evaluation"):
            self.teachers = check_teachers(self.setup, self.progress.say, self.check)
        for member in self.setup.members if self.step == 0 and self.teachers else ():
            self.writer.row(0, member.name, dict(ChainMap(*self.teachers.values())))
        if self.step == 0 and jax.process_index() == 0:
            workdir.begin(self.setup.directory, self.progress.say)
        self.setup.write_record()
        self.progress.start_clock(self.step, self.time.seconds["step"])
        if self.step and due(self.step - 1, self.step, self.intervals.evaluate):
            if not on_first(lambda: self.writer.wrote(self.step, "eval/")):
                self._evaluate("validation")  # it was stopped in between
        with self.time("step"):
            while self.step < self.intervals.total:
                before = self.step
                self._advance()
                if self.progress.needs_time(self.step):
                    self.window.fetch()  # a call returns before the devices are done
                    self.progress.estimate(self.step, self.time.stepping())
                finished = self.step == self.intervals.total
                if finished or due(before, self.step, self.intervals.log):
                    self._log()
                self.check()
                if finished or due(before, self.step, self.intervals.evaluate):
                    self.scores = self.step, self._evaluate("validation")
                if finished or self._save_due(before):
                    self._save()

    def _save_due(self, before: int) -> bool:
        minutes, overdue = self.intervals.save_minutes, False
        if minutes > 0 and due(before, self.step, self.intervals.log):
            overdue = on_first(lambda: monotonic() - self.saved_at > 60 * minutes)
        return overdue or any(due(before, self.step, every) for every in self.intervals.save)

    def _advance(self) -> None:
        """Starts the next call, then stages the batches of the one after it."""
        phase, count = self.intervals.phase(self.step), self.intervals.call_length(self.step)
        feed, hparams = self.setup.feed, self.setup.hparams[phase]
        with self.time("data_wait"):
            items = self.staging.take(self.step, count)
        if (phase, count) not in self.calls:
            with self.time("compile"):
                call = population.make_call(
                    self.setup.programs[phase], feed, count, sharding.replicated(self.setup.mesh)
                )
                self.calls[phase, count] = call.lower(
                    self.states[0], self.setup.frozen, feed.constants, items[0], hparams[0]
                ).compile()
        before = self.running
        self.states, metrics = population.advance(
            self.calls[phase, count], self.states, self.setup.frozen, feed.constants, items,
            hparams,
        )
        self.window.add(self.step, metrics)
        self.step += count
        self.running = metrics
        if self.step < self.intervals.total:
            jax.block_until_ready(before)  # its batches are free again
            with self.time("data_wait"):
                self.staging.stage(self.step, self.intervals.call_length(self.step))

    def _log(self) -> None:
        self.window.fetch()
        means = self.window.means()
        perf = self.time.report()
        examples = self.setup.first.config["data"]["batch_size"] * len(self.states)
        perf["perf/images_per_second"] = self.progress.speed(
            self.step, self.time.stepping(), examples
        )
        for member, values in zip(self.setup.members, means, strict=True):
            self.writer.row(self.step, member.name, {**values, **perf})
        self.progress.log(self.setup.first, self.step, means, perf)

    def _evaluate(self, use: str, validation: Sequence[Any] = ()) -> list[dict[str, float]]:
        setup, metrics = self.setup, []
        with self.time("evaluation"):
            for number, member in enumerate(setup.members):
                evaluator, moment = setup.moment(self.step, number)
                context = self.states[number], setup.frozen, moment
                known = validation[number] if validation else None
                if use == SETS:
                    values, arrays = evaluate_sets(setup.sets, *context, self.check, known)
                else:
                    values, arrays = evaluate_state(
                        evaluator, *context, setup.dataset.splits, use, self.check, known
                    )
                self.writer.row(self.step, member.name, values)
                metrics.append(values)
                self.arrays |= {f"{number}/{name}": array for name, array in arrays.items()}
        self.progress.evaluation(self.step, setup.members, metrics)
        return metrics

    def _save(self) -> None:
        """Saves in the background, once all losses up to here are known to be finite."""
        self.window.fetch()
        with self.time("checkpoint"):
            step, scores = self.scores
            # Metrics of an earlier step do not belong to this checkpoint.
            names = set.intersection(*map(set, scores)) if step == self.step else ()
            metrics = {
                name: float(np.mean([values[name] for values in scores])) for name in names
            }
            notes = {"window": self.window.state(), "members": self.setup.names}
            self.checkpoints.save(self.step, as_tree(self.states), metrics, notes)
            self.saved_at = monotonic()

    def leave(self) -> Preempted:
        """Saves the current step and returns the error to end the run with."""
        if self.step == 0:
            return Preempted("SIGTERM", "nothing was trained yet", "run again to start")
        self._save()
        self.checkpoints.wait()
        return Preempted("SIGTERM", f"step {self.step} is saved", "run again to go on")

    def finish(self) -> Results:
        """Evaluates the last state on validation and test and waits for its checkpoint."""
        step, validation = self.scores
        if step != self.step:
            validation = self._evaluate("validation")
        final = validation
        uses = ["test"] if "test" in self.setup.dataset.splits else []
        for use in [*uses, SETS] if self.setup.sets else uses:
            evaluated = self._evaluate(use, validation)
            final = [{**values, **more} for values, more in zip(final, evaluated, strict=True)]
        with self.time("checkpoint"):
            self.checkpoints.wait()
        for member in self.setup.members:
            self.writer.row(self.step, member.name, self.time.report())
        if self.checkpoints.latest != self.step:
            raise CheckpointError(
                str(self.checkpoints.directory), f"step {self.step} is not saved", "run again"
            )
        return {
            member.name: values for member, values in zip(self.setup.members, final, strict=True)
        }
