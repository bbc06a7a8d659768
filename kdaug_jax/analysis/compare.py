"""Compares finished runs: `python -m kdaug_jax.analysis.compare WORKDIR... --vary=PATH`.

Runs that differ in `--vary` and agree in everything else that varies (such as the seed) are
paired, so that what they share does not count as spread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from kdaug_jax.errors import ConfigError, UserError, near
from kdaug_jax.runtime.workdir import read_json
from kdaug_jax.runtime.writer import table

DEFAULT_METRICS = ("eval/test/accuracy", "eval/test/nll")


class Run(NamedTuple):
    """A finished run: where it varies (config path to value, as text) and its final metrics."""

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
      first: one value a pair.
      second: the other value of each pair.

    Returns:
      The difference second − first.
    """
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return Difference(mean, float("nan"), float("nan"), count)
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return Difference(mean, mean - float(half), mean + float(half), count)


def read_runs(directory: Path, vary: str) -> list[Run]:
    """Reads the finished runs of a working directory, one for each member of a population.

    Raises:
      ConfigError: the run is not finished, or has no setting `vary`.
    """
    results = read_json(directory / "results.json")
    stored = read_json(directory / "config.json")
    if results is None or stored is None:
        raise ConfigError(str(directory), "holds no finished run", "let it run to its end first")
    runs = []
    for member, metrics in results.items():
        settings = dict(part.split("=", 1) for part in member.split(",") if part)
        if vary not in settings:
            settings[vary] = str(_at(stored["config"], vary))
        runs.append(Run(settings, metrics))
    return runs


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            known = value if isinstance(value, Mapping) else ()
            raise ConfigError(path, "is in no run", near(name, known))
        value = value[name]
    return value


def report(runs: Sequence[Run], vary: str, metrics: Sequence[str]) -> str:
    """Writes the comparison as text.

    Args:
      runs: finished runs.
      vary: the config path whose values are compared, the first value with each other one.
      metrics: what is compared.

    Returns:
      A table with mean ± standard deviation a value, then one line a paired difference.

    Raises:
      ConfigError: a metric that no run has.
    """
    for metric in metrics:
        if any(metric not in run.metrics for run in runs):
            known = set.union(*(set(run.metrics) for run in runs))
            raise ConfigError("--metric", f"'{metric}' is not in all runs", near(metric, known))
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
        for metric in metrics:
            found = paired(*([groups[which][rest].metrics[metric] for rest in shared]
                             for which in (base, value)))
            lines.append(f"{metric}, {vary} {value} against {base}: {_said(metric, found)}")
    return "\n".join(lines)


def _unit(metric: str) -> tuple[float, int, str]:
    return (100.0, 2, " %") if metric.endswith("accuracy") else (1.0, 4, "")


def _spread(metric: str, values: Sequence[float]) -> str:
    scale, digits, unit = _unit(metric)
    mean = f"{scale * np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean + unit
    return f"{mean} ± {scale * np.std(values, ddof=1):.{digits}f}{unit}"


def _said(metric: str, found: Difference) -> str:
    scale, digits, unit = _unit(metric)
    unit = " points" if unit else ""  # a difference of percentages
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in found[:3])
    if found.pairs < 2:
        return f"{mean}{unit} (one pair, no interval)"
    resolved = "" if found.low * found.high > 0 else "; includes 0, so not resolved"
    return f"{mean}{unit}, 95 % interval {low} to {high} over {found.pairs} pairs{resolved}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="+", type=Path)
    parser.add_argument("--vary", required=True, help="config path, such as terms.kd.weight")
    parser.add_argument("--metric", action="append", help="metric, may be repeated")
    options = parser.parse_args(argv)
    try:
        runs = [run for path in options.workdir for run in read_runs(path, options.vary)]
        print(report(runs, options.vary, options.metric or DEFAULT_METRICS))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
