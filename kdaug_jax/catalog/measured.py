"""What finished runs measured, and what they cost."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.exported import FOLDER
from kdaug_jax.evaluation.finished import comparable, settings_of
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.places import absolute, located
from kdaug_jax.experiment.rows import PERCENT_SIGN, in_percent
from kdaug_jax.runtime import manifest, workdir
from kdaug_jax.runtime.digest import unsealed
from kdaug_jax.runtime.records import read_fields, read_results
from kdaug_jax.runtime.writer import read_rows

_NUMBERS = (int, float)
# Of what is evaluated, and not when and in what portions.
_WHEN = ("every_epochs", "batch_size")


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


def results_as(
    directory: Path, stored: Mapping[str, Any], results: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Returns the final metrics of a run as a row measures them; None where nobody measured so.

    Args:
      directory: the working directory.
      stored: the record of the run.
      results: its final metrics by member.
      wanted: section `eval` of the row's config. Runs that were evaluated otherwise may have been
        evaluated once more, by `--mode=evaluate`.
    """
    if _measures_as(stored["config"].get("eval", {}), wanted):
        return dict(results)
    steps = manifest.steps(directory / "checkpoints")
    evaluated: dict[str, Any] = {}
    for file in sorted((directory / FOLDER).glob(f"{steps[0]}-*.json")) if steps else ():
        evaluation = workdir.read_json(file)
        if not isinstance(evaluation, dict) or not _measures_as(evaluation.get("eval"), wanted):
            continue
        for member, metrics in evaluation.get("results", {}).items():
            evaluated[member] = {**evaluated.get(member, {}), **metrics}
    return evaluated or None


def _measures_as(section: Any, wanted: Mapping[str, Any]) -> bool:
    """Returns whether two sections `eval` measure the same."""
    if not isinstance(section, Mapping):
        return False
    first, second = (
        {name: value for name, value in configs.canonical(part).items() if name not in _WHEN}
        for part in (section, wanted)
    )
    return comparable(first) == comparable(second)


def environment_of(directory: Path) -> dict[str, Any]:
    """Returns what a run stored of its environment; {} where it stored nothing."""
    environment = workdir.read_json(directory / "environment.json")
    if not isinstance(environment, dict):
        return {}
    return unsealed(str(directory / "environment.json"), environment)


def data_set(source: Any) -> str:
    """Returns the name of the data set of a source."""
    return str(source).partition(":")[0]


def measures_of(
    directory: Path, stored: Mapping[str, Any], results: Mapping[str, Any],
    members: Sequence[str], figures: Mapping[str, float],
) -> dict[str, Any]:
    """Returns what a record holds of a run, whatever row it is of.

    Args:
      directory: the working directory.
      stored: the record of the run.
      results: its final metrics by member.
      members: those that are recorded.
      figures: what the paper prints, by measure.
    """
    environment, rows = environment_of(directory), read_rows(directory)
    cost = cost_of(stored, rows, environment, len(results))
    hours = teacher_hours(stored, directory)
    return {
        "data": data_set(stored["config"]["data"]["source"]),
        "runs": [_run(stored, member, results[member], rows, figures) for member in members],
        "cost": cost if hours is None else {**cost, "teacher_device_hours": hours},
        "batch_norm": configs.batch_norm_groups(stored["config"]),
        "hardware": {"device": environment.get("device_kind", ""),
                     "devices": len(environment.get("devices", ())),
                     "processes": environment.get("processes", 1)},
        "precision": stored["config"].get("precision", ""),
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
    chosen = _of_chosen(split, name)
    value = next((metrics[path] for path in (
        *filter(chosen.fullmatch, metrics), f"eval/{split}/{name}", f"eval/{name}", name
    ) if path in metrics), None)
    if not isinstance(value, _NUMBERS):
        return None
    if not in_percent(measure):
        return float(value)
    return 100.0 * (1.0 - value) if as_error else 100.0 * value


def _of_chosen(split: str, name: str) -> re.Pattern[str]:
    """Returns the names of a metric of the branch or network that was chosen."""
    return re.compile(rf"eval/{split}/([^/]+/)?chosen/{re.escape(name)}")


def best_epoch(
    stored: Mapping[str, Any], member: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the best accuracy among the evaluations during a run; {} where there are none.

    Where a branch or network is chosen, its accuracy is that of the one chosen then.

    Returns:
      `{"accuracy", "epoch", "split"}`, in percent; the split is "test" where the run validates on
      its test split, as papers without a validation split do.
    """
    chosen, plain = _of_chosen("validation", "accuracy"), "eval/validation/accuracy"
    accuracies = [
        (row.get(next(filter(chosen.fullmatch, row), plain)), -row["step"]) for row in rows
        if row.get("member", "") == member
    ]
    known = [pair for pair in accuracies if isinstance(pair[0], _NUMBERS)]
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
            cost = cost_of(teacher, read_rows(place), environment_of(place), members)
            theirs = teacher_hours(teacher, place)
            if not cost or theirs is None:
                return None
            hours += cost["device_hours"] + theirs
        if not section.get("checkpoint"):
            return None
    return hours
