"""`--mode=evaluate`: evaluates a trained run from its working directory alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax import data
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.build import build_evaluators, check_evaluation
from kdaug_jax.evaluation.data_sets import (
    data_changes,
    data_record,
    load_data,
    load_human,
    refuse_changes,
)
from kdaug_jax.evaluation.eval_step import EvalSpec, Moment
from kdaug_jax.evaluation.metric_table import resolve_metric
from kdaug_jax.evaluation.predictors import with_selected
from kdaug_jax.evaluation.run import Results, evaluate_split
from kdaug_jax.evaluation.sets import build_sets, corruption_errors, load_sets
from kdaug_jax.evaluation.tables import results_tables
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks, views
from kdaug_jax.experiment.build import Phase
from kdaug_jax.experiment.frozen.stored import load, located
from kdaug_jax.experiment.members import hparams, members
from kdaug_jax.experiment.phases import resolve_phases
from kdaug_jax.runtime import checkpoint, sharding, workdir
from kdaug_jax.runtime.console import Console
from kdaug_jax.types import Info


def evaluate_run(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    stream: TextIO | None = None,
) -> Results:
    """Evaluates the newest whole checkpoint on validation and test; changes nothing.

    Args:
      config: a ConfigDict or nested dicts, of which `data`, `eval`, `mesh` and `precision` are
        used; networks, terms and population are those that the run recorded.
      directory: the working directory of the run; its teachers are only needed where a metric
        compares with them.
      allow_config_change: whether `data` may be other than what the run was trained on.
      stream: console, by default standard output.

    Returns:
      Metrics by member name.

    Raises:
      UserError: there is no such run, or no checkpoint that is whole.
    """
    console = Console(stream)
    directory, stored = workdir.read_run(directory)
    full = configs.validate(config)
    dataset = _dataset(stored, full, directory, allow_config_change, console)
    info = data.describe(dataset)
    if not allow_config_change:
        refuse_changes(
            full["data"]["source"], data_changes(stored["data"], data_record(dataset, info)),
            "or --allow_config_change to evaluate on what is there now",
        )
    info = views.with_crops(info, configs.view_texts(stored["config"]), full["data"]["crop"])
    human = load_human(full["eval"]["human"], dataset)
    mesh = sharding.make_mesh(full["mesh"]["data"], full["data"]["batch_size"])
    # Teachers and ensembles follow from the terms, which are those of the run.
    config = {
        **stored["config"], "data": full["data"], "eval": full["eval"], "checkpoint": {"best": ""}
    }
    trained = configs.natural_sort(
        name for name, facts in stored["networks"].items() if facts["trainable"]
    )
    compares = any(resolve_metric(name).needs == "teacher" for name in full["eval"]["metrics"])
    built = {
        name: _network(config, name, directory, info, full["precision"], name in trained)
        for name in configs.natural_sort(config["networks"]) if name in trained or compares
    }
    phase, moments = _moments(stored, directory, info, full["eval"]["views"])
    check_evaluation(config, (phase,), info, built)
    (evaluator,) = build_evaluators(config, (phase,), built, info, mesh, human)
    set_data = load_sets(full, info, dataset.class_names, console.say, console.progress)
    sets = build_sets(config, evaluator, set_data)
    results: Results = {}
    for number, member in enumerate(_stored_order(stored, directory)):
        variables, params = _member(evaluator.spec, directory, number, trained, console.say)
        passes = [
            (evaluator, dataset.splits, use) for use in ("validation", "test")
            if use in dataset.splits
        ] + [(item.evaluator, {item.data.name: item.data.split}, item.data.name) for item in sets]
        numbers = {}
        for evaluated_by, splits, use in passes:
            numbers |= evaluate_split(
                evaluated_by, variables, params, splits, use, moment=moments[member]
            ).numbers
        errors = corruption_errors(sets, numbers)
        results[member] = {**with_selected(numbers, evaluator.selections), **errors}
    for table in results_tables(evaluator, results, {}):
        console.say(table)
    return results


def _dataset(
    stored: Mapping[str, Any], full: Mapping[str, Any], directory: Path, allow_change: bool,
    console: Console,
) -> data.Dataset:
    """Loads the data, which must be those of the run."""
    section = full["data"]
    changed = configs.difference({"data": stored["config"]["data"]}, {"data": section})
    if changed and not allow_change:
        raise ConfigError(
            str(directory / "config.json"),
            "the run was trained on other data (" + "; ".join(changed) + ")",
            "give the config it was trained with, or --allow_config_change",
        )
    return load_data(section, console.say, console.progress)


def _moments(
    stored: Mapping[str, Any], directory: Path, info: Info, training_views: Sequence[str]
) -> tuple[Phase, dict[str, Moment]]:
    """Returns the phase of the last step of a run, and what its members are evaluated with.

    Raises:
      ConfigError: training views are evaluated, and other training data hide the run's epoch.
    """
    phases = resolve_phases(stored["config"], info)
    recorded = stored["data"].get("splits", {}).get("train", {}).get("examples", len(info.labels))
    if training_views and recorded != len(info.labels):
        raise ConfigError(
            "eval.views", f"data.train has {len(info.labels):,} examples, the run's had "
            f"{recorded:,}, so that nobody knows its epoch", "leave it empty",
        )
    last = max(_step(directory) - 1, 0)
    number = max(number for number, phase in enumerate(phases) if phase.start_step <= last)
    phase = phases[number]
    population = members(phase.config["population"])
    numbers = hparams(phases, population)[number]
    return phase, {
        member.name: Moment(values, last // phase.steps_per_epoch)
        for member, values in zip(population, numbers, strict=True)
    }


def _step(directory: Path) -> int:
    """Returns the step of the checkpoint that is loaded, which `_member` speaks of."""
    step = checkpoint.load_subtree(directory / "checkpoints", ("0", "step"), lambda line: None)
    return int(step)


def _stored_order(stored: Mapping[str, Any], directory: Path) -> Sequence[str]:
    """Returns the names of the members by their number in the checkpoint that is loaded."""
    notes = checkpoint.read_notes(directory / "checkpoints" / str(_step(directory)))
    return notes.get("members", stored["members"])


def _member(
    spec: EvalSpec, directory: Path, number: int, trained: Sequence[str], say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the variables of the needed networks, and the parameters of terms with ensembles."""
    variables = {
        name: sharding.put_whole(spec.mesh, load(
            f"networks.{name}", spec.networks[name], spec.info, say,
            number if name in trained else 0,
        ))
        for name in spec.needed_networks
    }
    averaged = ("ema",) if spec.networks[trained[0]].facts["averaged"] else ()
    front = (str(number), *averaged, "params", "terms")
    params = {
        predictor.term: checkpoint.load_subtree(
            directory / "checkpoints", (*front, predictor.term), say
        )
        for predictor in spec.predictors if predictor.term
    }
    return variables, sharding.put_whole(spec.mesh, params)


def _network(
    config: Mapping[str, Any], name: str, directory: Path, info: Info, precision: str, trained: bool
) -> networks.Network:
    """Builds a network of the run, or a teacher of it from where its weights are stored."""
    section = config["networks"][name]
    where, source = str(directory), name
    if not trained:
        where, source = located(section["checkpoint"], directory), section["source"]
    frozen = {"name": "", "trainable": False, "checkpoint": where, "source": source}
    return networks.build_network(name, configs.network(**frozen), info, 1, 0, precision)
