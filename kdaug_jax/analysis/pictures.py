"""Draws arrays as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdaug_jax.errors import ConfigError


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
    if path.exists() and not path.is_file():  # opening a pipe waits for its reader
        raise ConfigError(str(path), "is there and is no file", "delete it")
    figure.savefig(path, format="png")  # whatever its name ends in


def _readable(text: str) -> str:
    """Replaces characters that cannot be drawn, such as bytes of a file name that are not UTF-8."""
    return text.encode(errors="replace").decode()
