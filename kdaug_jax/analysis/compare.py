"""Compares finished runs: `python -m kdaug_jax.analysis.compare WORKDIR... --vary=PATH`.

Runs that differ in `--vary` and agree in all other settings (such as the seed) are paired, so that
the variance that they share cancels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from kdaug_jax.errors import ConfigError, UserError, suggest
from kdaug_jax.experiment.config import flatten
from kdaug_jax.runtime.console import table
from kdaug_jax.runtime.workdir import read_json, read_results

# Of the last split that all runs have.
DEFAULT_METRICS = ("accuracy", "nll")


class Run(NamedTuple):
    """A finished run: the settings in which runs differ, as text by path, and its final metrics."""

    settings: dict[str, str]
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
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, float("nan"), float("nan"), count)
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return Difference(mean, mean - float(half), mean + float(half), count)


def read_runs(directories: Sequence[Path], vary: str) -> list[Run]:
    """Reads finished runs: one for each working directory, or for each member of a population.

    Args:
      directories: working directories.
      vary: a config path that each run must have.

    Returns:
      The runs, with the settings of the paths in which any two of them differ.

    Raises:
      ConfigError: a run is not finished, has no setting `vary`, or is given twice.
    """
    configs = []
    for directory in directories:
        results = read_results(directory)
        stored = read_json(directory / "config.json")
        if results is None or stored is None:
            raise ConfigError(str(directory), "holds no finished run", "train it to its end first")
        for member, metrics in results.items():
            config = {path: str(value) for path, value in flatten(stored["config"]).items()}
            config.pop("population", None)
            config |= dict(part.split("=", 1) for part in member.split(",") if part)
            if vary not in config:
                raise ConfigError(vary, f"is not in {directory}", suggest(vary, config))
            configs.append((config, metrics))
    paths = sorted(set.union(*(set(config) for config, _ in configs)))
    differing = [path for path in paths if len({config.get(path) for config, _ in configs}) > 1]
    runs = [
        Run({path: config.get(path, "") for path in {*differing, vary}}, metrics)
        for config, metrics in configs
    ]
    keys = [tuple(sorted(run.settings.items())) for run in runs]
    for run, key in zip(runs, keys, strict=True):
        if keys.count(key) > 1:
            raise ConfigError("workdir", f"two runs have {run.settings}", "name each run once")
    return runs


def default_metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns accuracy and NLL on the test split, on validation where no run has a test split.

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
    return tuple(f"eval/{split}/{name}" for name in DEFAULT_METRICS)


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
    groups: dict[str, dict[tuple, Run]] = {}
    for run in runs:
        rest = tuple(sorted((k, v) for k, v in run.settings.items() if k != vary))
        groups.setdefault(run.settings[vary], {})[rest] = run
    rows = [(vary, "runs", *metrics)]
    for value, members in groups.items():
        cells = [_spread(metric, [run.metrics[metric] for run in members.values()])
                 for metric in metrics]
        rows.append((value, str(len(members)), *cells))
    lines = [table(rows)]
    base, *others = groups
    for value in others:
        shared = [rest for rest in groups[base] if rest in groups[value]]
        if not shared:
            lines.append(
                f"{vary} {value} against {base}: no two runs agree in all other settings"
            )
            continue
        for metric in metrics:
            difference = paired(*([groups[which][rest].metrics[metric] for rest in shared]
                                  for which in (base, value)))
            lines.append(f"{metric}, {vary} {value} against {base}: {_text(metric, difference)}")
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
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="+", type=Path)
    parser.add_argument("--vary", required=True, help="config path, such as terms.kd.weight")
    parser.add_argument("--metric", action="append", help="metric; by default accuracy and NLL on "
                        "the test split, or on validation where there is none; may be repeated")
    options = parser.parse_args(argv)
    try:
        runs = read_runs(options.workdir, options.vary)
        metrics = options.metric or default_metrics(runs)
        text = report(runs, options.vary, metrics)
        if not options.metric and not metrics[0].startswith("eval/test/"):
            print("these runs have no test split: compared on validation, where choices are made")
        print(text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
