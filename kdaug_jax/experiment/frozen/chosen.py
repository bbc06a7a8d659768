"""Which state of a trained run is meant: member, step, BatchNorm branch, and how good it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen.places import CHOICE, Place
from kdaug_jax.runtime import checkpoint, manifest, records, writer


class ChosenState(NamedTuple):
    """A state of a run.

    Attributes:
      member: number of the member of the sweep; 0 for a plain run.
      name: of that member; empty for a plain run.
      step: of the checkpoint; -1 where there is none yet.
      branch: BatchNorm branch.
      branches: how many the network has.
      precision: of the run's computation.
      accuracy: on the validation split at that step, 0..1, or None where none is recorded.
      last: the newest step that is whole.
      best: the step of the kept best, -1 where none is recorded.
    """

    member: int
    name: str
    step: int
    branch: int
    branches: int
    precision: str
    accuracy: float | None
    last: int
    best: int

    def describe(self, where: str = "") -> str:
        """Returns a line for the console; `where` names the run in the advice on its best."""
        kind = "the last" if self.step == self.last else "not the last"
        # One step is kept for a whole population.
        of_all = " by the mean of all members" if self.name else ""
        if self.best >= 0 and self.step == self.best:
            kind += (" and the best" if self.step == self.last else ", the best") + of_all
        elif self.best >= 0:
            kind += f"; the kept best{of_all} is step {self.best}: {where or 'DIR'}{CHOICE}best"
        parts = [f"member {self.name}"] if self.name else []
        parts += [f"step {self.step} ({kind})"]
        parts += [f"BatchNorm branch {self.branch} of {self.branches}"] if self.branches > 1 else []
        measured = "not recorded at that step" if self.accuracy is None else (
            f"{100 * self.accuracy:.2f} %"
        )
        return ", ".join([*parts, self.precision, f"validation accuracy {measured}"])


def choose(
    where: str, directory: Path, place: Place, facts: Mapping[str, Any],
) -> ChosenState:
    """Returns the state of a run that a checkpoint names.

    Args:
      where: config path or flag, for messages.
      directory: the working directory, absolute.
      place: what is named there. Without a step the newest whole one is taken, without a branch
        the one that the run selected on its validation split.
      facts: of the network, see `records.read_network`.

    Raises:
      ConfigError: there is no such member, step or branch, or a choice is missing.
      CheckpointError: no checkpoint is whole, or the named one is damaged.
    """
    record = records.read_record(directory) or {}
    checkpoints = directory / "checkpoints"
    steps = manifest.steps(checkpoints)
    place = _step_or_member(where, place, steps, record["members"])
    member = _member(where, place, record["members"])
    last = manifest.newest(checkpoints, _quiet, set_aside=False)
    best = checkpoint.best_step(checkpoints, record["config"]["checkpoint"]["best"])
    step = -1 if last is None else last
    if place.best:
        wrong = {step: manifest.verify(checkpoints / str(step)) for step in steps}
        damaged = [step for step in steps if wrong[step] not in ("", manifest.UNFINISHED)]
        if damaged:
            what = f"{wrong[damaged[0]]}, so the best is not known"
            raise CheckpointError(
                str(checkpoints / str(damaged[0])), what,
                f"name a step: {_listed(place.path, steps)}",
            )
        if best is None:
            raise ConfigError(
                where, f"{place.path} keeps no best checkpoint",
                f"name a step: {_listed(place.path, steps)}",
            )
        step = best
    if place.step is not None:
        if place.step not in steps:
            raise ConfigError(
                where, f"{place.path} keeps no checkpoint of step {place.step}",
                f"name one of {_listed(place.path, steps)}" if steps else "train it first",
            )
        step = place.step
    if step >= 0 and (wrong := manifest.verify(checkpoints / str(step))):
        raise CheckpointError(
            str(checkpoints / str(step)), wrong, f"name another step: {_listed(place.path, steps)}"
        )
    name = record["members"][member]
    fault = (records.read_results(directory) or {}).get(name, {}).get("failed")
    if fault and place.step is None and not place.best:
        raise ConfigError(
            where, f"{name} of {place.path} was not finite at step {fault['step']} "
            f"({fault['where']})", "name another member, or a step",
        )
    rows = _evaluated(directory, step, name, step == last)
    trained = [key for key, stored in record["networks"].items() if stored["trainable"]]
    main = "student" if "student" in trained else trained[0]
    front = "" if facts["network"] == main else f"{facts['network']}/"
    count = facts.get("num_branches", 1)
    branch = _branch(where, place, count, rows.get(f"eval/validation/{front}chosen/number"))
    score = front + (f"branch_{branch}/" if count > 1 else "")
    return ChosenState(
        member, name, step, branch, count, record["config"].get("precision", "float32"),
        rows.get(f"eval/validation/{score}accuracy"), step if last is None else last,
        -1 if best is None else best,
    )


def _quiet(line: str) -> None:
    """Passes over the lines on damaged checkpoints, which `stored.load` prints."""


def _listed(path: str, steps: Sequence[int]) -> str:
    return ", ".join(f"{path}{CHOICE}{step}" for step in steps[:5])


def _step_or_member(
    where: str, place: Place, steps: Sequence[int], members: Sequence[str]
) -> Place:
    """Reads a number without `step=`, which may name a member of a sweep instead."""
    if not place.bare or len(members) == 1 or place.member:
        return place
    number = place.step
    if number in steps and number < len(members):
        raise ConfigError(
            where, f"{place.path}{CHOICE}{number} may be step {number} or member {number}",
            f"write {place.path}{CHOICE}step={number} or {place.path}{CHOICE}member={number}",
        )
    if number in steps or number >= len(members):
        return place
    return place._replace(step=None, member=str(number))


def _member(where: str, place: Place, members: Sequence[str]) -> int:
    def listed() -> str:
        names = [f"{place.path}{CHOICE}{name}" for name in members[:5]]
        return " or ".join(names) + (f" (of {len(members)})" if len(members) > 5 else "")

    if len(members) == 1 and place.member in ("", "0", members[0]):
        return 0
    if not place.member:
        raise ConfigError(
            where, f"{place.path} holds {len(members)} members of a sweep",
            f"name one: {listed()}",
        )
    if place.member in members:
        return members.index(place.member)
    if place.member in map(str, range(len(members))):
        return int(place.member)
    raise ConfigError(
        where, f"{place.path} holds no member '{place.member}'",
        f"name one: {listed()}" if len(members) > 1 else "it is a single run, no sweep",
    )


def _branch(where: str, place: Place, count: int, selected: float | None) -> int:
    if place.branch is not None:
        if place.branch >= count:
            raise ConfigError(where, f"has no BatchNorm branch {place.branch}",
                              f"0..{count - 1} exist")
        return place.branch
    if count == 1:
        return 0
    if selected is None:
        raise ConfigError(
            where, f"{place.path} has {count} BatchNorm branches, and none was selected at that "
            "step", "name one: " + " or ".join(
                f"{place.path}{CHOICE}branch={number}" for number in range(count)
            ),
        )
    return int(selected)


def _evaluated(directory: Path, step: int, member: str, last: bool) -> dict[str, Any]:
    """Returns the metrics of the validation split at a step, of one member."""
    values: dict[str, Any] = {}
    if last:
        values |= (records.read_results(directory) or {}).get(member, {})
    writer.require_rows(directory)
    for row in writer.read_rows(directory):
        if row["step"] == step and row.get("member", "") == member:
            values |= {
                name: value for name, value in row.items() if name.startswith("eval/validation/")
            }
    return values
