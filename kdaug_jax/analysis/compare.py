"""Compares finished runs: `python -m kdaug_jax.analysis.compare WORKDIR... --vary=PATH`.

Runs that differ in `--vary` alone are paired by their seeds, so that the variance that they share
cancels. Runs that differ elsewhere, in their data or in their teachers are refused.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from kdaug_jax.data.recorded import data_changes
from kdaug_jax.errors import ArgumentError, ConfigError, UserError, printable, suggest
from kdaug_jax.experiment.config import FREE, flatten
from kdaug_jax.experiment.frozen.places import WORKDIR
from kdaug_jax.experiment.members import members as members_of
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import table, write_lines
from kdaug_jax.runtime.records import read_fields, read_results

# Of the last split that all runs have.
DEFAULT_METRICS = ("accuracy", "nll")
# Settings in which runs of one value may differ: they are repetitions.
SEEDS = ("seed", "data.seed")
# Settings that change no final metric.
WITHOUT_EFFECT = re.compile(r"(log|checkpoint)\..*|mode|eval\.every_epochs|population(\..*)?")
FAILED = "failed"
CHOSEN = "chosen/"


class Run(NamedTuple):
    """A finished run: the settings in which runs differ, by path, and its final metrics."""

    settings: dict[str, Any]
    metrics: dict[str, float]


class Difference(NamedTuple):
    """The mean of paired differences with its 95 % t-interval; NaN bounds for a single pair."""

    mean: float
    low: float
    high: float
    pairs: int


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares paired samples.

    Args:
      first: first value of each pair.
      second: second value of each pair.

    Returns:
      The difference second − first.
    """
    if np.shape(first) != np.shape(second):
        raise ArgumentError(
            f"got {len(first)} and {len(second)} values", "give two values for each pair"
        )
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, float("nan"), float("nan"), count)
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return Difference(mean, mean - float(half), mean + float(half), count)


def read_runs(
    directories: Sequence[Path], vary: str, say: Callable[[str], None] = write_lines
) -> list[Run]:
    """Reads finished runs: one for each working directory, or for each member of a population.

    Args:
      directories: working directories.
      vary: a config path that each run must have.
      say: prints a line about each member that failed, which is left out, and about each run that
        was changed on its way.

    Returns:
      The runs, with their values at `vary` and their seeds.

    Raises:
      ConfigError: a run is not finished, has no setting `vary`, is given twice, or differs from
        the others in more than `vary` and seeds, or in what data and teachers hold.
    """
    configs = []
    records: dict[str, Mapping[str, Any]] = {}
    for directory in directories:
        results = read_results(directory)
        stored = read_fields(directory)
        if results is None or stored is None:
            raise ConfigError(str(directory), "holds no finished run", "train it to its end first")
        records[str(directory)] = stored
        for change in stored.get("changes") or ():
            changed = [str(line) for line in change["changed"]
                       if not _ignored(str(line).partition(":")[0])]
            if changed:
                say(f"warning: {directory}: went on from step {change['step']:,} with other "
                    f"settings ({'; '.join(changed)}), so its results are not those of its last "
                    "ones alone")
        for member, metrics in results.items():
            if fault := metrics.get(FAILED):
                say(f"{directory}: {member} was not finite at step {fault['step']} "
                    f"({fault['where']}): left out")
                continue
            config = {**flatten(stored["config"]), **_overrides(stored, member)}
            if f"{vary}.base" in config:  # of a schedule
                config[vary] = config.pop(f"{vary}.base")
            if vary not in config:
                raise ConfigError(vary, f"is not in {directory}", suggest(vary, config))
            config = {
                name: value for name, value in config.items() if name == vary or not _ignored(name)
            }
            configs.append((f"{directory} {member}".strip(), config, metrics))
    if not configs:
        raise ConfigError("workdir", "no run is left to compare", "name runs that are finished")
    _same_elsewhere(configs, vary)
    _same_inputs(records)
    names = [vary, *(name for name in SEEDS if name != vary)]
    runs = [
        Run({name: config[name] for name in names if name in config}, metrics)
        for _, config, metrics in configs
    ]
    keys = [_key(run.settings) for run in runs]
    for run, key in zip(runs, keys, strict=True):
        if keys.count(key) > 1:
            raise ConfigError("workdir", f"two runs have {run.settings}", "name each run once")
    return runs


def _ignored(path: str) -> bool:
    free = any(fnmatch.fnmatchcase(path, pattern) for pattern in FREE)
    return free or WITHOUT_EFFECT.fullmatch(path) is not None


def _same_elsewhere(
    configs: Sequence[tuple[str, Mapping[str, Any], Any]], vary: str
) -> None:
    """Raises ConfigError for the first run that differs from the first in more than it may."""
    first_name, first, _ = configs[0]
    for name, config, _ in configs[1:]:
        for path in sorted({*first, *config} - {vary, *SEEDS}):
            if _key(first.get(path)) != _key(config.get(path)):
                raise ConfigError(
                    name, f"has {path}={config.get(path)!r}, and {first_name} has "
                    f"{first.get(path)!r}", f"compare runs that differ in {vary} and seeds alone",
                )


def _same_inputs(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ConfigError for the first run whose data or teachers are not those of the first."""
    (first_name, first), *others = records.items()
    for name, stored in others:
        if changed := _changed_data(first, stored) + _changed_teachers(first, stored):
            raise ConfigError(
                name, f"was trained with other inputs than {first_name} ({'; '.join(changed)})",
                "compare runs of the same data and teachers",
            )


def _changed_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns a line for each part of the data that differs though its name is the same."""
    sections = [
        {path: value for path, value in flatten(run["config"].get("data", {})).items()
         if f"data.{path}" not in SEEDS and not _ignored(f"data.{path}")}
        for run in (first, second)
    ]
    if _key(sections[0]) != _key(sections[1]) or not (first.get("data") and second.get("data")):
        return []
    return data_changes(first, second["data"], second.get("contents", {}))


def _changed_teachers(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns a line for each frozen network that differs though its checkpoint is the same."""
    lines = []
    for name, record in first.get("frozen", {}).items():
        places = [run["config"]["networks"].get(name, {}).get("checkpoint")
                  for run in (first, second)]
        other = second.get("frozen", {}).get(name)
        trained = str(places[0]).startswith(WORKDIR)  # by each run for itself
        if trained or not other or _key(places[0]) != _key(places[1]):
            continue
        if other.get("digest") != record.get("digest"):
            lines.append(f"networks.{name}: steps {record.get('steps')} -> {other.get('steps')}, "
                         f"other weights in {places[0]}")
    return lines


def _overrides(stored: Mapping[str, Any], member: str) -> dict[str, Any]:
    """Returns what sets a member of a population apart, by config path."""
    grid = stored["config"].get("population") or ()
    # By name: a resumed run may list the values in another order than the one they are stored in.
    by_name = {known.name: known.overrides for known in members_of(grid)}
    overrides = by_name.get(member)
    if overrides is None:
        parts = (part.split("=", 1) for part in re.split(r",(?=[\w.]+=)", member) if part)
        overrides = {path: _value(text) for path, text in parts}
    config = flatten(stored["config"])
    return {
        path if path in config or f"{path}.base" not in config else f"{path}.base": value
        for path, value in overrides.items()
    }


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _key(value: Any) -> Any:
    """Returns what two settings share if they are of one value: 1 and 1.0, (1, 2) and [1, 2]."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, _key(inner)) for name, inner in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return (isinstance(value, bool), value)


def default_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns accuracy and NLL on the test split, on validation where no run has a test split.

    Those of the chosen BatchNorm branch where all runs have several: the others are of branch 0.

    Args:
      runs: finished runs.

    Raises:
      ConfigError: some runs have a test split, others have none.
    """
    tested = [any(name.startswith("eval/test/") for name in run.metrics) for run in runs]
    if any(tested) and not all(tested):
        raise ConfigError(
            "--metric", f"{tested.count(False)} of {len(runs)} runs have no test split",
            "compare them by --metric=eval/validation/accuracy",
        )
    split = "test" if all(tested) else "validation"
    chosen = all(f"eval/{split}/{CHOSEN}accuracy" in run.metrics for run in runs)
    return tuple(f"eval/{split}/{CHOSEN if chosen else ''}{name}" for name in DEFAULT_METRICS)


def report(runs: Sequence[Run], vary: str, metrics: Sequence[str]) -> str:
    """Returns the comparison as text.

    Args:
      runs: finished runs.
      vary: the config path whose values are compared, the first value with each of the others.
      metrics: names of the metrics to compare.

    Returns:
      A table with mean ± standard deviation for each value, then a line for each paired difference.

    Raises:
      ConfigError: a metric that not all runs have.
    """
    for metric in metrics:
        if any(metric not in run.metrics for run in runs):
            known = set.union(*(set(run.metrics) for run in runs))
            raise ConfigError("--metric", f"'{metric}' is not in all runs", suggest(metric, known))
    groups: dict[Any, dict[Any, Run]] = {}
    shown: dict[Any, str] = {}
    for run in runs:
        rest = _key({path: value for path, value in run.settings.items() if path != vary})
        value = _key(run.settings[vary])
        groups.setdefault(value, {})[rest] = run
        shown.setdefault(value, str(run.settings[vary]))
    rows = [(vary, "runs", *metrics)]
    for value, members in groups.items():
        cells = [_spread(metric, [run.metrics[metric] for run in members.values()])
                 for metric in metrics]
        rows.append((shown[value], str(len(members)), *cells))
    lines = [table(rows)]
    base, *others = groups
    for value in others:
        pair = printable(f"{vary} {shown[value]} against {shown[base]}")
        shared = [rest for rest in groups[base] if rest in groups[value]]
        if not shared:
            lines.append(f"{pair}: no two runs agree in their seeds")
            continue
        for metric in metrics:
            difference = paired(*([groups[which][rest].metrics[metric] for rest in shared]
                                  for which in (base, value)))
            lines.append(f"{metric}, {pair}: {_text(metric, difference)}")
    return "\n".join(lines)


def _unit(metric: str) -> tuple[float, int, str]:
    return (100.0, 2, " %") if metric.endswith("accuracy") else (1.0, 4, "")


def _spread(metric: str, values: Sequence[float]) -> str:
    scale, digits, unit = _unit(metric)
    mean = f"{scale * np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean + unit
    return f"{mean} ± {scale * np.std(values, ddof=1):.{digits}f}{unit}"


def _text(metric: str, difference: Difference) -> str:
    scale, digits, unit = _unit(metric)
    unit = " points" if unit else ""  # a difference of percentages
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in difference[:3])
    if difference.pairs < 2:
        return f"{mean}{unit} (one pair, no interval)"
    resolved = "" if difference.low * difference.high > 0 else "; includes 0, so not resolved"
    return f"{mean}{unit}, 95 % interval {low} to {high} over {difference.pairs} pairs{resolved}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="+", type=Path)
    parser.add_argument("--vary", required=True, action="append",
                        help="config path, such as terms.kd.weight; one")
    parser.add_argument("--metric", action="append", help="metric; by default accuracy and NLL on "
                        "the test split, or on validation where there is none; may be repeated")
    options = parser.parse_args(argv)
    try:
        vary, *more = options.vary
        if more:
            raise ConfigError("--vary", f"is given twice ({vary}, {more[0]})",
                              "compare runs in one setting, and the others equal")
        directories = [workdir.place("workdir", path) for path in options.workdir]
        runs = read_runs(directories, vary, lambda line: print(printable(line)))
        metrics = options.metric or default_metrics(runs)
        text = report(runs, vary, metrics)
        if not options.metric and not metrics[0].startswith("eval/test/"):
            print("these runs have no test split: compared on validation, where choices are made")
        write_lines(*text.split("\n"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    commands.run(main)
