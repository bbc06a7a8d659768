"""One trained network without its experiment, to be exported or deployed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.frozen import stored
from kdaug_jax.experiment.frozen.places import absolute
from kdaug_jax.experiment.network import Network
from kdaug_jax.models.model import Model
from kdaug_jax.models.variables import take_branch
from kdaug_jax.runtime import model_card, workdir
from kdaug_jax.runtime.model_card import ModelCard
from kdaug_jax.types import Info


class Loaded(NamedTuple):
    """A network with one BatchNorm branch.

    Attributes:
      card: architecture, classes and normalisation.
      model: its pure functions.
      variables: `{"params", "batch_stats"}` of NumPy arrays.
    """

    card: ModelCard
    model: Model
    variables: dict[str, Any]


def load_one(
    source: str | Path,
    *,
    say: Callable[[str], None],
    network: str = "",
    member: int = 0,
    branch: int = 0,
    training_branch: bool = False,
) -> Loaded:
    """Returns one network from a working or a teacher directory.

    Args:
      source: the directory.
      say: prints a line about each damaged checkpoint.
      network: name of the network in the run; by default "student", or the only network.
      member: number of the run in a population.
      branch: BatchNorm branch; 0 is evaluated.
      training_branch: whether another branch than 0 may be taken.

    Raises:
      ConfigError: there is no such network, member or branch, or the branch is for training only.
      CheckpointError: no checkpoint is complete.
    """
    path = absolute(str(source))
    card = model_card.read(path / model_card.CARD) if path.is_dir() else None
    if card is not None:
        facts = {**dataclasses.asdict(card), "name": card.arch, "kind": "card", "num_branches": 1}
        views: Mapping[str, Any] = {}
    else:
        facts = {**_facts_of_run(path, network, member), "kind": "run"}
        views = (workdir.read_record(path) or {})["config"]["views"]
    model = _create(facts, facts["num_branches"])
    size = tuple(facts.get("size") or (model.native_size, model.native_size))
    _check_branch(branch, facts["num_branches"], views, training_branch)
    info = Info(
        model.num_classes, size, np.zeros(0, np.int32), tuple(facts["mean"]), tuple(facts["std"])
    )
    variables = stored.load("--from", Network(model, False, str(path), facts), info, say, member)
    if card is None:
        names = workdir.read_json(path / "classes.json") or ()
        card = ModelCard(
            arch=facts["name"], num_classes=model.num_classes, size=size, mean=info.mean,
            std=info.std, class_names=tuple(map(str, names)), options=facts["options"],
            layout="kdaug_jax", source=path.name,
        )
    if facts["num_branches"] > 1:
        variables = take_branch(variables, branch)
    return Loaded(card, _create(facts, 1), variables)


def _facts_of_run(path: Path, network: str, member: int) -> dict[str, Any]:
    try:
        facts = workdir.read_network("", str(path), network)
    except ConfigError as error:
        where = "--from" if error.where == ".checkpoint" else error.where
        remedy = "name a working directory or a teacher directory" if not network else error.remedy
        raise ConfigError(where, error.what, remedy) from None
    members = (workdir.read_record(path) or {})["members"]
    if not 0 <= member < len(members):
        raise ConfigError("--member", f"is {member}", f"0..{len(members) - 1} exist")
    return facts


def _create(facts: Mapping[str, Any], branches: int) -> Model:
    return models.create(
        facts["name"], facts["num_classes"], normalize=(facts["mean"], facts["std"]),
        num_branches=branches, **facts["options"],
    )


def _check_branch(
    branch: int, count: int, views: Mapping[str, Any], training_branch: bool
) -> None:
    if not 0 <= branch < count:
        raise ConfigError("--branch", f"is {branch}", f"0..{count - 1} exist")
    if branch and not training_branch:
        used = ", ".join(name for name, view in views.items() if view["branch"] == branch)
        raise ConfigError(
            "--branch", f"{branch} holds the statistics of view {used or '?'} for training only",
            "0 is the branch that is evaluated; --training_branch exports this one all the same",
        )
