"""Draws features in the plane, by t-SNE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.analysis.plots import COLOURS, MARKERS, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERPLEXITY = 30.0  # the default of scikit-learn; less for few points


def plane(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns points of a plane whose neighbours are those of the features.

    Args:
      features: `f[N,D]`, N at least 3.
      seed: of the optimisation.

    Returns:
      `f32[N,2]`.

    Source: van der Maaten and Hinton 2008, by scikit-learn.
    """
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    embedding = TSNE(
        2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed,
    )
    return embedding.fit_transform(np.asarray(features, np.float32))


def draw_planes(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Sequence[str]
) -> Figure:
    """Draws points by class.

    Args:
      points: by title, points `[N,2]` and class numbers `i[N]`.
      names: of the classes; () for numbers.

    Returns:
      The figure. Classes differ in colour and, beyond seven, in their marker.
    """
    columns = min(3, len(points))
    figure, axes = new_figure(-(-len(points) // columns), columns, (4.0, 4.0))
    for axis in axes.flat[len(points):]:
        axis.set_axis_off()
    for axis, (title, (place, label)) in zip(axes.flat, points.items(), strict=False):
        for number in np.unique(label).tolist():
            rows = place[label == number]
            axis.scatter(
                rows[:, 0], rows[:, 1], s=10, linewidths=0,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
                label=plain(names[number]) if names else str(number),
            )
        axis.set(xticks=[], yticks=[])
        axis.set_title(plain(title or "run"), fontsize=9)
        if len(np.unique(label)) <= 2 * len(COLOURS):
            axis.legend(frameon=False, fontsize=6, markerscale=1.5, ncols=2)
    return figure
