"""Small records of finished runs: what the paper prints, what was measured, and what that cost.

A record is one JSON file, `results/<experiment>/<row>/<run>.json`, of one run or of the members of
a population that differ in their seeds. Only a run of the row's own config stands beside the
paper's figure. Its `kind` says what another one is: `smoke`, the config's smoke form; `stand-in`,
on another data set; `scaled`, of another length, size or network; `variation`, of other science.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.catalog.experiments import Entry, Experiment, entries_of, option_set
from kdaug_jax.catalog.jobs import Job, with_options
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.finished import (
    SEEDS,
    comparable,
    is_without_effect,
    settings_of,
)
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.places import WORKDIR, absolute, located
from kdaug_jax.experiment.rows import PERCENT_SIGN, in_percent
from kdaug_jax.runtime import workdir
from kdaug_jax.runtime.digest import sealed, unsealed
from kdaug_jax.runtime.records import read_fields, read_results
from kdaug_jax.runtime.writer import read_rows

ROW, SMOKE, STAND_IN, SCALED, VARIATION = "row", "smoke", "stand-in", "scaled", "variation"
# What may differ in a run that is as long, as large or as precise as a device at hand allows.
_SCALE = re.compile(
    r"data\.(source|train|validation|test|batch_size|crop|bad_images|exif|alpha|image|label)"
    r"|train\..*|precision|eval\..*|optim\.schedule(\..*)?|terms\.[^.]*\.weight\..*"
    r"|networks\.[^.]*\.(name|options(\..*)?|mean|std|recipe|checkpoint|sha256|source|trust)"
)
# A teacher from elsewhere is one of the ways to run a row; the record names it.
_TEACHER = re.compile(r"networks\.[^.]*\.checkpoint")
# What saves memory, and changes results by roundings alone.
_MEMORY = re.compile(r"networks\.[^.]*\.options\.remat|train\.accumulate|eval\.batch_size")
_NUMBERS = (int, float)
# What a record must hold.
_FIELDS = {
    "experiment": str, "row": str, "kind": str, "changed": list, "runs": list, "cost": dict,
    "command": str, "commit": str, "hardware": dict, "data": str, "figures": dict,
    "teachers": list,
}


def changes(
    stored: Mapping[str, Any], member: str, wanted: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Returns where a run differs from a config in what may change its results.

    Args:
      stored: the record of the run, see `runtime.records.read_fields`.
      member: of its population, "" for a plain run.
      wanted: a complete config.

    Returns:
      `{path: (value of the config, value of the run)}`, without seeds, the folder of the data, and
      what a run fills in: statistics of the data, directories of teachers that it trained.
    """
    theirs, ours = settings_of(stored, member), configs.flatten(configs.canonical(wanted))
    differing = {}
    for path in sorted({*theirs, *ours}):
        before, after = ours.get(path), theirs.get(path)
        if path in SEEDS or is_without_effect(path) or comparable(before) == comparable(after):
            continue
        filled = path.startswith("networks.") and (
            path.endswith((".mean", ".std")) and before == []
            or path.endswith(".checkpoint") and before == "" and str(after).startswith(WORKDIR)
        )
        if filled or path == "data.source" and _data_set(before) == _data_set(after):
            continue
        differing[path] = (before, after)
    return differing


def _data_set(source: Any) -> str:
    return str(source).partition(":")[0]


def kind_of(differing: Mapping[str, Any], smoke: bool) -> str:
    """Returns what a run is, by where it differs from a row.

    Args:
      differing: see `changes`.
      smoke: whether it is the smoke form.
    """
    if smoke:
        return SMOKE
    differing = [path for path in differing
                 if not _TEACHER.fullmatch(path) and not _MEMORY.fullmatch(path)]
    if not differing:
        return ROW
    if not all(_SCALE.fullmatch(path) for path in differing):
        return VARIATION
    return STAND_IN if "data.source" in differing else SCALED


def lines_of(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Returns a line for each difference, "path: value -> value"."""
    return [f"{path}: {before!r} -> {after!r}" for path, (before, after) in differing.items()]


def config_of(experiment: Experiment, options: str) -> dict[str, Any]:
    """Returns the complete config of an experiment with options."""
    return configs.validate(configs.plain(experiment.get_config(options)))


def read_finished(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the record and the results of a finished run.

    Raises:
      ConfigError: the directory holds no run, or one that has not come to its end.
    """
    stored = read_fields(directory)
    if stored is None:
        raise ConfigError(str(directory), "is not the working directory of a run",
                          "name what --workdir was")
    results = read_results(directory)
    if results is None:
        raise ConfigError(str(directory), "holds a run that has not come to its end",
                          "run its command again to go on with it")
    return stored, results


def rows_of_run(experiments: Sequence[Experiment], directory: Path) -> list[Entry]:
    """Returns the rows that the command of a run names; several where tables share their runs.

    Raises:
      ConfigError: it is of no config file here, or with options that no row has.
    """
    command = _environment(directory).get("command", [])
    given = next((str(word).partition("=")[2] for word in command
                  if str(word).lstrip("-").startswith("config=")), "")
    file, _, options = given.partition(":")
    wanted = option_set(options) - {"smoke"}
    entries = [
        entry for entry in entries_of(experiments)
        if entry.experiment.name == Path(file).stem and entry.row.options is not None
        and option_set(entry.row.options) == wanted
    ]
    if not entries:
        raise ConfigError(str(directory), f"is a run of '{given}', which is no row",
                          "name the row that it is meant for by --row")
    return entries


def _environment(directory: Path) -> dict[str, Any]:
    environment = workdir.read_json(directory / "environment.json")
    if not isinstance(environment, dict):
        return {}
    return unsealed(str(directory / "environment.json"), environment)


def make_record(directory: Path, entry: Entry, *, variation: bool = False) -> dict[str, Any]:
    """Returns the record of a finished run as a row.

    Args:
      directory: the working directory.
      entry: the row.
      variation: whether the run may differ from the row in more than size, length and data.

    Raises:
      ConfigError: there is no finished run, none of its members is finite, or it is one of another
        config.
    """
    stored, results = read_finished(directory)
    experiment, row = entry
    if row.options is None:
        raise ConfigError(entry.address, f"is only quoted by the paper ({row.note})",
                          "record a run of another row")
    finished = [name for name, metrics in results.items() if "failed" not in metrics]
    forms = [(config_of(experiment, with_options(row.options, smoke)), smoke)
             for smoke in (False, True)]
    chosen: list[tuple[str, dict[str, Any], str]] = []
    for member in finished:
        differing, smoke = min(
            ((changes(stored, member, wanted), smoke) for wanted, smoke in forms),
            key=lambda form: (len(form[0]), form[1]),
        )
        smoke = smoke and not differing
        differing = {} if smoke else changes(stored, member, forms[0][0])
        chosen.append((member, differing, kind_of(differing, smoke)))
    if not chosen:
        raise ConfigError(str(directory), "holds no run that is finite", "record another one")
    # Of a sweep the members of the row's own config, if there are any.
    first = min(chosen, key=lambda item: (item[2] != ROW, item[2] == VARIATION))
    members = [item for item in chosen if item[1] == first[1]]
    _, differing, kind = first
    if kind == VARIATION and not variation:
        raise ConfigError(
            str(directory), f"is a run of another config than {entry.address} "
            f"({'; '.join(lines_of(differing))})", "record it as another row by --row, or as a "
            "variation of this one by --variation",
        )
    return {
        **_measured(directory, stored, results, [member for member, _, _ in members], row.figures),
        "experiment": experiment.name, "row": row.name, "paper": experiment.paper,
        "table": row.table, "figures": dict(row.figures), "spread": dict(row.spread),
        "kind": kind, "changed": lines_of(differing), "teachers": _teachers(differing),
    }


def _teachers(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Returns the checkpoints of teachers that a run did not train itself."""
    return [str(after) for path, (_, after) in differing.items() if _TEACHER.fullmatch(path)]


def config_of_cell(experiment: Experiment, job: Job) -> dict[str, Any]:
    """Returns the complete config of a cell of an experiment of several runs."""
    config = configs.plain(experiment.get_config(job.options))
    for path, value in job.overrides.items():
        config = configs.set_path(config, path, value)
    return configs.validate(config)


def make_cell_record(
    experiment: Experiment, job: Job, figures: Mapping[str, float]
) -> dict[str, Any]:
    """Returns the record of a finished run of an experiment of several, which is not written.

    Args:
      experiment: of the config file.
      job: the run.
      figures: what the paper prints of it; {} for nothing.
    """
    stored, results = read_finished(job.directory)
    finished = [name for name, metrics in results.items() if "failed" not in metrics]
    differing = changes(stored, "", config_of_cell(experiment, job))
    smoke = "smoke" in option_set(job.options)
    return {
        **_measured(job.directory, stored, results, finished, figures),
        "experiment": experiment.name, "row": job.name, "figures": dict(figures),
        "kind": kind_of(differing, smoke), "changed": lines_of(differing),
        "teachers": _teachers(differing),
    }


def _measured(
    directory: Path, stored: Mapping[str, Any], results: Mapping[str, Any],
    members: Sequence[str], figures: Mapping[str, float],
) -> dict[str, Any]:
    """Returns what a record holds of a run, whatever row it is of."""
    environment, rows = _environment(directory), read_rows(directory)
    cost = cost_of(stored, rows, environment, len(results))
    hours = teacher_hours(stored, directory)
    return {
        "data": _data_set(stored["config"]["data"]["source"]),
        "runs": [_run(stored, member, results[member], rows, figures) for member in members],
        "cost": cost if hours is None else {**cost, "teacher_device_hours": hours},
        "batch_norm": configs.batch_norm_groups(stored["config"]),
        "hardware": {"device": environment.get("device_kind", ""),
                     "devices": len(environment.get("devices", ())),
                     "processes": environment.get("processes", 1)},
        "command": " ".join(map(str, environment.get("command", ()))),
        "commit": str(environment.get("commit", "")),
        "version": str(environment.get("version", "")),
        "run": workdir.run_id(directory) or configs.fingerprint(stored["config"]),
    }


def _run(
    stored: Mapping[str, Any], member: str, metrics: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, float],
) -> dict[str, Any]:
    settings = settings_of(stored, member)
    measures = (*figures,) if {"accuracy", "error"} & {*figures} else (*figures, "accuracy")
    values = {name: measured(metrics, name) for name in measures}
    return {
        "member": member, "seed": settings.get("seed", 0),
        "epochs": settings.get("train.epochs"),
        "last": {name: value for name, value in values.items() if value is not None},
        "best": best_epoch(stored, member, rows),
    }


def measured(metrics: Mapping[str, float], measure: str) -> float | None:
    """Returns a measure of a finished run in the unit of `Row.figures`, None where it has none.

    Args:
      metrics: its final metrics. Those of the test split count, of validation where a run has no
        test split, and those of the chosen BatchNorm branch or network where there are several.
      measure: see `Row.figures`.
    """
    split = "test" if any(name.startswith("eval/test/") for name in metrics) else "validation"
    name, as_error = {"error": ("accuracy", True), "top5_error": ("top5", True)}.get(
        measure, (measure, False)
    )
    name = name.removesuffix(PERCENT_SIGN)
    chosen = re.compile(rf"eval/{split}/([^/]+/)?chosen/{re.escape(name)}")
    value = next((metrics[path] for path in (
        *filter(chosen.fullmatch, metrics), f"eval/{split}/{name}", f"eval/{name}", name
    ) if path in metrics), None)
    if not isinstance(value, _NUMBERS):
        return None
    if not in_percent(measure):
        return float(value)
    return 100.0 * (1.0 - value) if as_error else 100.0 * value


def best_epoch(
    stored: Mapping[str, Any], member: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the best accuracy among the evaluations during a run; {} where there are none.

    Returns:
      `{"accuracy", "epoch", "split"}`, in percent; the split is "test" where the run validates on
      its test split, as papers without a validation split do.
    """
    name = "eval/validation/accuracy"
    known = [(row[name], -row["step"]) for row in rows
             if row.get("member", "") == member and isinstance(row.get(name), _NUMBERS)]
    total = max((row["step"] for row in rows), default=0)
    if not known or not total:
        return {}
    accuracy, step = max(known)
    data, epochs = stored["config"]["data"], stored["config"]["train"]["epochs"]
    same = data.get("test") == data.get("validation")
    return {"accuracy": 100.0 * accuracy, "epoch": round(-step * epochs / total, 3),
            "split": "test" if same else "validation"}


def cost_of(
    stored: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any], members: int,
) -> dict[str, float]:
    """Returns what a run cost: the median step time times the steps, over all of its devices.

    Teachers (see `teacher_hours`), compilation and evaluation are not in it. The members of a
    population share the cost of its steps.

    Returns:
      `{"device_hours", "step_seconds", "steps"}` of one member; {} where no speed was logged.
    """
    speeds = [row["perf/images_per_second"] for row in rows
              if isinstance(row.get("perf/images_per_second"), _NUMBERS)]
    speeds = [speed for speed in speeds if speed > 0 and math.isfinite(speed)]
    steps = max((row["step"] for row in rows), default=0)
    if not speeds or not steps:
        return {}
    # Speeds count the images of all members; so this is the part of a step that is a member's.
    seconds = stored["config"]["data"]["batch_size"] / statistics.median(speeds)
    devices = max(len(environment.get("devices", ())), 1)
    return {"device_hours": seconds * steps * devices / 3600.0, "step_seconds": seconds,
            "steps": steps, "members": members}


def teacher_hours(stored: Mapping[str, Any], directory: Path) -> float | None:
    """Returns the device-hours of the teachers of a run, and of theirs, as `cost_of` has them.

    Args:
      stored: the record of the run.
      directory: its working directory.

    Returns:
      0.0 for a run without teachers; None where what one cost is not known, since no run with its
      log lies where the checkpoint is, or as a function or table has none.
    """
    hours = 0.0
    for section in stored["config"].get("networks", {}).values():
        if section.get("trainable"):
            continue
        for checkpoint in located(section.get("checkpoint", ""), directory):
            place = absolute(checkpoint)
            teacher = read_fields(place) if (place / "config.json").is_file() else None
            if teacher is None:
                return None
            members = len(read_results(place) or {}) or 1
            cost = cost_of(teacher, read_rows(place), _environment(place), members)
            theirs = teacher_hours(teacher, place)
            if not cost or theirs is None:
                return None
            hours += cost["device_hours"] + theirs
        if not section.get("checkpoint"):
            return None
    return hours


def write_record(results: Path, record: Mapping[str, Any]) -> Path:
    """Writes a record below the folder of results, and returns the file."""
    folder = results / record["experiment"] / record["row"]
    file = folder / f"{record['run'][:12]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workdir.write_json(file, sealed(record))
    except OSError as error:
        raise ConfigError("--results", f"{file} cannot be written ({error.strerror})",
                          "name another folder") from None
    return file


def read_records(results: Path, entry: Entry) -> list[dict[str, Any]]:
    """Returns the records of a row, in the order of their files' names.

    Raises:
      ConfigError: one is damaged or no record.
    """
    folder = results / entry.experiment.name / entry.row.name
    return [_read(file) for file in sorted(folder.glob("*.json"))]


def _read(file: Path) -> dict[str, Any]:
    stored = workdir.read_json(file)
    remedy = "restore it from a copy, or delete it and record the run again"
    if not isinstance(stored, dict):
        raise ConfigError(str(file), "is no record of a run", remedy)
    record = unsealed(str(file), stored, remedy=remedy)
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(record.get(name), kind)]
    runs = record.get("runs")
    if wrong or not all(isinstance(run, dict) and isinstance(run.get("last"), dict)
                        for run in runs):
        what = f"is no record of a run (it has no '{(wrong or ['runs'])[0]}')"
        raise ConfigError(str(file), what, remedy)
    return record
