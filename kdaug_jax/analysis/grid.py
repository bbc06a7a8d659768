"""Means of repeated runs and paired differences between them, as a grid of settings."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from kdaug_jax.errors import ArgumentError

LEGEND = ("± is the standard deviation over runs (n − 1); intervals are 95 % t-intervals of the "
          "differences of runs paired by their seeds")


class Difference(NamedTuple):
    """The mean of paired differences with its 95 % t-interval; NaN bounds for a single pair."""

    mean: float
    low: float
    high: float
    pairs: int


class GridCell(NamedTuple):
    """Runs that are repetitions of each other.

    Attributes:
      row: what they have in common beside the compared setting: a label of what else they differ
        in from the first run ("" for nothing), then the values of the further varied settings.
      value: of the compared setting.
      metrics: by metric, by repetition (a key of the seeds).
    """

    row: tuple[str, ...]
    value: str
    metrics: Mapping[str, Mapping[Any, float]]


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


def difference(base: GridCell, cell: GridCell, metric: str) -> Difference | None:
    """Returns the paired difference of two cells; None where no two runs agree in their seeds."""
    first, second = base.metrics[metric], cell.metrics[metric]
    shared = [seeds for seeds in first if seeds in second]
    if not shared:
        return None
    return paired([first[seeds] for seeds in shared], [second[seeds] for seeds in shared])


def base_of(cells: Sequence[GridCell], cell: GridCell) -> GridCell:
    """Returns the cell that another one is compared with: the first of its row."""
    return next(other for other in cells if other.row == cell.row)


def spread(metric: str, values: Sequence[float]) -> str:
    """Returns the mean and the standard deviation of a metric as text."""
    scale, digits, unit = _unit(metric)
    mean = f"{scale * np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean + unit
    return f"{mean} ± {scale * np.std(values, ddof=1):.{digits}f}{unit}"


def describe(metric: str, change: Difference) -> str:
    """Returns a difference as text: "+2.00 points, 95 % interval +1.00 to +3.00 over 3 pairs"."""
    scale, digits, unit = _unit(metric)
    unit = " points" if unit else ""  # a difference of percentages
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in change[:3])
    if change.pairs < 2:
        return f"{mean}{unit} (one pair, no interval)"
    resolved = "" if change.low * change.high > 0 else "; includes 0, so not resolved"
    return f"{mean}{unit}, 95 % interval {low} to {high} over {change.pairs} pairs{resolved}"


def _unit(metric: str) -> tuple[float, int, str]:
    return (100.0, 2, " %") if metric.endswith("accuracy") else (1.0, 4, "")


def grid_table(
    cells: Sequence[GridCell], headings: Sequence[str], metric: str
) -> list[tuple[str, ...]]:
    """Returns the rows of a table with a column for each value of the compared setting.

    Args:
      cells: of the grid.
      headings: of what `GridCell.row` holds.
      metric: whose means stand in the table, with the interval of the paired difference from the
        first cell of the row.
    """
    values = list(dict.fromkeys(cell.value for cell in cells))
    rows = [(*headings, *values)]
    for row in dict.fromkeys(cell.row for cell in cells):
        texts = {cell.value: _cell_text(cells, cell, metric) for cell in cells if cell.row == row}
        rows.append((*row, *(texts.get(value, "-") for value in values)))
    return rows


def _cell_text(cells: Sequence[GridCell], cell: GridCell, metric: str) -> str:
    text = spread(metric, list(cell.metrics[metric].values()))
    base = base_of(cells, cell)
    change = None if base is cell else difference(base, cell, metric)
    if change is None:
        return text if base is cell else f"{text} (no pair)"
    scale, digits, _ = _unit(metric)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in change[:3])
    bounds = f" [{low}, {high}]" if change.pairs > 1 else ""
    return f"{text} ({mean}{bounds}, {change.pairs} pair{'s' * (change.pairs > 1)})"


def grid_csv(
    cells: Sequence[GridCell], headings: Sequence[str], vary: str, metrics: Sequence[str]
) -> str:
    """Returns the grid as CSV, a line for each cell and metric, in the units of the metrics.

    Args:
      cells: of the grid.
      headings: of what `GridCell.row` holds.
      vary: path of the compared setting.
      metrics: names of the metrics.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*headings, vary, "metric", "runs", "mean", "standard_deviation",
                     "compared_with", "difference", "low", "high", "pairs"))
    for cell in cells:
        base = base_of(cells, cell)
        for metric in metrics:
            values = list(cell.metrics[metric].values())
            deviation = f"{np.std(values, ddof=1):.8g}" if len(values) > 1 else ""
            change = None if base is cell else difference(base, cell, metric)
            compared = ("", "", "", "", "") if change is None else (base.value, *(
                "" if np.isnan(value) else f"{value:.8g}" for value in change
            ))
            writer.writerow((*cell.row, cell.value, metric, len(values), f"{np.mean(values):.8g}",
                             deviation, *compared))
    return text.getvalue()
