"""`--mode=search`: trains a population whose members copy each other, and writes a schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax.analysis import policies as pictures
from kdaug_jax.augment.policies.pba import OPS
from kdaug_jax.errors import ConfigError, NonFiniteError
from kdaug_jax.evaluation.run import Results
from kdaug_jax.experiment.config import overlay, validate
from kdaug_jax.runtime import records
from kdaug_jax.runtime.console import Console
from kdaug_jax.runtime.processes import on_first
from kdaug_jax.runtime.workdir import write_json
from kdaug_jax.search import pba
from kdaug_jax.training import failures, loop, teachers
from kdaug_jax.training.between import Decisions, Scores
from kdaug_jax.training.setup import Setup

SCHEDULE, RECORD, PLOT = "schedule.json", "search.json", "search.png"


def run(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    stream: TextIO | None = None,
    **checks: bool,
) -> Results:
    """Trains or, with mode "search", searches; teachers that are not there are trained first.

    Args:
      config: a ConfigDict or nested dicts.
      directory: the working directory.
      stream: console, by default standard output.
      **checks: `allow_config_change` and `verify_data`, see `training.loop.train`.

    Returns:
      Final metrics by member name.

    Raises:
      UserError: an error that a user can mend.
    """
    full = validate(config)
    if full["mode"] != "search":
        ready = teachers.ensure(full, directory, stream=stream, **checks)
        return loop.train(ready, directory, stream=stream, **checks)
    as_population(full)  # refuses before teachers are trained
    ready = as_population(teachers.ensure(full, directory, stream=stream, **checks))
    search = Search(ready, Console(stream))
    try:
        results = loop.train(ready, directory, stream=stream, between=search, **checks)
    except NonFiniteError:
        results = records.read_results(directory)
        if not results:  # no member is left
            raise
    on_first(lambda: write_outputs(Path(directory), search, results))
    return results


def as_population(full: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the population that a search trains.

    Args:
      full: a complete config.

    Returns:
      A complete config: a member for each seed, evaluated after each interval on the validation
      split of the search.

    Raises:
      ConfigError: the search does not fit the experiment.
    """
    section, epochs = full["search"], full["train"]["epochs"]
    if not section["name"]:
        raise ConfigError("search.name", "is empty", "add --config.search.name=pba")
    if full["population"]:
        raise ConfigError(
            "population", "is given, and a search makes its own", "take it out or use --mode=train"
        )
    if epochs != int(epochs):
        raise ConfigError("train.epochs", f"is {epochs:g}", "give a search whole epochs")
    if section["interval"] >= epochs:
        raise ConfigError(
            "search.interval", f"{section['interval']} epochs are not shorter than the run of "
            f"{epochs:g}", f"--config.search.interval={max(int(epochs) // 2, 1)} or less",
        )
    if not full["checkpoint"]["best"]:
        raise ConfigError(
            "checkpoint.best", "is empty, and members are compared by it",
            "--config.checkpoint.best=eval/validation/accuracy",
        )
    seed = full["seed"]
    last = seed + section["members"] - 1
    if last > 2**32 - 1:
        raise ConfigError("seed", f"the last member's would be {last}", "give a smaller seed")
    data = full["data"]
    return {
        **full,
        "data": {
            **data, "validation": section["validation"] or data["validation"],
            # One order for all members: each order would have a stream of its own.
            "seed": seed if data["seed"] < 0 else data["seed"],
        },
        "eval": {**full["eval"], "every_epochs": float(section["interval"])},
        "population": (("seed", tuple(range(seed, last + 1))),),
    }


class Search:
    """Population based augmentation between the intervals of a run, see `training.between`.

    Attributes:
      exploits: all so far, in order.
      names: of the members, by number.
      scores: rows of the epoch and of each member's score, None for those that have failed.
    """

    def __init__(self, full: Mapping[str, Any], console: Console):
        """Starts a search.

        Args:
          full: what `as_population` returned.
          console: where each generation is told.
        """
        self._section, self._console = full["search"], console
        self._score = full["checkpoint"]["best"]
        self._lowest, self._per_epoch = False, 1
        self.members, self.epochs = self._section["members"], int(full["train"]["epochs"])
        self.names: list[str] = []
        self.exploits: list[pba.Exploit] = []
        self.scores: list[tuple[int, list[float | None]]] = []

    def begin(self, setup: Setup, notes: Mapping[str, Any]) -> Decisions:
        """Validates that the policy is traced, and takes up what `notes` returned.

        Raises:
          ConfigError: the path is not a traced policy, or the host makes the view.
        """
        path, first = self._section["path"], setup.first
        overlay(first.hparams, first.ranges, {path: pba.START})
        for spec in first.view_specs:
            if spec.hosted is not None and path.startswith(f"views.{spec.name}."):
                raise ConfigError(
                    f"views.{spec.name}.place", "the host makes the view that is searched",
                    f"--config.views.{spec.name}.place=device",
                )
        self.names = setup.names
        self._lowest, self._per_epoch = setup.criterion["lowest"], first.steps_per_epoch
        stored = notes.get("between", {"exploits": (), "scores": ()})
        self.exploits = [
            pba.Exploit(*event[:3], tuple(event[3])) for event in stored["exploits"]
        ]
        self.scores = [(epoch, list(values)) for epoch, values in stored["scores"]]
        return self._decisions(())

    def undecided(self, step: int) -> bool:
        """Returns whether the interval that ends with a step has yet to be decided on."""
        return step > 0 and all(epoch * self._per_epoch < step for epoch, _ in self.scores)

    def decide(self, step: int, scores: Scores) -> Decisions:
        """Lets the worst quarter copy members of the best one, see `pba.exploit`."""
        if not self.undecided(step):
            return self._decisions(())
        epoch = step // self._per_epoch
        ranked = self.ranked(scores)
        policies = pba.policies(self.exploits, self.members)
        exploits = pba.exploit(ranked, policies, epoch, self._section["seed"])
        self.exploits += exploits
        self.scores.append((epoch, self._row(scores)))
        self._say(epoch, ranked, exploits)
        return self._decisions([(event.target, event.source) for event in exploits])

    def ranked(self, scores: Scores) -> dict[int, float]:
        """Returns the score of each member that has one, higher being better."""
        sign = -1.0 if self._lowest else 1.0
        values = {member: metrics[self._score] for member, metrics in scores.items()}
        return {
            member: sign * value for member, value in values.items() if math.isfinite(value)
        }

    def notes(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return {
            "exploits": [[*event[:3], list(event.policy)] for event in self.exploits],
            "scores": [[epoch, list(values)] for epoch, values in self.scores],
        }

    def finish(self, scores: Scores) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the contents of `schedule.json` and `search.json`.

        Args:
          scores: final ones of the members that have not failed.
        """
        ranked = self.ranked(scores)
        best = pba.winner(ranked)
        parts = pba.segments(self.exploits, self.members, best, self.epochs)
        final = scores[best][self._score]
        source = (f"PBA with {self.members} members over {self.epochs} epochs, "
                  f"member {best}, {self._score} {final:.4f}")
        record = {
            "winner": best, "score": self._score, "lineage": pba.lineage(self.exploits, best),
            "scores": [*self.scores, (self.epochs, self._row(scores))],
            "exploits": [event._asdict() for event in self.exploits],
        }
        return pba.as_schedule(parts, source), record

    def _row(self, scores: Scores) -> list[float | None]:
        return [
            scores[member][self._score] if member in scores else None
            for member in range(self.members)
        ]

    def _decisions(self, copies: Sequence[tuple[int, int]]) -> Decisions:
        policies = pba.policies(self.exploits, self.members)
        return Decisions(copies, [{self._section["path"]: policy} for policy in policies])

    def _say(
        self, epoch: int, ranked: Mapping[int, float], exploits: Sequence[pba.Exploit]
    ) -> None:
        if not ranked:
            return
        best, every = pba.winner(ranked), self._section["interval"]
        sign = -1.0 if self._lowest else 1.0
        low, high = sorted(sign * value for value in (min(ranked.values()), max(ranked.values())))
        copies = ", ".join(f"{event.target}←{event.source}" for event in exploits)
        self._console.say(
            f"generation {epoch // every} of {(self.epochs - 1) // every}: best member {best}, "
            f"{self._score} {low:.4f} to {high:.4f}; {copies or 'no copies'}"
        )


def write_outputs(directory: Path, search: Search, results: Results) -> None:
    """Writes the schedule, the record and the picture of a finished search.

    Args:
      directory: the working directory.
      search: what has happened.
      results: final metrics by member, or where it failed.
    """
    scores = {
        member: results[name] for member, name in enumerate(search.names)
        if failures.FAILED not in results[name]
    }
    schedule, record = search.finish(scores)
    write_json(directory / SCHEDULE, schedule)
    write_json(directory / RECORD, record)
    pictures.draw_schedule(schedule["segments"], OPS, directory / PLOT)
