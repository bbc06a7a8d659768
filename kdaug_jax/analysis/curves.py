"""Draws metrics over time, and final metrics over a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.analysis.plots import legend, new_figure, plain, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str, y: str
) -> Figure:
    """Draws one line for each run.

    Args:
      lines: by name, the steps or epochs `[n]` and the values `[n]`.
      x: label of the first.
      y: label of the second.

    Returns:
      The figure.
    """
    figure, axes = new_figure()
    axis = axes[0, 0]
    for number, (name, (times, values)) in enumerate(lines.items()):
        few = len(times) <= 30  # more markers would hide the line
        drawn = style(number) if few else {"color": style(number)["color"]}
        axis.plot(times, values, label=plain(name or "run"), markersize=4, linewidth=1.4, **drawn)
    axis.set(xlabel=plain(x), ylabel=plain(y))
    legend(axis)
    return figure


def draw_by_setting(
    panels: Mapping[str, Mapping[str, Mapping[float | str, Sequence[float]]]],
    x: str, y: str, line_title: str = "",
) -> Figure:
    """Draws mean and standard deviation of repetitions over a setting.

    Args:
      panels: by title, lines by name, repetitions by value of the setting. Values that are no
        numbers are drawn at equal distances.
      x: label of the setting.
      y: label of the values.
      line_title: of the legend; "" for none.

    Returns:
      The figure, with up to two panels beside each other, whose axes agree.
    """
    columns = min(2, len(panels))
    figure, axes = new_figure(-(-len(panels) // columns), columns)
    names = list(dict.fromkeys(
        value for lines in panels.values() for line in lines.values() for value in line
    ))
    numeric = all(isinstance(value, int | float) for value in names)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        if axis is not axes[0, 0]:
            axis.sharey(axes[0, 0])
        for number, (name, line) in enumerate(lines.items()):
            values = sorted(line) if numeric else [value for value in names if value in line]
            places = values if numeric else [names.index(value) for value in values]
            means = [np.mean(line[value]) for value in values]
            spread = [np.std(line[value], ddof=1) if len(line[value]) > 1 else 0.0
                      for value in values]
            axis.errorbar(
                places, means, spread, label=plain(name), capsize=3, markersize=5, linewidth=1.4,
                **style(number),
            )
        if not numeric:
            axis.set_xticks(range(len(names)), [plain(str(name)) for name in names], fontsize=8)
        elif len(names) <= 12:
            axis.set_xticks(sorted(names))
        axis.set(xlabel=plain(x), ylabel=plain(y), title=plain(title))
        axis.title.set_fontsize(9)
        legend(axis, line_title)
    return figure
