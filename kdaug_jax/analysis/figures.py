"""Draws figures of finished runs: `python -m kdaug_jax.analysis.figures NAME DIR... --to=FILE`.

The file is a PNG or an SVG, as the ending of its name says. `docs/figures.md` shows each figure.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdaug_jax.analysis import bars, calibration, compare, curves, embeddings, matrices, plots
from kdaug_jax.errors import ConfigError, UserError, printable, suggest
from kdaug_jax.evaluation.exported import FOLDER
from kdaug_jax.files import read_npz, reason
from kdaug_jax.metrics import Reliability
from kdaug_jax.runtime import commands, records, workdir
from kdaug_jax.runtime.console import write_lines
from kdaug_jax.runtime.writer import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 3000  # of a t-SNE, which takes a minute then
OVERVIEW = ("accuracy", "nll", "ece", "brier", "f1")


class Kind(NamedTuple):
    """A kind of figure.

    Attributes:
      draw: draws it of the directories, as the options say.
      text: what it shows.
      defaults: of options that are not given.
    """

    draw: Callable[[Sequence[Path], argparse.Namespace], Figure]
    text: str
    defaults: dict[str, str] = {}


def read_curves(
    directories: Sequence[Path], metric: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads a metric over the steps of runs, finished or not.

    Args:
      directories: working directories.
      metric: its name, such as "eval/validation/accuracy" or "train/loss".

    Returns:
      By name of the run, or of the member of a population, steps `i64[n]` and values `f64[n]`.

    Raises:
      ConfigError: a directory holds no run, or its run has no such metric.
    """
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for directory in directories:
        records.read_run(directory)
        rows = read_rows(directory)
        points: dict[str, dict[int, float]] = {}
        for row in rows:
            if isinstance(row.get(metric), int | float):  # a row written again replaces its first
                points.setdefault(row.get("member", ""), {})[row["step"]] = row[metric]
        if not points:
            known = sorted({name for row in rows for name in row} - {"step", "member", "run"})
            raise ConfigError(
                "--metric", f"'{metric}' is not in {directory}", suggest(metric, known)
            )
        for member, values in points.items():
            steps = np.array(sorted(values))
            lines[_name(directory, member, directories)] = (
                steps, np.array([values[step] for step in steps], np.float64)
            )
    return lines


def read_arrays(directories: Sequence[Path], use: str) -> dict[str, dict[str, np.ndarray]]:
    """Reads the arrays that evaluation wrote, the newest of each.

    Args:
      directories: working directories of finished runs.
      use: "validation", "test" or the name of a set.

    Returns:
      By name of the run or member, arrays by name, such as "confusion" or "teacher/confusion";
      "labels" with those of a row for each example.

    Raises:
      ConfigError: a directory holds no run, or a file is damaged.
    """
    runs: dict[str, dict[str, np.ndarray]] = {}
    for directory in directories:
        path, _ = records.read_run(directory)
        evaluated = sorted(
            (path / FOLDER).glob(f"*-{use}.npz"), key=lambda file: _step(file.name)
        )
        for file in (path / "results.npz", *evaluated):
            if not file.exists():
                continue
            try:
                arrays = read_npz(file)
            except Exception as error:  # of any type, see read_npz
                raise ConfigError(
                    str(file), f"cannot be read ({reason(error)})", "run --mode=evaluate again"
                ) from None
            members = [str(name) for name in arrays.pop("members", [""])]
            for key, array in arrays.items():
                number, _, rest = key.partition("/")
                member, name = (int(number), rest) if number.isdigit() and rest else (None, key)
                if name.startswith("eval/"):
                    if not name.startswith(f"eval/{use}/"):
                        continue
                    name = name.removeprefix(f"eval/{use}/")
                for label in members if member is None else members[member:member + 1]:
                    runs.setdefault(_name(directory, label, directories), {})[name] = array
    return runs


def read_reliability(directories: Sequence[Path], use: str) -> dict[str, Reliability]:
    """Reads the bins of reliability diagrams; see `read_arrays`.

    Args:
      directories: working directories of finished runs.
      use: "validation", "test" or the name of a set.

    Returns:
      Bins by name of the run and, where it has several, of the network.

    Raises:
      ConfigError: no run has them.
    """
    counts = _chosen_arrays(directories, use, "reliability_count", "reliability")
    parts = [
        _chosen_arrays(directories, use, f"reliability_{part}", "reliability")
        for part in ("right", "confidence")
    ]
    return {name: Reliability(counts[name], *(part[name] for part in parts))
            for name in counts}


def _chosen_arrays(
    directories: Sequence[Path], use: str, array: str, metric: str
) -> dict[str, np.ndarray]:
    """Returns one array of all runs and networks by name."""
    chosen = {}
    for run, arrays in read_arrays(directories, use).items():
        for name, values in arrays.items():
            network, _, last = name.rpartition("/")
            if last == array:
                chosen[" ".join(filter(None, (run, network)))] = values
    if not chosen:
        raise ConfigError(
            "workdir", f"no run has '{array}' of '{use}'",
            f"evaluate with '{metric}' in eval.metrics, by --mode=evaluate "
            f"--config.eval.metrics=\"('accuracy','nll','{metric}')\"",
        )
    return chosen


def _name(directory: Path, member: str, directories: Sequence[Path]) -> str:
    """Returns the name of a run: its directory, where there are several, and its member."""
    return " ".join(filter(None, (directory.name if len(directories) > 1 else "", member)))


def _step(name: str) -> int:
    number = re.match(r"\d+", name)
    return int(number[0]) if number else -1


def _class_names(directories: Sequence[Path]) -> tuple[str, ...]:
    path, stored = records.read_run(directories[0])
    return records.class_names(path, stored)


def _curves(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    metric = options.metric[0] if options.metric else "eval/validation/accuracy"
    scale, label = _scaled(metric, options.error)
    lines = {name: (steps, scale(values))
             for name, (steps, values) in read_curves(directories, metric).items()}
    return curves.draw_curves(lines, "step", label)


def _scaled(metric: str, error: bool) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Returns how a metric is drawn, accuracies in percent, and its label."""
    if metric.endswith("accuracy"):
        if error:
            label = metric.removesuffix("accuracy") + "error in %"
            return lambda values: 100.0 * (1.0 - values), label
        return lambda values: 100.0 * values, f"{metric} in %"
    if error:
        raise ConfigError("--error", f"'{metric}' is no accuracy", "leave --error out")
    return lambda values: values, metric


def _by_setting(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    if not options.x:
        raise ConfigError("--x", "is missing", "name the config path of the horizontal axis")
    varied = [path for path in (options.x, options.lines, options.panels) if path]
    if len(set(varied)) < len(varied):
        raise ConfigError("--x", "is named twice", "name other paths for --lines and --panels")
    runs = compare.read_runs(directories, varied, lambda line: print(printable(line)))
    metric = options.metric[0] if options.metric else compare.default_metrics(runs)[0]
    compare.grid(runs, varied, [metric])  # refuses a metric that not all runs have
    scale, label = _scaled(metric, options.error)
    panels: dict[str, dict[str, dict[float | str, list[float]]]] = {}
    for run in runs:
        title, line = (
            f"{path.rpartition('.')[2]} = {run.settings[path]}" if path else ""
            for path in (options.panels, options.lines)
        )
        line = " ".join(filter(None, (line, run.elsewhere)))
        x = run.settings[options.x]
        x = x if isinstance(x, int | float) and not isinstance(x, bool) else str(x)
        value = float(scale(np.float64(run.metrics[metric])))
        panels.setdefault(title, {}).setdefault(line, {}).setdefault(x, []).append(value)
    return curves.draw_by_setting(panels, options.x, label)


def _overview(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    results = _results(directories)
    names = options.metric or [
        f"eval/{options.split}/{name}" for name in OVERVIEW
        if all(f"eval/{options.split}/{name}" in metrics for metrics in results.values())
    ]
    names = names or [f"eval/{options.split}/accuracy"]
    panels = {}
    for name in names:
        scale, label = _scaled(name, options.error and name.endswith("accuracy"))
        for run, metrics in results.items():
            if name not in metrics:
                raise ConfigError("--metric", f"'{name}' is not in {run}", suggest(name, metrics))
        panels[label] = {
            run: [float(scale(np.float64(metrics[name])))] for run, metrics in results.items()
        }
    return bars.draw_bars(panels)


def _results(directories: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Returns the final metrics of finished runs by their names, without members that failed."""
    named = {}
    for directory in directories:
        path, _ = records.read_run(directory)
        results = records.read_results(path)
        if results is None:
            raise ConfigError(str(directory), "holds no finished run", "train it to its end first")
        for member, metrics in results.items():
            if compare.FAILED not in metrics:
                named[_name(directory, member, directories) or directory.name] = metrics
    if not named:
        raise ConfigError("workdir", "no run is left to draw", "name runs that are finished")
    return named


def _networks(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    """Draws the accuracy of each network, branch and ensemble, over the runs."""
    groups: dict[str, list[float]] = {}
    pattern = re.compile(rf"eval/{re.escape(options.split)}/(?:(.+)/)?accuracy")
    for metrics in _results(directories).values():
        for name, value in metrics.items():
            if match := pattern.fullmatch(name):
                groups.setdefault(match[1] or "main", []).append(value)
    if not groups:
        raise ConfigError("--split", f"no run has 'eval/{options.split}/accuracy'",
                          "use test or validation")
    scale, label = _scaled(f"eval/{options.split}/accuracy", options.error)
    return bars.draw_bars({label: {
        name: [float(scale(np.float64(value))) for value in values]
        for name, values in groups.items()
    }})


def _reliability(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    return calibration.draw_reliability(read_reliability(directories, options.split))


def _confusion(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    counts = _chosen_arrays(directories, options.split, "confusion", "confusion")
    return matrices.draw_matrices(
        {name: matrices.shares(matrix) for name, matrix in counts.items()},
        _class_names(directories), "share of the true class, without right answers", masked=True,
    )


def _human(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    return matrices.draw_matrices(
        _chosen_arrays(directories, options.split, "human_kl_matrix", "human"),
        _class_names(directories), "KL divergence of mean answers", masked=False,
        axes_labels=("network's mean answer of class", "people's mean answer of class"),
    )


def _tsne(directories: Sequence[Path], options: argparse.Namespace) -> Figure:
    rows = _chosen_arrays(directories, options.split, "embeddings", "embedding")
    labels = _chosen_arrays(directories, options.split, "labels", "embedding")
    points = {}
    for name, features in rows.items():
        label = labels.get(name, labels[min(labels, key=lambda run: not name.startswith(run))])
        if len(features) < 4:
            raise ConfigError("workdir", f"{name or 'the run'} has {len(features)} examples",
                              "evaluate at least 4")
        kept = np.random.default_rng(0).permutation(len(features))[:MOST_POINTS]
        points[name] = embeddings.plane(features[kept]), label[kept]
    return embeddings.draw_planes(points, _class_names(directories))


FIGURES: dict[str, Kind] = {
    "curves": Kind(_curves, "a metric over the steps, a line for each run"),
    "by-setting": Kind(_by_setting, "a final metric over --x, by --lines and --panels"),
    "overview": Kind(_overview, "final metrics as bars, a bar for each run"),
    "ece": Kind(_overview, "expected calibration errors as bars (004)", {"metric": "ece"}),
    "networks": Kind(_networks, "accuracies of networks, branches and ensembles (002 Fig. 3)"),
    "reliability": Kind(_reliability, "reliability diagrams (004)"),
    "confusion": Kind(_confusion, "confusions without right answers (004)"),
    "human": Kind(_human, "divergences from people's mean answers, by class (004)"),
    "tsne": Kind(_tsne, "penultimate features in the plane (004)"),
    "wei2020-magnitude": Kind(
        _by_setting, "accuracy by magnitude with and without distillation (000)",
        {"x": "views.x.wei2020.m", "lines": "terms.kd.weight"},
    ),
    "wei2020-weight": Kind(
        _by_setting, "accuracy by the weight of distillation (000)", {"x": "terms.kd.weight"}
    ),
    "wei2020-k": Kind(_by_setting, "accuracy by the number of classes K (000)",
                      {"x": "terms.kd.k"}),
    "wang2022-epochs": Kind(
        _by_setting, "error by epochs of training, a panel for each view and a line for each "
        "weight of distillation (001 Fig. 1)",
        {"x": "train.epochs", "lines": "terms.kd.weight", "panels": "views.x.ops", "error": "yes"},
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    listed = "\n".join(f"  {name:18} {kind.text}" for name, kind in FIGURES.items())
    parser = commands.Parser(
        prog="figures", description=f"{__doc__.splitlines()[0]}\n\nfigures:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of the figure, see above")
    parser.add_argument("workdir", nargs="+", type=Path)
    parser.add_argument("--to", required=True, help="PNG or SVG file to write")
    parser.add_argument("--metric", action="append",
                        help="for curves, by-setting and overview (may be repeated for the last)")
    parser.add_argument("--split", default="test", help="test, validation or the name of a set")
    parser.add_argument("--x", help="config path of the horizontal axis")
    parser.add_argument("--lines", help="config path that tells lines apart")
    parser.add_argument("--panels", help="config path that tells panels apart")
    parser.add_argument("--error", action="store_true", help="draw 100 % minus the accuracy")
    options = parser.parse_args(argv)
    try:
        if options.name not in FIGURES:
            raise ConfigError(
                "name", f"'{options.name}' is no figure", suggest(options.name, FIGURES)
            )
        kind = FIGURES[options.name]
        for field, value in kind.defaults.items():
            if not getattr(options, field):
                chosen = {"metric": [f"eval/{options.split}/{value}"], "error": True}
                setattr(options, field, chosen.get(field, value))
        to = workdir.place("--to", options.to)
        if to.suffix.lower() not in plots.FORMATS:  # before minutes of t-SNE
            raise ConfigError("--to", f"{to.name} ends in neither .png nor .svg", "choose one")
        directories = [workdir.place("workdir", path) for path in options.workdir]
        if len(set(directories)) < len(directories):
            raise ConfigError("workdir", "names a run twice", "name each once")
        plots.save(kind.draw(directories, options), to)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_lines(f"wrote {to}")
    return 0


if __name__ == "__main__":
    commands.run(main)
