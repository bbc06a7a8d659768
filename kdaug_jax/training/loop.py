"""The one training loop: build, restore, steps, evaluate, save."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from kdaug_jax.evaluation.run import Results
from kdaug_jax.evaluation.sets import SETS, evaluate_use
from kdaug_jax.runtime import lock, mark, records, sharding, signals
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.runtime.console import Console
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.runtime.writer import Writer
from kdaug_jax.training import failures, population, saving
from kdaug_jax.training.between import Between, act
from kdaug_jax.training.intervals import due
from kdaug_jax.training.profile import Profile
from kdaug_jax.training.progress import Progress
from kdaug_jax.training.setup import Setup, check_teachers, prepare
from kdaug_jax.training.staging import Staging
from kdaug_jax.training.state import restore_states, step_of
from kdaug_jax.training.window import Window
from kdaug_jax.types import TrainState


def train(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    verify_data: bool = False,
    stream: TextIO | None = None,
    between: Between | None = None,
) -> Results:
    """Runs an experiment, or resumes it from its newest checkpoint.

    Args:
      config: a ConfigDict or nested dicts; its frozen networks have checkpoints (see
        `training.teachers.ensure` for those that have none).
      directory: the working directory.
      allow_config_change: whether the directory may hold another config.
      verify_data: whether the contents of all images are read and compared.
      stream: console, by default standard output.
      between: acts on the members after each evaluation but the last.

    Returns:
      Final metrics by member name; a plain run is the member "".

    Raises:
      UserError: an error that a user can mend; nothing is left half-written.
      Preempted: a signal came; the run is saved.
    """
    time = Goodput()
    console = Console(stream)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(mark.made(directory))
        stack.enter_context(lock.locked(directory))
        preemption, run = stack.enter_context(signals.Preemption()), None
        try:
            preemption.check()
            with time("compile"):
                setup = prepare(
                    config, directory, console.say, allow_config_change=allow_config_change,
                    verify_data=verify_data, progress=console.progress,
                )
            stack.callback(setup.feed.close)
            checkpoints = stack.enter_context(saving.open_checkpoints(setup, console.say))
            states, notes = restore_states(setup, checkpoints, time)
            if between is not None:
                setup, states = act(between.begin(setup, notes), setup, states)
            mark.claim(directory, console.say)
            opened = saving.open_writer(setup, step_of(states), notes, console.say)
            writer = stack.enter_context(opened)
            stack.callback(console.end_bar)
            preemption.defer(setup.first.config["train"]["max_minutes"])
            run = _Run(
                setup, states, notes, checkpoints, writer, console, time, preemption.check, between
            )
            run.go()
            stored = records.read_results(directory)
            results = stored if run.resumed_finished and stored else run.finish()
        except signals.Stop:
            save_last = run.save_last if run is not None and run.step else None
            raise saving.left(directory, save_last) from None
        if results is not stored:
            mark.write_results(directory, results, run.arrays, setup.names)
        run.progress.results(setup, failures.healthy(results), run.teachers)
        failures.raise_failed(results)
        return results


class _Run:
    """The mutable part of a run: its states, its step, and what is due when."""

    def __init__(
        self, setup: Setup, states: list[TrainState], notes: Any, checkpoints: Checkpoints,
        writer: Writer, console: Console, time: Goodput, check: Callable[[], None],
        between: Between | None,
    ):
        self.setup, self.states, self.between = setup, states, between
        self.writer, self.time, self.check = writer, time, check
        self.progress = Progress(console)
        self.window = Window(
            setup.names, setup.first.term_names, notes, console.say,
            lambda step: failures.remedy(setup, self.states, self.window.last, checkpoints, step),
        )
        self.saving = saving.Saving(setup, checkpoints, self.window, writer, time, between)
        self.calls: dict[tuple[int, int], Any] = {}
        self.intervals = setup.intervals
        self.staging = Staging(setup.feed, setup.mesh, len(setup.members))
        self.running: Any = None  # metrics of the call that was started last
        self.step = step_of(states)
        self.resumed_finished = self.step == self.intervals.total
        self.scores: tuple[int, list[dict[str, float]]] = (-1, [])
        self.arrays: dict[str, np.ndarray] = {}

    def go(self) -> None:
        """Runs the remaining steps."""
        self.progress.start(self.setup, self.states[0], self.step)
        with self.time("evaluation"):
            self.teachers = check_teachers(self.setup, self.progress.say, self.check)
        for member in self.setup.members if self.step == 0 and self.teachers else ():
            self.writer.row(0, member.name, dict(ChainMap(*self.teachers.values())))
        self.setup.write_record()
        self.progress.start_clock(self.step, self.time.seconds["step"])
        scored = due(self.step - 1, self.step, self.intervals.evaluate)
        if scored and self.saving.unscored(self.step):
            self._score_again()
            self._decide()
        with self.time("step"), Profile(self.setup, self.progress.say) as profile:
            while self.step < self.intervals.total:
                profile.between_calls(self.step, self.running)
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
                    self._decide()
                if finished or self.saving.due(before, self.step):
                    self._save()

    def _decide(self) -> None:
        """Lets copy states and change numbers between two intervals, once an interval."""
        if self.between is not None and self.step < self.intervals.total:
            self.window.fetch()  # a member that has just failed takes no part
            scores = {number: self.scores[1][number] for number in self.window.alive}
            decisions = self.between.decide(self.step, scores)
            self.setup, self.states = act(decisions, self.setup, self.states)

    def _score_again(self) -> None:
        """Evaluates what a stop cut short; the checkpoint of the step gets the metrics."""
        self.scores = self.step, self._evaluate("validation")
        self.saving.add_metrics(self.scores)

    def _advance(self) -> None:
        """Starts the next call, then stages the batches of the one after it."""
        phase, count = self.intervals.phase(self.step), self.intervals.call_length(self.step)
        feed, hparams = self.setup.feed, self.setup.hparams[phase]
        with self.time("data_wait"):
            items = self.staging.take(self.step, count)
        if (phase, count) not in self.calls:
            with self.time("compile"):
                program, whole = self.setup.programs[phase], sharding.replicated(self.setup.mesh)
                call = population.maker(program)(program, feed, count, whole)
                self.calls[phase, count] = call.lower(
                    self.states[0], self.setup.frozen, feed.constants, items[0], hparams[0]
                ).compile()
        before = self.running
        self.states, self.running = population.advance(
            self.calls[phase, count], self.states, self.setup.frozen, feed.constants, items,
            hparams, None, self.window.failed,
        )
        self.window.add(self.step, self.running)
        self.step += count
        if self.step < self.intervals.total:
            jax.block_until_ready(before)  # its batches are free again
            with self.time("data_wait"):
                self.staging.stage(self.step, self.intervals.call_length(self.step))

    def _log(self) -> None:
        self.window.fetch()
        alive, means, perf = self.window.alive, self.window.means(), self.time.report()
        examples = self.setup.first.config["data"]["batch_size"] * len(alive)
        perf["perf/images_per_second"] = self.progress.speed(
            self.step, self.time.stepping(), examples
        )
        for number in alive:
            name = self.setup.members[number].name
            self.writer.row(self.step, name, {**means[number], **perf})
        self.progress.log(self.setup.first, self.step, [means[number] for number in alive], perf)

    def _evaluate(self, use: str, validation: Sequence[Any] = ()) -> list[dict[str, float]]:
        setup, metrics = self.setup, [{} for _ in self.states]
        with self.time("evaluation"):
            for number in self.window.alive:
                evaluator, moment = setup.moment(self.step, number)
                known = validation[number] if validation else None
                values, arrays = evaluate_use(
                    evaluator, setup.sets, self.states[number], setup.frozen, moment,
                    setup.dataset.splits, use, self.check, known,
                )
                self.writer.row(self.step, setup.members[number].name, values)
                metrics[number] = values
                self.arrays |= {f"{number}/{name}": array for name, array in arrays.items()}
        self.progress.evaluation(self.step, [metrics[number] for number in self.window.alive])
        return metrics

    def _save(self) -> None:
        self.states = self.saving.save(self.step, self.states, self.scores)

    def save_last(self) -> None:
        """Saves the current step and waits for it."""
        self._save()
        self.saving.wait()

    def finish(self) -> Results:
        """Evaluates the last state on validation and test and waits for its checkpoint."""
        if self.scores[0] != self.step:
            self._score_again()
        final = validation = self.scores[1]
        uses = ["test"] if "test" in self.setup.dataset.splits else []
        for use in [*uses, SETS] if self.setup.sets else uses:
            evaluated = self._evaluate(use, validation)
            final = [{**values, **more} for values, more in zip(final, evaluated, strict=True)]
        with self.time("evaluation"):
            saving.keep_rows(self.setup, self.step, self.states, self.window.alive, self.check)
        if self.saving.failed():
            self._save()
        self.saving.wait()
        best = saving.best_metrics(self.setup)
        for number in self.window.alive:
            name = self.setup.members[number].name
            self.writer.row(self.step, name, {**self.time.report(), **best[number]})
        self.writer.finish()
        return failures.marked(self.setup.members, final, self.window.failed)
