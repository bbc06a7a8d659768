"""Draws arrays as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdaug_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that colour-blind readers tell apart (Okabe and Ito), each with a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


class Panel(NamedTuple):
    """One panel of a plot of repetitions.

    Attributes:
      metric: along the vertical axis.
      setting: along the horizontal axis.
      values: of the setting, as text, in order.
      lines: by label, points of (number of the value, mean, standard deviation).
    """

    metric: str
    setting: str
    values: Sequence[str]
    lines: Mapping[str, Sequence[tuple[int, float, float]]]


def image_grid(
    path: Path,
    titles: Sequence[str],
    images: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
) -> None:
    """Draws a titled row of captioned images for each view.

    Args:
      path: the PNG file to write.
      titles: of each row.
      images: for each row `[N,H,W,3]` in pixel units 0..255, uint8 or float.
      captions: for each row N texts, lines separated by newlines.

    Raises:
      ConfigError: a pipe, a device or a folder lies there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(images[0])
    lines = max(text.count("\n") + 1 for row in captions for text in row)
    height = (1.9 + 0.16 * lines) * len(titles)
    figure = Figure(figsize=(1.6 * columns, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(titles), 1, squeeze=False)[:, 0]
    for row, title, pictures, texts in zip(rows, titles, images, captions, strict=True):
        row.suptitle(_readable(title), fontsize=10)
        axes = row.subplots(1, columns, squeeze=False)[0]
        for axis, picture, text in zip(axes, pictures, texts, strict=True):
            axis.imshow(np.clip(np.asarray(picture, np.float32) / 255.0, 0.0, 1.0))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(_readable(text), fontsize=7)
    _save(figure, path)


def spread_plot(path: Path, panels: Sequence[Panel]) -> None:
    """Draws means with bars of the standard deviation, a panel for each metric.

    Args:
      path: the PNG file to write.
      panels: what to draw.

    Raises:
      ConfigError: a pipe, a device or a folder lies there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (label, points) in enumerate(panel.lines.items()):
            places, means, deviations = zip(*points, strict=True)
            # Side by side, so that bars do not hide each other.
            shift = 0.06 * (number - (len(panel.lines) - 1) / 2)
            axis.errorbar(
                [place + shift for place in places], means, deviations, capsize=3,
                color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
                label=_readable(label) or None,
            )
        axis.set_xticks(range(len(panel.values)), list(map(_readable, panel.values)))
        axis.set_xlabel(_readable(panel.setting))
        axis.set_ylabel(_readable(panel.metric))
        axis.grid(alpha=0.3)
        if any(panel.lines):
            axis.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    if path.exists() and not path.is_file():  # opening a pipe waits for its reader
        raise ConfigError(str(path), "is there and is no file", "delete it")
    figure.savefig(path, format="png")  # whatever its name ends in


def _readable(text: str) -> str:
    """Replaces characters that cannot be drawn, such as bytes of a file name that are not UTF-8."""
    return text.encode(errors="replace").decode()
