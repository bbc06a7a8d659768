"""`--mode=evaluate`: evaluates a trained run from its working directory alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from kdaug_jax import data
from kdaug_jax.data.contents import split_digest
from kdaug_jax.data.recorded import (
    READ,
    class_changes,
    data_changes,
    data_contents,
    data_record,
    refuse_changes,
)
from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.evaluation.build import build_evaluators, check_evaluation
from kdaug_jax.evaluation.data_sets import load_data, load_human, read_options
from kdaug_jax.evaluation.eval_step import EvalSpec, Moment
from kdaug_jax.evaluation.exported import FOLDER, Evaluated, file_of, keep
from kdaug_jax.evaluation.metric_table import resolve_metric
from kdaug_jax.evaluation.predictors import with_selected
from kdaug_jax.evaluation.run import Results, check_images, evaluate_split
from kdaug_jax.evaluation.sets import (
    SetData,
    build_sets,
    corruption_errors,
    load_other,
    load_sets,
    set_of,
)
from kdaug_jax.evaluation.tables import results_tables
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks, views
from kdaug_jax.experiment.build import Phase
from kdaug_jax.experiment.frozen.inputs import load_input
from kdaug_jax.experiment.frozen.places import located
from kdaug_jax.experiment.frozen.stored import build_recorded, load
from kdaug_jax.experiment.members import hparams, members
from kdaug_jax.experiment.named_files import named_files
from kdaug_jax.experiment.phases import resolve_phases
from kdaug_jax.runtime import (
    checkpoint,
    manifest,
    records,
    sharding,
    signals,
    weight_cuts,
    workdir,
)
from kdaug_jax.runtime.console import Console
from kdaug_jax.types import Info

# What `--eval_data` evaluated, by its text.
EVALUATIONS = "evaluations.json"


def evaluate_run(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    verify_data: bool = False,
    eval_data: str = "",
    at: str = "",
    stream: TextIO | None = None,
) -> Results:
    """Evaluates a checkpoint on validation and test, or on another split.

    Nothing changes but what is added: `evaluations/<step>-<split or set>.json` and `.npz`, and
    `evaluations.json`, which keeps the results on other splits.

    Args:
      config: a ConfigDict or nested dicts, of which `data`, `eval`, `mesh` and `precision` are
        used; networks, terms and population are those that the run recorded.
      directory: the working directory of the run; its teachers are only needed where a metric
        compares with them.
      allow_config_change: whether `data` may be other than what the run was trained on.
      verify_data: whether the contents of all images are read and compared.
      eval_data: SOURCE,SPLIT of other data with the same classes, which are evaluated instead.
      at: "best", which `checkpoint.best` chose, or a step; empty for the newest whole one.
      stream: console, by default standard output.

    Returns:
      Metrics by member name.

    Raises:
      UserError: there is no such run, no checkpoint that is whole, or data that changed.
    """
    console = Console(stream)
    directory, stored = records.read_run(directory)
    step = _chosen_step(directory, stored, at)
    full = as_recorded(configs.validate(config), directory)
    names = records.class_names(directory, stored)
    if eval_data:
        name, dataset = load_other(eval_data, full["data"], names, console.say, console.progress)
        full["eval"] = {**full["eval"], "sets": (), "human": "", "views": ()}
        info = _described(stored, dataset)
    else:
        dataset = _dataset(stored, full, directory, allow_config_change, console)
        info = data.describe(dataset)
        refuse_changes(
            full["data"]["source"], class_changes(names, dataset.class_names),
            "order its classes as classes.json has them",
        )
    info = views.with_crops(info, configs.view_texts(stored["config"]), full["data"]["crop"])
    human = load_human(full["eval"]["human"], dataset, console.say)
    # The last batch is filled up, so any number of devices shares any batch.
    mesh = sharding.make_mesh(full["mesh"]["data"], 0, group=full["mesh"]["model"])
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
    if step is not None:
        built |= {
            name: built[name]._replace(facts={**built[name].facts, "step": step})
            for name in trained
        }
    phase, moments = _moments(stored, _step(directory, step), info, full["eval"]["views"])
    check_evaluation(config, (phase,), info, built)
    (evaluator,) = build_evaluators(config, (phase,), built, info, mesh, human)
    check_images(evaluator, {
        f"data.{use}": split for use, split in dataset.splits.items() if use != "train"
    })
    set_data = load_sets(full, info, dataset.class_names, console.say, console.progress)
    if eval_data:
        set_data = (set_of(name, eval_data, full, dataset.splits["test"], info),)
    elif not allow_config_change:
        _refuse_changes(stored, full, dataset, info, set_data, verify_data, console)
    sets = build_sets(config, evaluator, set_data)
    results, arrays, variables = {}, {}, {}
    kept_results = records.read_results(directory) or {}
    held = {**stored, "frozen": {}} if allow_config_change else stored
    evaluated = [
        Evaluated(use, evaluator, dataset.splits[use]) for use in ("validation", "test")
        if use in dataset.splits and not eval_data
    ] + [Evaluated(item.data.name, item.evaluator, item.data.split) for item in sets]

    @functools.lru_cache(maxsize=1)  # one member in memory; a plain run is read once
    def load_member(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return _member(evaluator.spec, directory, held, number, trained, console.say, step)

    def load_variables(number: int) -> dict[str, Any]:
        return load_member(number)[0]

    for number, member in enumerate(_stored_order(stored, directory, step)):
        if fault := kept_results.get(member, {}).get("failed"):
            console.say(f"{member} was not finite at step {fault['step']} ({fault['where']}): left "
                        "out")
            continue
        variables[number] = functools.partial(load_variables, number)
        loaded, params = load_member(number)
        numbers = {}
        for use, evaluated_by, split in evaluated:
            values = evaluate_split(
                evaluated_by, loaded, params, {use: split}, use, signals.check, moments[member]
            )
            numbers |= values.numbers
            for name, array in values.arrays.items():
                arrays.setdefault(use, {})[f"{number}/{name}"] = array
        errors = corruption_errors(sets, numbers)
        results[member] = {**with_selected(numbers, evaluator.selections), **errors}
    for table in results_tables(evaluator, results, {}):
        console.say(*table.split("\n"))
    reached = _step(directory, step)
    keep(directory, reached, evaluated, variables, stored["members"], signals.check, arrays)
    if jax.process_index() == 0:
        source = full["data"]["source"]
        data_of = {
            use: _facts(source, split) for use, split in dataset.splits.items() if use != "train"
        } | {item.data.name: _facts(item.data.source, item.data.split) for item in sets}
        _keep(directory, reached, data_of, results, full["eval"], console)
        if eval_data:
            file = directory / EVALUATIONS
            facts = _facts(eval_data, dataset.splits["test"])
            kept = {"data": facts, "step": reached, "results": results}
            with workdir.writing(directory):
                workdir.write_json(file, {**(workdir.read_json(file) or {}), eval_data: kept})
            console.say(f"kept in {file} as '{eval_data}'")
    return results


def as_recorded(full: Mapping[str, Any], directory: str | Path) -> dict[str, Any]:
    """Returns a complete config with the batch of a run, on which its evaluation depends.

    Args:
      full: the config to evaluate with; its `eval.batch_size` is left as it is.
      directory: the working directory of the run.

    Raises:
      ConfigError: there is no such run.
    """
    then = records.read_run(directory)[1]["config"]
    batch = {name: then["data"][name] for name in ("batch_size", "seed")}
    return {
        **full, "data": {**full["data"], **batch}, "train": {**full["train"], **then["train"]},
    }


def _facts(source: str, split: data.Split) -> dict[str, Any]:
    return {"source": source, "examples": len(split), "digest": split_digest(split)}


def _keep(
    directory: Path, step: int, data_of: Mapping[str, Any], results: Results,
    settings: Mapping[str, Any], console: Console,
) -> None:
    """Writes `evaluations/<step>-<split or set>.json`."""
    folder = directory / FOLDER
    uses = dict.fromkeys(name.split("/")[1] for values in results.values() for name in values)
    with workdir.writing(directory):
        folder.mkdir(exist_ok=True)
        for use in uses:
            front = f"eval/{use}/"
            of_use = {
                member: {name: value for name, value in values.items() if name.startswith(front)}
                for member, values in results.items()
            }
            workdir.write_json(file_of(directory, step, use, ".json"), {
                "step": step, "name": use, "data": data_of.get(use), "eval": dict(settings),
                "results": of_use,
            })
    console.say(f"kept in {folder} as {', '.join(f'{step}-{use}' for use in uses)}")


def _described(stored: Mapping[str, Any], dataset: data.Dataset) -> Info:
    """Returns the facts of the training split that a run stored."""
    facts = stored["data"].get("facts")
    if facts is None:
        raise ConfigError(
            "--eval_data", "the run was recorded by an older version, without facts of its data",
            "evaluate it with the data it was trained on",
        )
    several = "several sizes" if stored["data"]["mixed"] else ""
    return Info(
        len(dataset.class_names), facts["size"] and tuple(facts["size"]), np.zeros(0, np.int32),
        tuple(facts["mean"]), tuple(facts["std"]), mixed=several,
    )


def _refuse_changes(
    stored: Mapping[str, Any], full: Mapping[str, Any], dataset: data.Dataset, info: Info,
    sets: Sequence[SetData], verify: bool, console: Console,
) -> None:
    """Raises DataError if the data are not those that the run recorded."""
    contents = data_contents(
        dataset, verify, read_options(full["data"], console.say, console.progress)
    )
    if verify and (lacking := sorted(set(contents) - set(stored.get("contents", {})))):
        raise ConfigError(
            "--verify_data", f"the run did not record the contents of {', '.join(lacking)}",
            "resume or start it with --verify_data first",
        )
    now = data_record(dataset, info, named_files(stored["config"]), sets)
    refuse_changes(
        full["data"]["source"], data_changes(stored, now, contents),
        "or --allow_config_change to evaluate on what is there now",
    )


def _dataset(
    stored: Mapping[str, Any], full: Mapping[str, Any], directory: Path, allow_change: bool,
    console: Console,
) -> data.Dataset:
    """Loads the data, which must be those of the run."""
    section = full["data"]
    then, now = (
        {"data": {name: part[name] for name in READ if name in part}}
        for part in (stored["config"]["data"], section)
    )
    changed = configs.difference(then, now)
    if changed and not allow_change:
        raise ConfigError(
            str(directory / "config.json"),
            "the run was trained on other data (" + "; ".join(changed) + ")",
            "give the config it was trained with, or --allow_config_change",
        )
    return load_data(section, console.say, console.progress)


def _moments(
    stored: Mapping[str, Any], step: int, info: Info, training_views: Sequence[str]
) -> tuple[Phase, dict[str, Moment]]:
    """Returns the phase of the last step before `step`, and what members are evaluated with.

    Raises:
      ConfigError: training views are evaluated, and other training data hide the run's epoch.
    """
    recorded = stored["data"].get("splits", {}).get("train", {}).get("examples", len(info.labels))
    # Of its labels, phases need no more than their number.
    phases = resolve_phases(stored["config"], info._replace(labels=np.zeros(recorded, np.int32)))
    if training_views and recorded != len(info.labels):
        raise ConfigError(
            "eval.views", f"data.train has {len(info.labels):,} examples, the run's had "
            f"{recorded:,}, so that nobody knows its epoch", "leave it empty",
        )
    last = max(step - 1, 0)
    number = max(number for number, phase in enumerate(phases) if phase.start_step <= last)
    phase = phases[number]
    population = members(phase.config["population"])
    numbers = hparams(phases, population)[number]
    return phase, {
        member.name: Moment(values, last // phase.steps_per_epoch)
        for member, values in zip(population, numbers, strict=True)
    }


def _chosen_step(directory: Path, stored: Mapping[str, Any], at: str) -> int | None:
    """Returns the step of the checkpoint that is named, None where none is.

    Raises:
      ConfigError: the run keeps no such checkpoint.
      CheckpointError: it is damaged.
    """
    if not at:
        return None
    checkpoints = directory / "checkpoints"
    steps = manifest.steps(checkpoints)
    step = checkpoint.best_step(checkpoints, stored["config"]["checkpoint"]["best"])
    if at != "best":
        step = next((step for step in steps if str(step) == at), None)
    if step is None:
        listed = ", ".join(map(str, steps))
        raise ConfigError(
            "--checkpoint", f"{directory} keeps no checkpoint '{at}'",
            f"leave it out, or name one of {listed}" if steps else "train it first",
        )
    if wrong := manifest.verify(checkpoints / str(step)):
        raise CheckpointError(str(checkpoints / str(step)), wrong, "name another --checkpoint")
    return step


def _step(directory: Path, step: int | None) -> int:
    """Returns the step of the checkpoint that is loaded, which `_member` speaks of."""
    if step is None:
        step = checkpoint.load_subtree(directory / "checkpoints", ("0", "step"), lambda line: None)
    return int(step)


def _stored_order(
    stored: Mapping[str, Any], directory: Path, step: int | None
) -> Sequence[str]:
    """Returns the names of the members by their number in the checkpoint that is loaded."""
    notes = checkpoint.read_notes(directory / "checkpoints" / str(_step(directory, step)))
    return notes.get("members", stored["members"])


def _member(
    spec: EvalSpec, directory: Path, stored: Mapping[str, Any], number: int,
    trained: Sequence[str], say: Callable[[str], None], step: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the variables of the needed networks, and the parameters of terms with ensembles."""
    variables = {}
    for name in spec.needed_networks:
        where, network = f"networks.{name}", spec.networks[name]
        if name in trained:
            loaded = load(where, network, spec.info, say, number)
        else:
            source = stored["config"]["networks"][name]["checkpoint"]
            recorded = stored.get("frozen", {}).get(name)
            loaded, _ = load_input(
                where, network, source, directory, spec.info, say, recorded=recorded
            )
        variables[name] = weight_cuts.put(spec.mesh, network.shard, loaded)
    averaged = ("ema",) if spec.networks[trained[0]].facts["averaged"] else ()
    front = (str(number), *averaged, "params", "terms")
    params = {
        predictor.term: checkpoint.load_subtree(
            directory / "checkpoints", (*front, predictor.term), say, step
        )
        for predictor in spec.predictors if predictor.term
    }
    return variables, sharding.put_whole(spec.mesh, params)


def _network(
    config: Mapping[str, Any], name: str, directory: Path, info: Info, precision: str, trained: bool
) -> networks.Network:
    """Builds a network of the run, or a teacher of it from where its weights are stored."""
    if trained:
        return build_recorded(f"networks.{name}", directory, name, info, precision)
    section = config["networks"][name]
    kept = ("source", "class_order", "outputs", "sha256", "trust", "shard")
    frozen = {field: section[field] for field in kept if field in section}
    checkpoint = located(section["checkpoint"], directory)
    section = configs.network("", trainable=False, checkpoint=checkpoint, **frozen)
    return networks.build_network(name, section, info, 1, 0, precision)
