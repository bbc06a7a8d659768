"""One trained network without its experiment, to be exported or deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.frozen import stored
from kdaug_jax.experiment.frozen.chosen import ChosenState, choose
from kdaug_jax.experiment.frozen.places import Place, place_of
from kdaug_jax.experiment.network import Network
from kdaug_jax.models.model import Model
from kdaug_jax.models.variables import take_branch
from kdaug_jax.runtime import model_card, records, workdir
from kdaug_jax.runtime.model_card import ModelCard
from kdaug_jax.types import Info


class Loaded(NamedTuple):
    """A network with one BatchNorm branch.

    Attributes:
      card: architecture, classes, preparation of images, and which state of which run it is.
      model: its pure functions, in the precision of the run.
      variables: `{"params", "batch_stats"}` of NumPy arrays.
      state: a line about which state it is, and which others there are.
    """

    card: ModelCard
    model: Model
    variables: dict[str, Any]
    state: str


def load_one(
    source: str | Path,
    *,
    say: Callable[[str], None],
    network: str = "",
    member: int | str | None = None,
    branch: int | None = None,
) -> Loaded:
    """Returns one network from a working or a teacher directory.

    Args:
      source: the directory; of a run also `DIR@best`, `DIR@STEP`, `DIR@MEMBER`, see
        `places.place_of`.
      say: prints a line about each damaged checkpoint.
      network: name of the network in the run; by default "student", or the only network.
      member: name or number of the member of a sweep; needed where there are several.
      branch: BatchNorm branch; by default the one that the run selected on its validation split.

    Raises:
      ConfigError: there is no such network, member, step or branch, or a choice is missing.
      CheckpointError: no checkpoint is complete.
    """
    place = place_of(str(source), where="--from")
    if member is not None:
        place = place._replace(member=str(member))
    if branch is not None:
        place = place._replace(branch=branch)
    path = workdir.place("--from", place.path)
    card = model_card.read(path / model_card.CARD) if path.is_dir() else None
    if card is not None:
        _only(place)
        facts = {"kind": "card"}
        state = card.describe()
    else:
        facts = {**_facts_of_run(path, network), "kind": "run"}
        choice = choose("--from", path, place, facts)
        facts |= {"member": choice.member, "step": choice.step if choice.step >= 0 else None}
        card, state = _card_of_run(path, facts, choice), choice.describe(place.path)
    count = facts.get("num_branches", 1)
    model = _create(card, count)
    info = Info(
        model.num_classes, tuple(card.size), np.zeros(0, np.int32), tuple(card.mean),
        tuple(card.std),
    )
    variables = stored.load("--from", Network(model, False, str(path), facts), info, say)
    if count > 1:
        variables = take_branch(variables, card.branch)
    return Loaded(card, _create(card, 1), variables, state)


def _only(place: Place) -> None:
    """Raises ConfigError for a choice among states of a directory that holds one network."""
    given = {"member": place.member, "step": place.step, "best": place.best or None,
             "branch": place.branch}
    for name, value in given.items():
        if value not in ("", None, "0", 0):
            raise ConfigError(
                f"--{name}", f"is {value}, but {place.path} holds one imported network",
                "leave it out",
            )


def _card_of_run(path: Path, facts: Mapping[str, Any], choice: ChosenState) -> ModelCard:
    _, record = records.read_run(path)
    names, section = records.class_names(path, record), record["config"]
    native = models.create(
        facts["name"], facts["num_classes"], normalize=(facts["mean"], facts["std"]),
        **facts["options"],
    ).native_size
    return ModelCard(
        arch=facts["name"], num_classes=facts["num_classes"],
        size=tuple(facts.get("size") or (native, native)), mean=tuple(facts["mean"]),
        std=tuple(facts["std"]), class_names=names, options=facts["options"],
        layout="kdaug_jax", source=path.name, view=section["eval"]["view"],
        fill=tuple(facts.get("data_mean", facts["mean"])), member=choice.name, step=choice.step,
        branch=choice.branch, precision=choice.precision, accuracy=choice.accuracy,
        **{name: section["data"][name] for name in ("exif", "alpha") if name in section["data"]},
    )


def _facts_of_run(path: Path, network: str) -> dict[str, Any]:
    try:
        return records.read_network("", str(path), network)
    except ConfigError as error:
        where = "--from" if error.where == ".checkpoint" else error.where
        remedy = "name a working directory or a teacher directory" if not network else error.remedy
        raise ConfigError(where, error.what, remedy) from None


def _create(card: ModelCard, branches: int) -> Model:
    return models.create(
        card.arch, card.num_classes, normalize=(card.mean, card.std), num_branches=branches,
        dtype=card.precision, **card.options,
    )
