"""The data of a config: what `data.recorded` loads, and people's answers."""

from __future__ import annotations

import numpy as np

from kdaug_jax import data
from kdaug_jax.data.recorded import READ, USES, load_data, read_options
from kdaug_jax.errors import ConfigError

__all__ = ["READ", "USES", "load_data", "load_human", "read_options"]


def load_human(file: str, dataset: data.Dataset) -> np.ndarray | None:
    """Reads people's answers to the test images.

    Args:
      file: `eval.human`; empty for none.
      dataset: of the run.

    Returns:
      `f32[N,C]` by position in the test split's base split, or None.

    Raises:
      ConfigError: there is no test split, or the file does not fit it.
    """
    if not file:
        return None
    if "test" not in dataset.splits:
        raise ConfigError("eval.human", "is given, but data.test is empty", "name a test split")
    rows = max(dataset.splits["test"].index) + 1
    return data.read_human(file, len(dataset.class_names), rows)
