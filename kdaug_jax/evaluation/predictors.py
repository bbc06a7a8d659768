"""Predictors of an evaluation: networks, their BatchNorm branches, ensembles, selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdaug_jax.experiment.config import natural_sort
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.experiment.terms import FIELDS

Member = tuple[str, int]


class Predictor(NamedTuple):
    """A network on one BatchNorm branch, or the ensemble that a term forms.

    Attributes:
      name: part of its metrics' names: "" for the run's main network, "branch_1", "two",
        "two/branch_1", or the name of a term.
      members: (network, BatchNorm branch) pairs; one unless it is an ensemble.
      term: the term that forms the ensemble, "" for a single network.
      loss: of the term.
      options: of the loss, Python values.
      teachers: the networks that it is compared with.
      traced: names of further options, which are traced numbers of the run.
    """

    name: str
    members: tuple[Member, ...]
    term: str = ""
    loss: str = ""
    options: Mapping[str, Any] = {}
    teachers: tuple[str, ...] = ()
    traced: tuple[str, ...] = ()


class Selection(NamedTuple):
    """Predictors of which the most accurate one on the validation split is selected.

    Attributes:
      name: part of its metrics' names, such as "chosen" or "two/chosen".
      options: names of the predictors.
    """

    name: str
    options: tuple[str, ...]


def main_network(trained: Sequence[str]) -> str:
    """Returns the network whose metrics carry no network name: the student, or the first."""
    return "student" if "student" in trained else trained[0]


def plan_predictors(
    config: Mapping[str, Any], branches: Mapping[str, int]
) -> tuple[tuple[Predictor, ...], tuple[Selection, ...]]:
    """Lists the predictors and selections of a config.

    Args:
      config: the complete plain config.
      branches: how many BatchNorm branches each trained network has.

    Returns:
      Every trained network, on branch 0; where a network has several branches, each of them; and
      the ensembles that terms form. Selections are among the branches of a network, and among the
      networks of an ensemble.
    """
    trained = natural_sort(branches)
    main = main_network(trained)
    teachers_of = _teachers(config)
    predictors, selections = [], []
    for network in trained:
        teachers = tuple(
            name for name in natural_sort(teachers_of.get(network, ())) if name != network
        )
        label = "" if network == main else network
        predictors.append(Predictor(label, ((network, 0),), teachers=teachers))
        if branches[network] > 1:
            front = f"{label}/" if label else ""
            names = tuple(f"{front}branch_{number}" for number in range(branches[network]))
            predictors += [
                Predictor(name, ((network, number),), teachers=teachers)
                for number, name in enumerate(names)
            ]
            selections.append(Selection(f"{front}chosen", names))
    for name in natural_sort(config["terms"]):
        predictor = _ensemble(config, name)
        if predictor is None:
            continue
        predictors.append(predictor)
        networks = dict.fromkeys(network for network, _ in predictor.members)
        if len(networks) > 1:
            options = tuple("" if network == main else network for network in networks)
            selections.append(Selection(f"{name}/chosen", options))
    return tuple(predictors), tuple(selections)


def _students(term: Mapping[str, Any]) -> tuple[str, ...]:
    student = term["student"]
    return (student,) * len(term["on"]) if isinstance(student, str) else tuple(student)


def _teachers(config: Mapping[str, Any]) -> dict[str, set[str]]:
    """Returns the names of the teachers of each student."""
    teachers: dict[str, set[str]] = {}
    for term in config["terms"].values():
        names = (term["teacher"],) if isinstance(term["teacher"], str) else term["teacher"]
        for student in _students(term):
            teachers.setdefault(student, set()).update(
                name.partition("@")[0] for name in names if name
            )
    return teachers


def _ensemble(config: Mapping[str, Any], name: str) -> Predictor | None:
    """Returns the ensemble that a term forms, None for a term that forms none."""
    term = config["terms"][name]
    if resolve(f"terms.{name}.loss", term["loss"])[0].predict_ensemble is None:
        return None
    members = tuple(
        (network, config["views"][view]["branch"])
        for network, view in zip(_students(term), term["on"], strict=True)
    )
    options = {key: value for key, value in term.items() if key not in FIELDS}
    return Predictor(name, members, name, term["loss"], options)


def with_selected(
    numbers: Mapping[str, float], selections: Sequence[Selection]
) -> dict[str, float]:
    """Adds the metrics of selections, on every split that was evaluated.

    Args:
      numbers: metrics by full name, those of the validation split among them.
      selections: see `plan_predictors`.

    Returns:
      `numbers` with `eval/<split>/<selection>/<metric>`, and the position of the selected option as
      `eval/validation/<selection>/number`; of equally accurate ones the first.
    """
    result = dict(numbers)
    for selection in selections:
        accuracy = [
            numbers[f"eval/validation/{f'{name}/' if name else ''}accuracy"]
            for name in selection.options
        ]
        best = max(range(len(accuracy)), key=accuracy.__getitem__)
        option = selection.options[best]
        for path, value in numbers.items():
            _, split, name = path.split("/", 2)
            front, _, metric = name.rpartition("/")
            if front == option:
                result[f"eval/{split}/{selection.name}/{metric}"] = value
        result[f"eval/validation/{selection.name}/number"] = float(best)
    return result
