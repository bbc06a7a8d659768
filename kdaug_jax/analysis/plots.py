"""What all figures share: colours that colour-blind people tell apart, and PNG or SVG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdaug_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design", without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines differ in their markers too, for printers without colours.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = (".png", ".svg")


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (4.8, 3.4)
) -> tuple[Figure, np.ndarray]:
    """Returns a figure that belongs to no window, and its axes.

    Args:
      rows: of panels, at least 1.
      columns: of panels, at least 1.
      size: width and height of a panel in inches.

    Returns:
      The figure and its axes, objects `[rows,columns]`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=(columns * width, rows * height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def style(number: int) -> dict[str, str]:
    """Returns colour and marker of a line by its number; they repeat after seven."""
    return {
        "color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]
    }


def plain(text: str) -> str:
    """Returns a text as it is drawn: without mathematics, and without bytes that are no UTF-8."""
    return text.encode(errors="replace").decode().replace("$", r"\$")


def legend(axis: Axes, title: str = "") -> None:
    """Writes the names of the lines, unless there is one line that needs no name."""
    if len(axis.get_legend_handles_labels()[1]) > 1 or title:
        axis.legend(frameon=False, fontsize=8, title=plain(title) or None, title_fontsize=8)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG or SVG, as the ending of its name says.

    Args:
      figure: see `new_figure`.
      path: the file, whose name ends in .png or .svg.

    Raises:
      ConfigError: another ending, or the file cannot be written.
    """
    import matplotlib

    if path.suffix.lower() not in FORMATS:
        raise ConfigError("--to", f"{path.name} ends in neither .png nor .svg", "choose one")
    if path.exists() and not path.is_file():  # opening a pipe waits for its reader
        raise ConfigError("--to", f"{path} is there and is no file", "name another file")
    # Without a date and with a fixed salt, the same runs make the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "kdaug_jax"}):
            figure.savefig(path, format=path.suffix[1:].lower(), metadata=metadata)
    except OSError as error:
        raise ConfigError(
            "--to", f"{path} cannot be written ({error.strerror})",
            "name a file in a folder that exists",
        ) from None
