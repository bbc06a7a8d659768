"""The data of a config: what `data.recorded` loads, and people's answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdaug_jax import data
from kdaug_jax.data.recorded import READ, USES, load_data, read_options
from kdaug_jax.errors import ConfigError

__all__ = ["READ", "USES", "load_data", "load_human", "read_options"]


def load_human(
    file: str, dataset: data.Dataset, say: Callable[[str], None]
) -> np.ndarray | None:
    """Reads people's answers to the test images.

    Args:
      file: `eval.human`; empty for none.
      dataset: of the run.
      say: prints a line on how often people's likeliest class is the label: rows or columns in
        another order show so.

    Returns:
      `f32[N,C]` by position in the test split's base split, or None.

    Raises:
      ConfigError: there is no test split, or the file does not fit it.
    """
    if not file:
        return None
    if "test" not in dataset.splits:
        raise ConfigError("eval.human", "is given, but data.test is empty", "name a test split")
    split, classes = dataset.splits["test"], len(dataset.class_names)
    answers = data.read_human(file, classes, max(split.index) + 1)
    right = float((answers[split.index].argmax(axis=1) == split.label).mean())
    chance = 1.0 / classes
    line = (f"eval.human: people's likeliest class is the label of {100 * right:.1f} % of the test "
            "images")
    if right <= chance + 3.0 * (chance * (1.0 - chance) / len(split)) ** 0.5:
        line = (f"warning: {line}, no more than by chance: rows count from 0 in the base split, "
                "columns are the classes in the data's order")
    say(line)
    return answers
