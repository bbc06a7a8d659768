"""Adapts what a frozen network returns to the data: order of classes, logits, BatchNorm branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ConfigError
from kdaug_jax.metrics.arguments import are_probabilities
from kdaug_jax.models.model import Model

# Logarithms of smaller probabilities are not told apart: float32 has no normal number below.
_SMALLEST = float(np.finfo(np.float32).tiny)


def adapted(
    model: Model, *, order: Sequence[int] = (), probabilities: bool = False, branch: int = 0
) -> Model:
    """Returns a network for inference whose outputs are logits in the order of the data's classes.

    Args:
      model: the network.
      order: the network's number of each class of the data; empty where both are the same.
      probabilities: whether it returns probabilities instead of logits.
      branch: the BatchNorm branch that stands for the network, whatever branch is asked for.
    """
    if not len(order) and not probabilities and not branch:
        return model

    def apply(variables, image, *, branches=(0,), **settings):
        settings["branches"] = (branch,) * len(branches)
        outputs, statistics = model.apply(variables, image, **settings)
        logits = adapted_logits(outputs.logits, order, probabilities)
        return outputs.replace(logits=logits), statistics

    return model._replace(apply=apply)


def adapted_logits(
    outputs: Any, order: Sequence[int] = (), probabilities: bool = False
) -> Any:
    """Returns logits in the order of the data's classes.

    Args:
      outputs: `f[B,C]`, arrays of NumPy or JAX.
      order: see `adapted`.
      probabilities: see `adapted`.
    """
    if probabilities:
        library = jnp if isinstance(outputs, jax.Array) else np
        outputs = library.log(library.maximum(outputs.astype(np.float32), _SMALLEST))
    return outputs[:, np.asarray(order)] if len(order) else outputs


def require_outputs(where: str, what: str, outputs: np.ndarray, probabilities: bool) -> None:
    """Validates that outputs are what `networks.NAME.outputs` says.

    Args:
      where: config path of the network, for messages.
      what: which outputs these are, in the plural sense of "every row of …".
      outputs: `f[B,C]`, as the network returns them.
      probabilities: whether they must be probabilities.

    Raises:
      ConfigError: probabilities are taken for logits, whose softmax would be taken again, or
        logits for probabilities.
    """
    alike = are_probabilities(outputs)
    if alike and not probabilities:
        raise ConfigError(
            where, f"{what} is positive and has the same sum, so these are probabilities",
            f"set {where}.outputs='probabilities', which takes their logarithm",
        )
    if probabilities and not alike:
        raise ConfigError(
            f"{where}.outputs", f"is 'probabilities', but not {what} is positive with the same sum",
            "leave it out",
        )
