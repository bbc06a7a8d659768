"""Metrics of training that belong to views instead of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from kdaug_jax.experiment.terms import TermSpec
from kdaug_jax.experiment.views import ViewSpec
from kdaug_jax.losses import label_disagreement
from kdaug_jax.types import Outputs, View

Pair = tuple[jax.Array, jax.Array]


def disagreement(
    specs: Sequence[ViewSpec], terms: Sequence[TermSpec], outputs: Mapping[str, Outputs],
    made: Mapping[str, View],
) -> dict[str, Pair]:
    """Computes, on views of mixed labels, how often a teacher's likeliest class is not the label's.

    Args:
      specs: the views.
      terms: the terms, whose teachers are compared with the labels.
      outputs: `{"network@view": Outputs}`.
      made: the views by name.

    Returns:
      `(sum f32[], number of rows f32[])` as "<view>/disagreement"; where several teachers see a
      view, as "<view>/disagreement_<network>".

    Source: Wang et al. 2020 (arXiv:2012.02909), section 4.3.
    """
    taught = {pair for term in terms for teachers in term.teachers for pair in teachers}
    metrics = {}
    for spec in specs:
        pairs = sorted(pair for pair in taught if pair.split("@")[1] == spec.name)
        for pair in pairs if spec.mixes else ():
            view = made[spec.name]
            differs = label_disagreement(outputs[pair].logits, view.target) & view.mask
            suffix = "" if len(pairs) == 1 else "_" + pair.split("@")[0]
            counts = (jnp.sum(differs, dtype=jnp.float32), jnp.sum(view.mask, dtype=jnp.float32))
            metrics[f"{spec.name}/disagreement{suffix}"] = counts
    return metrics
