"""Builds the evaluator of a config, and validates what a config says about evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.evaluation.eval_step import EvalSpec, TrainingView, embedding_of
from kdaug_jax.evaluation.metric_table import (
    HIGHER,
    LOWER,
    METRICS,
    ON_VIEWS,
    Metric,
    MetricInputs,
    check_sums,
    resolve_metrics,
)
from kdaug_jax.evaluation.predictors import Predictor, Selection, plan_predictors
from kdaug_jax.evaluation.run import Evaluator, make_evaluator
from kdaug_jax.experiment import views
from kdaug_jax.experiment.build import Phase
from kdaug_jax.experiment.networks import Network
from kdaug_jax.experiment.program import Program
from kdaug_jax.types import Info, Outputs


def build_evaluators(
    config: Mapping[str, Any], phases: Sequence[Phase | Program],
    networks: Mapping[str, Network], info: Info, mesh: Mesh, human: np.ndarray | None,
) -> tuple[Evaluator, ...]:
    """Builds the evaluators of the trained networks of a run.

    Args:
      config: the complete plain config, of which `data` and `eval` are used.
      phases: of the run; their views, terms and teachers are those that are evaluated.
      networks: by name, those that predictors are compared with among them.
      info: facts of the training split.
      mesh: the devices.
      human: see `EvalSpec`.

    Returns:
      One a phase. Phases that evaluate the same share one, so that it compiles once.
    """
    section = config["eval"]
    metrics, settings = resolve_metrics(section, info.num_classes)
    batch_size = section["batch_size"] or config["data"]["batch_size"]
    branches = _branches(config, networks)
    evaluators: list[tuple[Any, Evaluator]] = []
    for phase in phases:
        predictors, selections = plan_predictors(phase.config, branches)
        measured = predictors, selections, _view_texts(phase, section["views"])
        evaluator = next((made for known, made in evaluators if known == measured), None)
        if evaluator is None:
            spec = EvalSpec(
                networks, _with_options(predictors, phase), metrics, settings,
                parse_view(section["view"], info), _training_views(phase, section["views"]), info,
                mesh, human, batch_statistics=section["batch_statistics"],
            )
            evaluator = make_evaluator(spec, selections, batch_size, config["data"]["workers"])
        evaluators.append((measured, evaluator))
    return tuple(evaluator for _, evaluator in evaluators)


def _with_options(
    predictors: Sequence[Predictor], phase: Phase | Program
) -> tuple[Predictor, ...]:
    """Returns predictors with all options that the losses of their terms have."""
    terms = {spec.name: spec.bound for spec in phase.term_specs}
    return tuple(
        predictor._replace(
            options=terms[predictor.term].static, traced=tuple(terms[predictor.term].traced)
        ) if predictor.term else predictor
        for predictor in predictors
    )


def parse_view(text: str, info: Info) -> views.ViewSpec:
    """Reads `eval.view`.

    Args:
      text: its stages.
      info: facts of the images that are evaluated.

    Raises:
      ConfigError: see `views.parse`.
    """
    return views.parse("eval", text, info, where="eval.view")


def _branches(config: Mapping[str, Any], networks: Mapping[str, Network]) -> dict[str, int]:
    """Returns how many BatchNorm branches each trained network has."""
    return {
        name: networks[name].model.num_branches for name, section in config["networks"].items()
        if section["trainable"]
    }


def _chain(phase: Phase | Program, name: str) -> tuple[views.ViewSpec, ...]:
    """Returns a view after those that it is made from."""
    specs = {spec.name: spec for spec in phase.view_specs}
    chain = [specs[name]]
    while chain[0].source is not None:
        chain.insert(0, specs[chain[0].source])
    return tuple(chain)


def _training_views(phase: Phase | Program, names: Sequence[str]) -> tuple[TrainingView, ...]:
    """Returns the views of `eval.views` as a phase makes them."""
    return tuple(TrainingView(_chain(phase, name), phase.branches[name]) for name in names)


def _view_texts(phase: Phase | Program, names: Sequence[str]) -> list[Any]:
    """Returns what decides the views of `eval.views`, apart from traced numbers."""
    return [
        ([(spec.name, phase.config["views"][spec.name]["ops"]) for spec in _chain(phase, name)],
         phase.branches[name])
        for name in names
    ]


def check_evaluation(
    config: Mapping[str, Any], phases: Sequence[Phase | Program], info: Info,
    networks: Mapping[str, Network],
) -> None:
    """Validates `config.eval` and `checkpoint.best`.

    Args:
      config: the complete plain config.
      phases: of the run.
      info: facts of the training split.
      networks: by name.

    Raises:
      ConfigError: a view that changes the number of rows or cannot be mixed here, an unknown view,
        an unknown metric or one whose sums are none, or a comparison without a teacher.
    """
    section = config["eval"]
    metrics, settings = resolve_metrics(section, info.num_classes)
    inputs = parse_view(section["view"], info)
    check_input_view(inputs)
    branches = _branches(config, networks)
    if any(metric.needs == "embedding" for metric in metrics.values()):
        for name, network in networks.items():
            embedding_of(name, _shapes(network, inputs.size), settings)
    for name in section["views"]:
        if name not in config["views"]:
            raise ConfigError("eval.views", f"no view '{name}'", suggest(name, config["views"]))
    if section["views"] and not set(metrics) & set(ON_VIEWS):
        raise ConfigError(
            "eval.views", "no metric is measured there",
            "put " + " or ".join(ON_VIEWS) + " into eval.metrics",
        )
    known: dict[str, str] = {}
    for phase in phases:
        predictors, selections = plan_predictors(phase.config, branches)
        if not any(predictor.teachers for predictor in predictors):
            for name, metric in metrics.items():
                if metric.needs == "teacher":
                    raise ConfigError(
                        "eval.metrics", f"no term has a teacher for '{name}'", "take out"
                    )
        for name in section["views"]:
            _check_training_view(_chain(phase, name))
        numbers = criteria(metrics, predictors, selections)
        known = {name: known[name] for name in known if name in numbers} if known else numbers
    best = config["checkpoint"]["best"]
    if best not in ("", *known):
        raise ConfigError("checkpoint.best", f"there is no '{best}'", suggest(best, known))
    if best and known[best] not in (HIGHER, LOWER):
        directed = [name for name, better in known.items() if better in (HIGHER, LOWER)]
        raise ConfigError(
            "checkpoint.best", f"nothing says whether more or less of '{best}' is better",
            'make it by mean_metric(name, function, better="higher"), or choose among '
            + ", ".join(directed),
        )
    users = {name: metric for name, metric in metrics.items() if name not in METRICS}
    if users:
        network = next(iter(branches))
        outputs = _shapes(networks[network], inputs.size)
        logits = outputs.logits
        row = MetricInputs(
            logits, *(jax.ShapeDtypeStruct((1,), kind) for kind in (jnp.int32, jnp.bool_))
        )
        for name, metric in users.items():
            needed = {metric.needs: logits} if metric.needs else {}
            if metric.needs == "embedding":
                needed = {"embedding": embedding_of(network, outputs, settings)}
            check_sums(name, metric, row._replace(**needed), settings)


def check_input_view(inputs: views.ViewSpec) -> None:
    """Raises ConfigError for an `eval.view` that cannot be that of single, labelled images."""
    if inputs.source is not None:
        raise ConfigError("eval.view", "starts from another view", "write its stages out")
    if inputs.rows:
        raise ConfigError("eval.view", "changes the number of rows", "leave repeat and pick out")
    for call in inputs.calls:
        if call.stage.form == "group":
            raise ConfigError(
                f"eval.view.{call.role}", "mixes examples, which then have several labels",
                "leave it out; name a mixed view of training in eval.views",
            )
        if views.EPOCH in getattr(call.bound.static.get("policy"), "hparams", ()):
            raise ConfigError(
                f"eval.view.{call.role}", "depends on the epoch, and images are evaluated alike in "
                "all of them", "leave it out; name a view of training in eval.views",
            )
        if _draws(call) or call.stage.form == "policy":
            raise ConfigError(
                f"eval.view.{call.role}", "draws at random, and an image has one answer",
                "leave it out; name a view of training in eval.views",
            )


def _draws(call: views.Call) -> bool:
    """Returns whether a stage draws at random with the arguments that it has."""
    draws = call.stage.draws
    if isinstance(draws, str):
        return float({**call.bound.static, **call.bound.traced}[draws]) not in (0.0, 1.0)
    return draws


def _check_training_view(chain: Sequence[views.ViewSpec]) -> None:
    """Raises ConfigError for a view that cannot be made of each example and one partner."""
    last = chain[-1]
    if last.rows:
        raise ConfigError(
            "eval.views", f"'{last.name}' changes the number of rows",
            "name views without repeat and pick",
        )
    mixing = [
        (f"views.{spec.name}.{call.role}", call) for spec in chain for call in spec.calls
        if call.stage.form == "group"
    ]
    if len(mixing) > 1:
        paths = " and ".join(path for path, _ in mixing)
        raise ConfigError(
            "eval.views", f"'{last.name}' mixes examples {len(mixing)} times ({paths})",
            "name views that mix once",
        )
    for path, call in mixing:
        if not views.mixes_pairs(call):
            raise ConfigError(
                "eval.views", f"'{last.name}' mixes by {path}, which does not let its partners be "
                "chosen, so that its result depends on eval.batch_size",
                "give that stage arguments `per` and `partner` as mixup's, or name another view",
            )


def _shapes(network: Network, size: tuple[int, int]) -> Outputs:
    """Returns the shapes of a network's outputs for one image, without computing anything."""

    def forward(key):
        image = jnp.zeros((1, *size, network.model.channels), jnp.uint8)
        return network.model.apply(network.model.init(key, size), image, train=False)[0]

    return jax.eval_shape(forward, jax.random.key(0))


def choices_of(config: Mapping[str, Any], networks: Mapping[str, Network]) -> list[str]:
    """Returns what a run chooses on the validation split, in words.

    Args:
      config: the complete plain config.
      networks: by name.
    """
    _, selections = plan_predictors(config, _branches(config, networks))
    best = ["the best checkpoint"] if config["checkpoint"]["best"] else []
    return best + [f"'{selection.name}'" for selection in selections]


def lowest_is_best(evaluator: Evaluator, name: str) -> bool:
    """Returns whether the lowest value of a criterion is the best.

    Args:
      evaluator: of the run.
      name: full name of the criterion, see `criteria`; may be empty.
    """
    spec = evaluator.spec
    return criteria(spec.metrics, spec.predictors, evaluator.selections).get(name) == LOWER


def criteria(
    metrics: Mapping[str, Metric], predictors: Sequence[Predictor],
    selections: Sequence[Selection],
) -> dict[str, str]:
    """Returns the numbers that an evaluation on the validation split gives.

    Args:
      metrics: by the name in `eval.metrics`.
      predictors: what is evaluated.
      selections: what is selected among them.

    Returns:
      Which values are better, see `Metric`, by full name.
    """
    numbers = {}
    fronts = [(predictor.name, predictor.teachers) for predictor in predictors]
    fronts += [(selection.name, ()) for selection in selections]
    for front, teachers in fronts:
        for metric in metrics.values():
            suffixes = [f"_{name}" for name in teachers] if len(teachers) > 1 else [""]
            if metric.needs == "human" or metric.needs == "teacher" and not teachers:
                continue
            numbers |= {
                "/".join(filter(None, ("eval/validation", front, name + suffix))): better
                for name, better in metric.better.items()
                for suffix in (suffixes if metric.needs == "teacher" else [""])
            }
    return numbers
