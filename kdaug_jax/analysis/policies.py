"""Draws what a schedule of policies does over the epochs, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdaug_jax.errors import ConfigError

BAR_EPOCHS = 10  # between two bars of magnitudes


def shares(
    segments: Sequence[tuple[int, Sequence[int]]], ops: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much of each op the epochs of a schedule have.

    Args:
      segments: pairs of (epochs, policy) of whole numbers: probability and magnitude of each op in
        turn, as often as there are copies of the ops.
      ops: how many.

    Returns:
      `f64[epochs,ops]` each: probabilities, the mean over the copies, divided by the largest sum
      over ops of any epoch; magnitudes, the mean over the copies.

    Source: Figs. 3 and 4 of paper 003; `utils.py` of its released code.
    """
    lengths = [length for length, _ in segments]
    pairs = np.array([policy for _, policy in segments], float).reshape(len(lengths), -1, ops, 2)
    probability, magnitude = np.moveaxis(np.repeat(pairs.mean(1), lengths, axis=0), -1, 0)
    return probability / max(probability.sum(1).max(), 1e-9), magnitude


def draw_schedule(
    segments: Sequence[tuple[int, Sequence[int]]], names: Sequence[str], path: Path
) -> None:
    """Draws probabilities, stacked over epochs, and magnitudes, as stacked bars.

    Args:
      segments: see `shares`.
      names: of the ops.
      path: the PNG file to write.

    Raises:
      ConfigError: a pipe, a device or a folder lies there.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probability, magnitude = shares(segments, len(names))
    epochs, colours = len(probability), colormaps["tab20"](np.arange(len(names)) % 20)
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    edges = np.append(np.repeat(np.arange(epochs), 2)[1:], epochs)  # steps, not slopes
    left.stackplot(edges, np.repeat(probability, 2, axis=0).T, labels=names, colors=colours)
    left.set(xlabel="epoch", ylabel="share of probability", xlim=(0, epochs), ylim=(0, 1))
    places = np.arange(0, epochs, BAR_EPOCHS)
    base = np.zeros(len(places))
    for number, name in enumerate(names):
        height = magnitude[places, number]
        right.bar(places, height, 0.8 * BAR_EPOCHS, base, label=name, color=colours[number])
        base += height
    right.set(xlabel="epoch", ylabel="magnitude")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    if path.exists() and not path.is_file():  # opening a pipe waits for its reader
        raise ConfigError(str(path), "is there and is no file", "delete it")
    figure.savefig(path, format="png")
