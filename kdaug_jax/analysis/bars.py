"""Draws final metrics as bars: of runs, or of the networks and branches of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.analysis.plots import COLOURS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_bars(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws a panel for each metric and a bar for each group of repetitions.

    Args:
      metrics: by label of the metric, repetitions by name of the group.

    Returns:
      The figure. A line on a bar is the standard deviation of its repetitions, the number behind
      it their mean; axes begin at 0, except those of negative values.
    """
    longest = max(len(groups) for groups in metrics.values())
    figure, axes = new_figure(1, len(metrics), (3.6, 0.8 + 0.34 * max(longest, 2)))
    for axis, (label, groups) in zip(axes[0], metrics.items(), strict=True):
        means = [float(np.mean(values)) for values in groups.values()]
        deviations = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                   for values in groups.values()]
        places = np.arange(len(groups))
        colours = [COLOURS[number % len(COLOURS)] for number in places]
        axis.barh(places, means, xerr=deviations, color=colours, height=0.7, capsize=2)
        for place, mean, deviation in zip(places, means, deviations, strict=True):
            axis.annotate(
                f"{mean:.4g}", (max(mean, 0.0) + deviation, place), (3, 0),
                textcoords="offset points", va="center", fontsize=8,
            )
        shown = axis is axes[0, 0]
        names = [plain(name or "run") if shown else "" for name in groups]
        axis.set_yticks(places, names, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.18)
        axis.set_xlabel(plain(label))
        axis.grid(visible=False, axis="y")
    return figure
