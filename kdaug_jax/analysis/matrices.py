"""Draws matrices over pairs of classes: confusions, and divergences from human answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.analysis.plots import new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMES = 25  # of classes that are written beside a matrix


def shares(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of each true class that was answered by each class.

    Args:
      confusion: `[C,C]`, examples by true class and answer.

    Returns:
      `f64[C,C]`; rows add up to 1, or to 0 where a class has no example.
    """
    counts = np.asarray(confusion, np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)


def draw_matrices(
    matrices: Mapping[str, np.ndarray], names: Sequence[str], label: str, *, masked: bool,
    axes_labels: tuple[str, str] = ("answer", "true class"),
) -> Figure:
    """Draws matrices beside each other, on one scale.

    Args:
      matrices: `[C,C]` by title.
      names: of the C classes; () for numbers. Left out of matrices of more than 25 classes.
      label: of the scale.
      masked: whether the diagonal is left out, so that the confusions use the whole scale.
      axes_labels: of columns and of rows.

    Returns:
      The figure.
    """
    columns = min(3, len(matrices))
    figure, axes = new_figure(-(-len(matrices) // columns), columns, (4.2, 3.8))
    values = [np.array(matrix, np.float64) for matrix in matrices.values()]
    if masked:
        for matrix in values:
            np.fill_diagonal(matrix, np.nan)
    finite = np.concatenate([matrix[np.isfinite(matrix)] for matrix in values] or [np.zeros(1)])
    highest = float(finite.max(initial=0.0)) or 1.0
    for axis in axes.flat[len(values):]:
        axis.set_axis_off()
    for axis, title, matrix in zip(axes.flat, matrices, values, strict=False):
        picture = axis.imshow(matrix, cmap="cividis", vmin=min(0.0, finite.min(initial=0.0)),
                              vmax=highest)
        axis.set_facecolor("#dddddd")
        axis.grid(visible=False)
        axis.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
        axis.set_title(plain(title or "run"), fontsize=9)
        if len(matrix) <= MOST_NAMES:
            texts = [plain(name) for name in names] or [str(row) for row in range(len(matrix))]
            axis.set_xticks(range(len(matrix)), texts, rotation=90, fontsize=7)
            axis.set_yticks(range(len(matrix)), texts, fontsize=7)
    figure.colorbar(picture, ax=list(axes.flat[:len(values)]), label=plain(label), shrink=0.8)
    return figure
