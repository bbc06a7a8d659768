"""Small records of finished runs: what the paper prints, what was measured, and what that cost.

A record is one JSON file, `results/<experiment>/<row>/<run>.json`, of one run or of the members of
a population that differ in their seeds. Only a run of the row's own config stands beside the
paper's figure. Its `kind` says what another one is: `smoke`, the config's smoke form; `stand-in`,
on another data set; `scaled`, of another length, size or network; `variation`, of other science.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.catalog.experiments import (
    Entry,
    Experiment,
    config_of,
    entries_of,
    option_set,
    with_options,
)
from kdaug_jax.catalog.jobs import Job
from kdaug_jax.catalog.measured import (
    data_set,
    environment_of,
    measures_of,
    read_finished,
    results_as,
)
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.finished import (
    SEEDS,
    comparable,
    is_without_effect,
    settings_of,
)
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.effects import ADDING_METRICS, is_among
from kdaug_jax.experiment.frozen.places import WORKDIR
from kdaug_jax.runtime import workdir
from kdaug_jax.runtime.digest import sealed, unsealed

ROW, SMOKE, STAND_IN, SCALED, VARIATION = "row", "smoke", "stand-in", "scaled", "variation"
# What may differ in a run that is as long or as large as a device at hand allows.
_SCALE = re.compile(
    r"data\.(source|train|validation|test|batch_size|crop|bad_images|exif|alpha|image|label)"
    r"|train\..*|eval\..*|optim\.schedule(\..*)?|terms\.[^.]*\.weight\..*"
    r"|networks\.[^.]*\.(name|options(\..*)?|mean|std|recipe|checkpoint|sha256|source|trust)"
)
# A teacher from elsewhere is one of the ways to run a row; the record names it.
_TEACHER = re.compile(r"networks\.[^.]*\.checkpoint")
# What changes results by roundings alone: it saves memory, or computes in bfloat16, which papers do
# not tell, and which a record says beside the hardware.
_ROUNDING = re.compile(
    r"networks\.[^.]*\.options\.remat|train\.accumulate|eval\.batch_size|precision"
)
# What a record must hold.
_FIELDS = {
    "experiment": str, "row": str, "kind": str, "changed": list, "runs": list, "cost": dict,
    "command": str, "commit": str, "hardware": dict, "data": str, "figures": dict,
    "teachers": list,
}


def changes(
    stored: Mapping[str, Any], member: str, wanted: Mapping[str, Any], *,
    evaluated_so: bool = False,
) -> dict[str, tuple[Any, Any]]:
    """Returns where a run differs from a config in what may change its results.

    Args:
      stored: the record of the run, see `runtime.records.read_fields`.
      member: of its population, "" for a plain run.
      wanted: a complete config.
      evaluated_so: whether it was evaluated as the config says, whatever the run's own evaluation.

    Returns:
      `{path: (value of the config, value of the run)}`, without seeds, the folder of the data, and
      what a run fills in: statistics of the data, directories of teachers that it trained; and
      without settings that only measure more or less.
    """
    theirs, ours = settings_of(stored, member), configs.flatten(configs.canonical(wanted))
    differing = {}
    for path in sorted({*theirs, *ours}):
        before, after = ours.get(path), theirs.get(path)
        if is_among(path, ("eval.*",) if evaluated_so else ADDING_METRICS):
            continue
        if path in SEEDS or is_without_effect(path) or comparable(before) == comparable(after):
            continue
        filled = path.startswith("networks.") and (
            path.endswith((".mean", ".std")) and before == []
            or path.endswith(".checkpoint") and before == "" and str(after).startswith(WORKDIR)
        )
        if filled or path == "data.source" and data_set(before) == data_set(after):
            continue
        differing[path] = (before, after)
    return differing


def kind_of(differing: Mapping[str, Any], smoke: bool) -> str:
    """Returns what a run is, by where it differs from a row.

    Args:
      differing: see `changes`.
      smoke: whether it is the smoke form.
    """
    if smoke:
        return SMOKE
    differing = [path for path in differing
                 if not _TEACHER.fullmatch(path) and not _ROUNDING.fullmatch(path)]
    if not differing:
        return ROW
    if not all(_SCALE.fullmatch(path) for path in differing):
        return VARIATION
    return STAND_IN if "data.source" in differing else SCALED


def lines_of(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Returns a line for each difference, "path: value -> value"."""
    return [f"{path}: {before!r} -> {after!r}" for path, (before, after) in differing.items()]


def rows_of_run(experiments: Sequence[Experiment], directory: Path) -> list[Entry]:
    """Returns the rows that the command of a run names; several where tables share their runs.

    Raises:
      ConfigError: it is of no config file here, or with options that no row has.
    """
    command = environment_of(directory).get("command", [])
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


def is_measured(directory: Path, entry: Entry) -> bool:
    """Returns whether a finished run was evaluated as a row says, by itself or later.

    Args:
      directory: the working directory.
      entry: the row.
    """
    stored, results = read_finished(directory)
    wanted = config_of(entry.experiment, entry.row.options)["eval"]
    return results_as(directory, stored, results, wanted) is not None


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
    measured = results_as(directory, stored, results, forms[0][0]["eval"])
    so = {"evaluated_so": measured is not None}
    results = results if measured is None else measured
    chosen: list[tuple[str, dict[str, Any], str]] = []
    for member in finished:
        differing, smoke = min(
            ((changes(stored, member, wanted), smoke) for wanted, smoke in forms),
            key=lambda form: (len(form[0]), form[1]),
        )
        smoke = smoke and not differing
        differing = {} if smoke else changes(stored, member, forms[0][0], **so)
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
        **measures_of(directory, stored, results, [name for name, _, _ in members], row.figures),
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
        **measures_of(job.directory, stored, results, finished, figures),
        "experiment": experiment.name, "row": job.name, "figures": dict(figures),
        "kind": kind_of(differing, smoke), "changed": lines_of(differing),
        "teachers": _teachers(differing),
    }


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
