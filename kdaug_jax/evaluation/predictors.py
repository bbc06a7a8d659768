"""Who is asked when a run is evaluated: networks, their BatchNorm branches, and ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdaug_jax.experiment.config import natural_sort
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.experiment.terms import FIELDS

Member = tuple[str, int]


class Predictor(NamedTuple):
    """One that is evaluated.

    Attributes:
      name: part of its metrics' names: "" for the run's main network, "branch_1", "two",
        "two/branch_1", or the name of a term.
      members: the (network, BatchNorm branch) pairs that are asked.
      term: the term that makes one answer of several, "" for a single member.
      loss: its loss.
      options: its options.
      teachers: the networks that it is compared with.
    """

    name: str
    members: tuple[Member, ...]
    term: str = ""
    loss: str = ""
    options: Mapping[str, Any] = {}
    teachers: tuple[str, ...] = ()

    def path(self, metric: str) -> str:
        """Gives a metric of it its name below the split."""
        return f"{self.name}/{metric}" if self.name else metric


class Selection(NamedTuple):
    """One of several answers, to be chosen by accuracy on the validation split.

    Attributes:
      name: part of its metrics' names, such as "chosen" or "two/chosen".
      options: names of the answers.
    """

    name: str
    options: tuple[str, ...]


def main_network(trained: Sequence[str]) -> str:
    """Gives the network whose results carry no name of their own: the student, or the first."""
    return "student" if "student" in trained else trained[0]


def plan_predictors(
    config: Mapping[str, Any], branches: Mapping[str, int]
) -> tuple[tuple[Predictor, ...], tuple[Selection, ...]]:
    """Lists who is evaluated, from a config alone.

    Args:
      config: the complete plain config.
      branches: how many BatchNorm branches each trained network has.

    Returns:
      Every trained network, on branch 0; where a network has several branches, each of them; and
      what joint terms say. And what is chosen among: the branches of a network, and the networks
      of a joint term.
    """
    trained = natural_sort(branches)
    main = main_network(trained)
    compared = _compared(config)
    predictors, selections = [], []
    for network in trained:
        teachers = tuple(name for name in natural_sort(compared.get(network, ())) if name != network)
        own = "" if network == main else network
        predictors.append(Predictor(own, ((network, 0),), teachers=teachers))
        if branches[network] > 1:
            front = f"{own}/" if own else ""
            names = tuple(f"{front}branch_{number}" for number in range(branches[network]))
            predictors += [
                Predictor(name, ((network, number),), teachers=teachers)
                for number, name in enumerate(names)
            ]
            selections.append(Selection(f"{front}chosen", names))
    for name in natural_sort(config["terms"]):
        predictor = _of_term(config, name)
        if predictor is None:
            continue
        predictors.append(predictor)
        asked = list(dict.fromkeys(network for network, _ in predictor.members))
        if len(asked) > 1:
            own = tuple("" if network == main else network for network in asked)
            selections.append(Selection(f"{name}/chosen", own))
    return tuple(predictors), tuple(selections)


def _students(term: Mapping[str, Any]) -> tuple[str, ...]:
    one = term["student"]
    return (one,) * len(term["on"]) if isinstance(one, str) else tuple(one)


def _compared(config: Mapping[str, Any]) -> dict[str, set[str]]:
    """Finds the teachers of each learning network."""
    found: dict[str, set[str]] = {}
    for term in config["terms"].values():
        named = (term["teacher"],) if isinstance(term["teacher"], str) else term["teacher"]
        for student in _students(term):
            found.setdefault(student, set()).update(
                name.partition("@")[0] for name in named if name
            )
    return found


def _of_term(config: Mapping[str, Any], name: str) -> Predictor | None:
    term = config["terms"][name]
    if resolve(f"terms.{name}.loss", term["loss"])[0].predict_ensemble is None:
        return None
    members = tuple(
        (network, config["views"][view]["branch"])
        for network, view in zip(_students(term), term["on"], strict=True)
    )
    options = {key: value for key, value in term.items() if key not in FIELDS}
    return Predictor(name, members, name, term["loss"], options)


def with_selected(found: Mapping[str, float], selections: Sequence[Selection]) -> dict[str, float]:
    """Adds what was chosen on the validation split, on every split that was evaluated.

    Args:
      found: metrics by full name.
      choices: see `plan_answers`.

    Returns:
      `found` with `eval/<split>/<choice>/<metric>`, and the number of the option that was chosen as
      `eval/validation/<choice>/number`; of equal ones the first.
    """
    result = dict(found)
    for selection in selections:
        accuracy = [
            found[f"eval/validation/{f'{name}/' if name else ''}accuracy"]
            for name in selection.options
        ]
        best = max(range(len(accuracy)), key=accuracy.__getitem__)
        option = selection.options[best]
        for path, value in found.items():
            _, split, name = path.split("/", 2)
            front, _, metric = name.rpartition("/")
            if front == option:
                result[f"eval/{split}/{selection.name}/{metric}"] = value
        result[f"eval/validation/{selection.name}/number"] = float(best)
    return result
