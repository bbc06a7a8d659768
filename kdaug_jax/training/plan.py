"""What a config resolves to before any device work, and the configs of teachers it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax import data
from kdaug_jax.data.options import no_bar
from kdaug_jax.data.recorded import data_changes, data_contents, data_record, refuse_changes
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.build import check_evaluation, choices_of, parse_view
from kdaug_jax.evaluation.data_sets import (
    READ,
    USES,
    load_data,
    load_human,
    read_options,
)
from kdaug_jax.evaluation.metric_table import resolve_metric
from kdaug_jax.evaluation.sets import SetData, load_sets
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen import compatibility
from kdaug_jax.experiment.frozen.places import WORKDIR, located
from kdaug_jax.experiment.imports import imported_code
from kdaug_jax.experiment.members import ended, matched
from kdaug_jax.experiment.named_files import named_files
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import manifest, records, workdir
from kdaug_jax.runtime.agreement import agree, software
from kdaug_jax.training import population
from kdaug_jax.types import Info


class RunPlan(NamedTuple):
    """What a config resolves to before any device work.

    Attributes:
      full: the complete plain config; checkpoints in the working directory begin with `workdir:`.
      dataset: the splits.
      programs: one a phase.
      members: the runs of the population.
      hparams: for each phase each member's traced hparams.
      record: what is written to config.json.
      human: `f32[N,C]`, people's answers by position in the test split's base split, or None.
      described: facts of the data, whatever the views make of them.
      sets: the data sets of `eval.sets`.
    """

    full: dict[str, Any]
    dataset: data.Dataset
    programs: tuple[Program, ...]
    members: tuple[population.Member, ...]
    hparams: list[list[dict[str, np.ndarray]]]
    record: dict[str, Any]
    human: np.ndarray | None
    described: Info
    sets: tuple[SetData, ...]


def plan_run(
    config: Mapping[str, Any],
    directory: Path,
    say: Callable[[str], None],
    *,
    allow_config_change: bool = False,
    verify_data: bool = False,
    record: bool = True,
    beside: RunPlan | None = None,
    progress: Callable[[float, str], None] = no_bar,
) -> RunPlan:
    """Resolves a config and compares it with what the directory holds; starts no device.

    Args:
      config: a ConfigDict or nested dicts. A frozen network without checkpoint is planned as its
        config describes it, though it cannot be loaded yet.
      directory: the working directory, absolute.
      say: prints a line.
      allow_config_change: whether the directory may hold another config.
      verify_data: whether the contents of all images are read and compared.
      record: whether a config that the directory holds must be this one.
      beside: a plan whose data are used where they are the same, instead of reading them again.
      progress: shows a bar while a data set is indexed.

    Returns:
      The plan.

    Raises:
      UserError: the config, the data or the directory do not fit.
    """
    full = configs.validate(config)
    section = full["data"]
    read = {name: section[name] for name in READ}
    if beside is not None and read.items() <= beside.full["data"].items():
        dataset, described = beside.dataset, beside.described
    else:
        dataset = load_data(section, say, progress)
        described = data.describe(dataset)
    info = views.with_crops(described, configs.view_texts(full), section["crop"])
    programs = build_programs(_locate(full, directory), info)
    first = programs[0]
    check_evaluation(full, programs, info, first.networks)
    human = load_human(full["eval"]["human"], dataset, say)
    compares = [
        name for name in full["eval"]["metrics"] if resolve_metric(name).needs == "teacher"
    ]
    for name, network in first.networks.items():
        if not network.trainable:
            compatibility.check_evaluated(f"networks.{name}", network, full, info, compares)
            if not full["networks"][name]["trust"]:
                compatibility.check_class_names(f"networks.{name}", network, dataset.class_names)
    for line in [*view_notes(programs), *size_notes(programs, full, info)]:
        say(line)
    sets = load_sets(full, info, dataset.class_names, say, progress)
    members = population.members(full["population"])
    hparams = population.hparams(programs, members)
    written = {**first.config, "networks": {
        name: {**section, "checkpoint": full["networks"][name]["checkpoint"] or WORKDIR + name}
        if not section["trainable"] else section
        for name, section in first.config["networks"].items()
    }}
    facts = {
        name: {**network.facts, "num_branches": network.model.num_branches,
               "trainable": network.trainable, "averaged": first.optimizer.averages}
        for name, network in first.networks.items()
    }
    expressions = {use: section[use] for use in USES}
    for use, count in data.overlaps(dataset.splits, expressions).items():
        say(f"warning: data.{use} and data.train share {count:,} examples")
    tested = data.overlaps(dataset.splits, expressions, "validation").get("test", 0)
    choices = choices_of(full, first.networks)
    if tested and choices:
        say(f"warning: data.test and data.validation share {tested:,} examples, and on these "
            f"{' and '.join(choices)} is chosen: its test results are too good")
    written_record = {
        "config": written,
        "networks": facts,
        "members": [member.name for member in members],
        "data": data_record(dataset, described, named_files(full), sets),
        "contents": {},
        "frozen": {},
        "changes": [],
    }
    if record:
        options = read_options(section, say, progress)
        contents = data_contents(dataset, verify_data, options)
        stored = _compare(directory, written_record, contents, say, allow_config_change)
        if stored.get("members"):
            members = matched(members, stored["members"], str(directory / "checkpoints"))
            hparams = population.hparams(programs, members)
            written_record["members"] = [member.name for member in members]
        known = stored.get("contents", {})
        if verify_data and stored and set(contents) - set(known):
            say("data: the contents of the images were not recorded when the run was started: "
                "they are from now on")
        written_record |= {
            "contents": {**known, **contents}, "frozen": stored.get("frozen", {}),
            "changes": stored.get("changes", []),
        }
    agree(_facts(written_record))
    for line in ended(programs, members):
        say(line)
    return RunPlan(
        full, dataset, programs, members, hparams, written_record, human, described, sets
    )


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what all processes of a run have to know alike, by name."""
    config = {f"config.{path}": value for path, value in configs.flatten(record["config"]).items()}
    facts = {name: record[name] for name in ("networks", "members", "contents")}
    return {**config, **facts, **configs.flatten({"data": record["data"]}), **software(),
            **imported_code(record["config"])}


def _compare(
    directory: Path, now: Mapping[str, Any], contents: Mapping[str, str],
    say: Callable[[str], None], allow_change: bool,
) -> dict[str, Any]:
    """Compares with the run that the directory holds; returns what else of it has to hold."""
    stored = records.read_record(directory)
    steps = manifest.steps(directory / "checkpoints")
    if not stored or not (steps or not workdir.run_id(directory)):
        return {}
    config = now["config"]
    changed = configs.difference(stored["config"], config)
    altered = data_changes(stored, now["data"], contents)
    if not allow_change:  # first: other data have another mean and deviation in the config too
        refuse_changes(
            config["data"]["source"], altered, "use another --workdir, or --allow_config_change to "
            "go on with what is there now",
        )
    changed += altered
    if changed and not allow_change:
        raise ConfigError(
            str(directory / "config.json"),
            "the run was started with another config (" + "; ".join(changed) + ")",
            "use another --workdir, or --allow_config_change to go on with the new one",
        )
    for line in [*changed, *_epochs_moved(stored, now, steps)]:
        say(f"config changed: {line}")
    # A run that went on with something else is not one of its last settings alone.
    changes = list(stored.get("changes", []))
    if changed and steps:
        changes.append({"step": steps[0], "changed": changed})
    return {
        "changes": changes,
        "contents": {} if altered else stored.get("contents", {}),
        "frozen": stored.get("frozen", {}),
        "members": stored["members"] if steps else None,
    }


def _epochs_moved(
    stored: Mapping[str, Any], now: Mapping[str, Any], steps: Sequence[int]
) -> list[str]:
    """Returns a line if the newest step is of another epoch now that epochs have other lengths."""
    lengths = []
    for record in (stored, now):
        train = record["data"].get("splits", {}).get("train")
        if not train or not steps:
            return []
        lengths.append(max(train["examples"] // record["config"]["data"]["batch_size"], 1))
    before, after = (steps[0] / length for length in lengths)
    if before == after:
        return []
    return [f"an epoch is {lengths[1]:,} steps, was {lengths[0]:,}: step {steps[0]:,} is now epoch "
            f"{round(after, 3)}, was {round(before, 3)}"]


def view_notes(programs: Sequence[Program]) -> list[str]:
    """Returns a warning for each policy that has something to say, such as a lost segment."""
    return list(dict.fromkeys(
        f"warning: views.{spec.name}.{call.role}: {call.bound.static['policy'].note}"
        for program in programs for spec in program.view_specs for call in spec.calls
        if call.stage.form == "policy" and call.bound.static["policy"].note
    ))


def size_notes(programs: Sequence[Program], full: Mapping[str, Any], info: Info) -> list[str]:
    """Returns a line for each network that is run on images of another size than its own.

    One for trained networks that are evaluated at another size, then those of frozen ones.
    """
    lines = [
        line for program in programs for line in compatibility.size_notes(
            program.networks, program.pairs, program.view_specs, info
        )
    ]
    evaluated = parse_view(full["eval"]["view"], info).size
    others = {
        f"{spec.size[1]}×{spec.size[0]}" for program in programs for spec in program.view_specs
        if any(spec.name == view for _, view in program.pairs) and spec.size != evaluated
    }
    if others:
        lines.insert(0, f"trained on images of {', '.join(sorted(others))} pixels, evaluated on "
                     f"{evaluated[1]}×{evaluated[0]}")
    return list(dict.fromkeys(lines))


def teacher_label(name: str) -> str:
    """Returns how the console names a frozen network: "teacher", "teacher big"."""
    return name if name.startswith("teacher") else f"teacher {name}"


def _locate(full: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    networks = {
        name: {**section, "checkpoint": located(section["checkpoint"], directory)}
        for name, section in full["networks"].items()
    }
    return {**full, "networks": networks}


def teacher_config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the config that trains a teacher of an experiment.

    The network becomes the student of an experiment with the same data, one cross entropy on the
    first view that is not made from another one, and whatever its `recipe` says. A recipe may
    replace "networks" and "terms" whole, with a "student" among the networks: so a teacher that was
    distilled itself is trained.

    Args:
      config: the complete config of the experiment.
      name: the frozen network.

    Returns:
      A complete config.
    """
    section = config["networks"][name]
    first_view = next(
        view for view, text in configs.view_texts(config).items()
        if views.source_of(view, text) is None
    )
    derived = {
        **config,
        "mode": "train",
        "networks": {"student": {**section, "trainable": True, "recipe": ()}},
        "terms": {"ce": configs.term("cross_entropy", (first_view,))},
        "optim": {**config["optim"], "combine": "sum()"},
        # It has no teacher to be compared with.
        "eval": {**config["eval"], "views": (), "metrics": tuple(
            name for name in config["eval"]["metrics"] if resolve_metric(name).needs != "teacher"
        )},
        # The experiment's best may be that of a network which this run does not have.
        "checkpoint": {**config["checkpoint"], "best": "eval/validation/accuracy"},
        "phases": (),
        "population": (),
        "search": {},
    }
    for path, value in section["recipe"]:
        derived = configs.set_path(derived, path, value)
    return configs.validate(derived)
