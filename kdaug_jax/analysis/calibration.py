"""Draws how far confidence agrees with accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.analysis.plots import COLOURS, new_figure, plain
from kdaug_jax.metrics import Reliability, ece

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_reliability(diagrams: Mapping[str, Reliability]) -> Figure:
    """Draws a reliability diagram for each run, with its expected calibration error.

    Args:
      diagrams: bins by name of the run.

    Returns:
      The figure. Bars are accuracies; hatched bars show how far mean confidence lies above or
      below; the line of perfect calibration is dashed; grey bars below are shares of the examples.

    Source: Guo et al. 2017, Figure 1; Figures 1 and 2 of paper 004 are of this kind.
    """
    columns = min(3, len(diagrams))
    figure, axes = new_figure(-(-len(diagrams) // columns), columns, (3.4, 3.4))
    for axis in axes.flat[len(diagrams):]:
        axis.set_axis_off()
    for axis, (name, bins) in zip(axes.flat, diagrams.items(), strict=False):
        count, right, confidence = (np.asarray(array, np.float64) for array in bins)
        filled = np.maximum(count, 1.0)
        accuracy, confidence = right / filled, confidence / filled
        share = count / max(count.sum(), 1.0)
        error = ece(bins)
        width = 1.0 / len(count)
        middle = (np.arange(len(count)) + 0.5) * width
        axis.bar(middle, accuracy, width, color=COLOURS[0], edgecolor="white", label="accuracy")
        axis.bar(
            middle, confidence - accuracy, width, bottom=accuracy, color="none",
            edgecolor=COLOURS[1], hatch="////", linewidth=0.6, label="gap to confidence",
        )
        axis.bar(middle, -0.15 * share / share.max(initial=1e-9), width, color="#999999",
                 label="share of examples")
        axis.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(-0.17, 1.02), xlabel="confidence", ylabel="accuracy",
                 yticks=np.linspace(0, 1, 6))
        axis.set_title(plain(f"{name or 'run'}\nECE {100 * error:.2f} %"), fontsize=9)
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    return figure
