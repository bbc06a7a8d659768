"""From a config to what evaluates its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.evaluation.eval_step import Evaluator, embedding_of
from kdaug_jax.evaluation.metric_table import METRICS, ON_VIEWS, check
from kdaug_jax.evaluation.predictors import Predictor, Selection, plan_predictors
from kdaug_jax.experiment import views
from kdaug_jax.experiment.networks import Network
from kdaug_jax.types import Info, Outputs


def evaluator_of(
    config: Mapping[str, Any], networks: Mapping[str, Network], info: Info, mesh: Mesh,
    human: np.ndarray | None,
) -> tuple[Evaluator, tuple[Selection, ...]]:
    """Builds what evaluates the trained networks of a run, and what is chosen among.

    Args:
      config: the complete plain config.
      networks: by name, with those that answers are compared with.
      info: facts of the training split.
      mesh: the devices.
      human: see `Evaluator`.
    """
    section = config["eval"]
    names = tuple(section["metrics"])
    trained = {
        name: networks[name].model.num_branches for name, one in config["networks"].items()
        if one["trainable"]
    }
    predictors, selections = plan_predictors(config, trained)
    return Evaluator(
        networks, predictors, names, check(section, info.num_classes),
        views.parse("eval", section["view"], info), _more(config, info), info, mesh, human,
    ), selections


def evaluator_alone(evaluator: Evaluator, name: str) -> Evaluator:
    """Builds what evaluates a frozen network by itself, with the metrics that it has."""
    names = tuple(one for one in evaluator.names if METRICS[one].needs != "teacher")
    return evaluator._replace(predictors=(Predictor(name, ((name, 0),)),), names=names, more=())


def _more(config: Mapping[str, Any], info: Info) -> tuple[tuple[tuple[views.ViewSpec, ...], int], ...]:
    """Finds the views of `eval.views`, each after those that it is made from."""
    texts = {name: one["ops"] for name, one in config["views"].items()}
    specs = {plan.name: plan for plan in views.parse_all(texts, info)}
    found = []
    for name in config["eval"]["views"]:
        chain = [specs[name]]
        while chain[0].source is not None:
            chain.insert(0, specs[chain[0].source])
        found.append((tuple(chain), config["views"][name]["branch"]))
    return tuple(found)


def check_evaluation(
    config: Mapping[str, Any], info: Info, networks: Mapping[str, Network]
) -> None:
    """Refuses what `config.eval` and `checkpoint.best` cannot mean.

    Args:
      config: the complete plain config.
      info: facts of the training split.
      networks: by name.

    Raises:
      ConfigError: a view with other rows, an unknown view or metric, nobody to be compared with.
    """
    section = config["eval"]
    settings = check(section, info.num_classes)
    branches = {
        name: networks[name].model.num_branches for name, one in config["networks"].items()
        if one["trainable"]
    }
    inputs = views.parse("eval", section["view"], info)
    if inputs.source is not None:
        raise ConfigError("eval.view", "starts from another view", "write its stages out")
    if inputs.rows:
        raise ConfigError("eval.view", "changes the number of rows", "leave repeat and pick out")
    predictors, selections = plan_predictors(config, branches)
    metrics = set(section["metrics"])
    if "discrimination" in metrics:
        for name, network in networks.items():
            embedding_of(name, _shapes(network, inputs.size), settings)
    if not any(one.teachers for one in predictors):
        for name in section["metrics"]:
            if METRICS[name].needs == "teacher":
                raise ConfigError("eval.metrics", f"no term has a teacher for '{name}'", "take out")
    for name in section["views"]:
        if name not in config["views"]:
            raise ConfigError("eval.views", f"no view '{name}'", suggest(name, config["views"]))
    for chain, _ in _more(config, info):
        if chain[-1].rows:
            raise ConfigError(
                "eval.views", f"'{chain[-1].name}' changes the number of rows",
                "name views without repeat and pick",
            )
    if section["views"] and not metrics & set(ON_VIEWS):
        raise ConfigError(
            "eval.views", "no metric is measured there",
            "put " + " or ".join(ON_VIEWS) + " into eval.metrics",
        )
    known = _names(section["metrics"], predictors, selections)
    best = config["checkpoint"]["best"]
    if best not in ("", *known):
        raise ConfigError("checkpoint.best", f"there is no '{best}'", suggest(best, known))


def _shapes(network: Network, size: tuple[int, int]) -> Outputs:
    """Gives shapes of what a network says of one image, without computing anything."""

    def ask(key):
        image = jnp.zeros((1, *size, network.model.channels), jnp.uint8)
        return network.model.apply(network.model.init(key, size), image, train=False)[0]

    return jax.eval_shape(ask, jax.random.key(0))


def _names(
    metrics: Sequence[str], predictors: Sequence[Predictor], selections: Sequence[Selection]
) -> list[str]:
    """Lists the numbers that an evaluation on the validation split gives."""
    found = []
    for front, teachers in [
        *((one.name, one.teachers) for one in predictors), *((one.name, ()) for one in selections)
    ]:
        for metric in metrics:
            row = METRICS[metric]
            suffixes = [f"_{name}" for name in teachers] if len(teachers) > 1 else [""]
            if row.needs == "human" or row.needs == "teacher" and not teachers:
                continue
            found += [
                "/".join(filter(None, ("eval/validation", front, name + suffix)))
                for name in row.names
                for suffix in (suffixes if row.needs == "teacher" else [""])
            ]
    return found
