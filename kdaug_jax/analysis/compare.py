"""Compares finished runs: `python -m kdaug_jax.analysis.compare WORKDIR... --vary=PATH`.

Runs that differ in `--vary` alone are paired by their seeds, so that the variance that they share
cancels. Of several `--vary` the values of the first are compared, in each combination of the
others. Runs that differ elsewhere are never pooled: they stand in rows of their own. Runs whose
data or teachers hold something else under the same name are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.analysis.grid import (
    LEGEND,
    Difference,
    GridCell,
    base_of,
    describe,
    difference,
    grid_csv,
    grid_table,
    paired,
    spread,
)
from kdaug_jax.analysis.pictures import Panel, spread_plot
from kdaug_jax.errors import ConfigError, UserError, printable, suggest
from kdaug_jax.evaluation.finished import (
    SEEDS,
    comparable,
    followers,
    input_changes,
    is_without_effect,
    settings_of,
)
from kdaug_jax.runtime import commands, workdir
from kdaug_jax.runtime.console import table, write_lines
from kdaug_jax.runtime.records import read_fields, read_results
from kdaug_jax.runtime.workdir import write_whole

__all__ = ["Difference", "Run", "default_metrics", "grid", "main", "paired", "read_runs", "report"]

# Of the last split that all runs have.
DEFAULT_METRICS = ("accuracy", "nll")
FAILED = "failed"
CHOSEN = "chosen/"
ELSEWHERE = "elsewhere"


class Run(NamedTuple):
    """A finished run.

    Attributes:
      settings: its varied settings and its seeds, by path.
      metrics: its final metrics.
      elsewhere: in what else it differs from the first run, "" for nothing.
    """

    settings: dict[str, Any]
    metrics: dict[str, float]
    elsewhere: str = ""


def read_runs(
    directories: Sequence[Path], vary: str | Sequence[str],
    say: Callable[[str], None] = write_lines,
) -> list[Run]:
    """Reads finished runs: one for each working directory, or for each member of a population.

    Args:
      directories: working directories.
      vary: a config path that each run must have, or several.
      say: prints a line about each member that failed, which is left out, about each run that was
        changed on its way, and about each that differs elsewhere.

    Returns:
      The runs, with their values at `vary` and their seeds.

    Raises:
      ConfigError: a run is not finished, has no setting `vary`, is given twice, or differs from
        the others in what its data or teachers hold.
    """
    varied = (vary,) if isinstance(vary, str) else tuple(vary)
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
                       if not is_without_effect(str(line).partition(":")[0])]
            if changed:
                say(f"warning: {directory}: went on from step {change['step']:,} with other "
                    f"settings ({'; '.join(changed)}), so its results are not those of its last "
                    "ones alone")
        for member, metrics in results.items():
            if fault := metrics.get(FAILED):
                say(f"{directory}: {member} was not finite at step {fault['step']} "
                    f"({fault['where']}): left out")
                continue
            settings = settings_of(stored, member)
            for path in followers(stored).difference(varied):
                settings.pop(path, None)
            config = _varied(settings, varied, directory)
            configs.append((f"{directory} {member}".strip(), config, metrics))
    if not configs:
        raise ConfigError("workdir", "no run is left to compare", "name runs that are finished")
    _same_inputs(records)
    others = _elsewhere(configs, varied, say)
    names = [*varied, *(name for name in SEEDS if name not in varied)]
    runs = [
        Run({name: config[name] for name in names if name in config}, metrics, elsewhere)
        for (_, config, metrics), elsewhere in zip(configs, others, strict=True)
    ]
    keys = [(run.elsewhere, comparable(run.settings)) for run in runs]
    for run, key in zip(runs, keys, strict=True):
        if keys.count(key) > 1:
            raise ConfigError("workdir", f"two runs have {run.settings}", "name each run once")
    return runs


def _varied(
    config: dict[str, Any], varied: Sequence[str], directory: Path
) -> dict[str, Any]:
    """Returns the settings that matter, with the varied ones at their own paths."""
    for path in varied:
        if f"{path}.base" in config:  # of a schedule
            config[path] = config.pop(f"{path}.base")
        if path not in config:
            raise ConfigError(path, f"is not in {directory}", suggest(path, config))
    return {
        name: value for name, value in config.items()
        if name in varied or not is_without_effect(name)
    }


def _elsewhere(
    configs: Sequence[tuple[str, Mapping[str, Any], Any]], varied: Sequence[str],
    say: Callable[[str], None],
) -> list[str]:
    """Returns for each run in what else than seeds and varied settings it differs from the first.

    Of a schedule whose base is varied nothing else is left out: its other times must agree.
    """
    first_name, first, _ = configs[0]
    texts, told = [], set()
    for name, config, _ in configs:
        paths = [
            path for path in sorted({*first, *config} - {*varied, *SEEDS})
            if comparable(first.get(path)) != comparable(config.get(path))
        ]
        text = ", ".join(f"{path}={config.get(path)!r}" for path in paths)
        if text and text not in told:
            told.add(text)
            instead = ", ".join(f"{path}={first.get(path)!r}" for path in paths)
            say(f"warning: {name} has {text}, and {first_name} has {instead}: runs that differ "
                f"there stand in rows of their own; --vary={paths[0]} compares them")
        texts.append(text)
    return texts


def _same_inputs(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ConfigError for the first run whose data or teachers are not those of the first."""
    (first_name, first), *others = records.items()
    for name, stored in others:
        if changed := input_changes(first, stored):
            raise ConfigError(
                name, f"was trained with other inputs than {first_name} ({'; '.join(changed)})",
                "compare runs of the same data and teachers",
            )


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


def grid(runs: Sequence[Run], vary: Sequence[str], metrics: Sequence[str]) -> list[GridCell]:
    """Returns the runs as cells of a grid, each of repetitions.

    Args:
      runs: finished runs.
      vary: config paths; the values of the first are compared, in each combination of the others.
      metrics: names of the metrics.

    Raises:
      ConfigError: a metric that not all runs have.
    """
    for metric in metrics:
        if any(metric not in run.metrics for run in runs):
            known = set.union(*(set(run.metrics) for run in runs))
            raise ConfigError("--metric", f"'{metric}' is not in all runs", suggest(metric, known))
    first, *others = vary
    cells: dict[Any, GridCell] = {}
    for run in runs:
        seeds = comparable({
            path: value for path, value in run.settings.items() if path not in vary
        })
        row = (run.elsewhere, *(str(run.settings[path]) for path in others))
        values = comparable([run.settings[path] for path in vary])
        cell = cells.setdefault(
            (run.elsewhere, values),
            GridCell(row, str(run.settings[first]), {metric: {} for metric in metrics}),
        )
        for metric in metrics:
            cell.metrics[metric][seeds] = run.metrics[metric]
    return list(cells.values())


def report(
    runs: Sequence[Run], vary: str | Sequence[str], metrics: Sequence[str]
) -> str:
    """Returns the comparison as text.

    Args:
      runs: finished runs.
      vary: the config path whose values are compared, the first value with each of the others; of
        several paths those of the first, in each combination of the others.
      metrics: names of the metrics to compare.

    Returns:
      For one path a table with mean ± standard deviation for each value, then a line for each
      paired difference; for several a grid for each metric.

    Raises:
      ConfigError: a metric that not all runs have.
    """
    varied = (vary,) if isinstance(vary, str) else tuple(vary)
    cells = grid(runs, varied, metrics)
    apart = any(cell.row[0] for cell in cells)  # whether some differ elsewhere
    if not apart:
        cells = [cell._replace(row=cell.row[1:]) for cell in cells]
    headings = (*((ELSEWHERE,) if apart else ()), *varied[1:])
    if len(varied) > 1:
        parts = [
            f"{metric} by {varied[0]}, in brackets the difference from the first of the row\n"
            + table(grid_table(cells, headings, metric)) for metric in metrics
        ]
        return "\n".join([*parts, LEGEND])
    rows = [(*headings, varied[0], "runs", *metrics)]
    for cell in cells:
        texts = [spread(metric, list(cell.metrics[metric].values())) for metric in metrics]
        rows.append((*cell.row, cell.value, str(len(cell.metrics[metrics[0]])), *texts))
    return "\n".join([table(rows), *_differences(cells, varied[0], metrics), LEGEND])


def _differences(
    cells: Sequence[GridCell], vary: str, metrics: Sequence[str]
) -> list[str]:
    """Returns a line for each metric of each cell that is not the first of its row."""
    lines = []
    for cell in cells:
        base = base_of(cells, cell)
        if base is cell:
            continue
        where = "".join(f" ({text})" for text in cell.row if text)
        pair = printable(f"{vary} {cell.value} against {base.value}{where}")
        for metric in metrics:
            change = difference(base, cell, metric)
            if change is None:
                lines.append(f"{pair}: no two runs agree in their seeds")
                break
            lines.append(f"{metric}, {pair}: {describe(metric, change)}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="+", type=Path)
    parser.add_argument("--vary", required=True, action="append",
                        help="config path, such as terms.kd.weight; repeated for a grid")
    parser.add_argument("--metric", action="append", help="metric; by default accuracy and NLL on "
                        "the test split, or on validation where there is none; may be repeated")
    parser.add_argument("--to", help="CSV file to write as well, a line for each cell and metric")
    parser.add_argument("--plot", help="PNG file to draw as well: means and standard deviations, a "
                        "panel for each metric")
    options = parser.parse_args(argv)
    try:
        varied = tuple(options.vary)
        if len(set(varied)) < len(varied):
            raise ConfigError("--vary", "names a path twice", "name each once")
        directories = [workdir.place("workdir", path) for path in options.workdir]
        runs = read_runs(directories, varied, lambda line: print(printable(line)))
        metrics = options.metric or default_metrics(runs)
        text = report(runs, varied, metrics)
        if not options.metric and not metrics[0].startswith("eval/test/"):
            print("these runs have no test split: compared on validation, where choices are made")
        write_lines(*text.split("\n"))
        if options.to:
            _write_csv(options.to, runs, varied, metrics)
        if options.plot:
            _draw(options.plot, runs, varied, metrics)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def panels(runs: Sequence[Run], vary: Sequence[str], metrics: Sequence[str]) -> list[Panel]:
    """Returns what a plot shows: for each metric and row of the grid means and deviations.

    Args:
      runs: finished runs.
      vary: config paths; the values of the first lie along the axis.
      metrics: names of the metrics.
    """
    cells = grid(runs, vary, metrics)
    values = list(dict.fromkeys(cell.value for cell in cells))
    lines: dict[str, list[GridCell]] = {}
    for cell in cells:
        labels = [cell.row[0], *map("=".join, zip(vary[1:], cell.row[1:], strict=True))]
        lines.setdefault(", ".join(filter(None, labels)), []).append(cell)
    return [
        Panel(metric, vary[0], values, {
            label: [
                (values.index(cell.value), *_moments(list(cell.metrics[metric].values())))
                for cell in of_row
            ]
            for label, of_row in lines.items()
        })
        for metric in metrics
    ]


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and standard deviation (n - 1) of repetitions, 0 of a single one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _draw(to: str, runs: Sequence[Run], vary: Sequence[str], metrics: Sequence[str]) -> None:
    file = workdir.place("--plot", to)
    try:
        spread_plot(file, panels(runs, vary, metrics))
    except OSError as error:
        raise ConfigError("--plot", f"{file} cannot be written ({error.strerror})",
                          "name a file in a folder that exists") from None
    write_lines(f"wrote {file}")


def _write_csv(
    to: str, runs: Sequence[Run], vary: Sequence[str], metrics: Sequence[str]
) -> None:
    file = workdir.place("--to", to)
    headings = (ELSEWHERE, *vary[1:])
    try:
        write_whole(file, grid_csv(grid(runs, vary, metrics), headings, vary[0], metrics))
    except OSError as error:
        raise ConfigError("--to", f"{file} cannot be written ({error.strerror})",
                          "name a file in a folder that exists") from None
    write_lines(f"wrote {file}")


if __name__ == "__main__":
    commands.run(main)
