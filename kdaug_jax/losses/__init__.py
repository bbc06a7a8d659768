"""Objectives: pure functions with one value an example. `LOSSES` maps their names in configs."""

from kdaug_jax.losses.correlation import dist, gram_of_classes, gram_of_examples, mlkd
from kdaug_jax.losses.decoupled import dkd
from kdaug_jax.losses.ensemble import (
    a2aug,
    ensemble_distance,
    ensemble_logits,
    l2_normalized,
)
from kdaug_jax.losses.pick import (
    PICKERS,
    entropy,
    hardest,
    kept_ratio,
    kl_score,
    label_disagreement,
)
from kdaug_jax.losses.response import (
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_kd,
    dml,
    hard_kd,
    kl,
    lskd,
    standardize,
    top_classes,
    topk_kl,
)
from kdaug_jax.losses.term import Loss, Term

LOSSES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "kl": kl,
    "topk_kl": topk_kl,
    "cross_entropy_kd": cross_entropy_kd,
    "hard_kd": hard_kd,
    "dml": dml,
    "lskd": lskd,
    "dkd": dkd,
    "dist": Loss(dist, least=2),
    "mlkd": Loss(mlkd, least=2),
    "a2aug": a2aug,
}

__all__ = [
    "LOSSES",
    "Loss",
    "PICKERS",
    "Term",
    "a2aug",
    "binary_cross_entropy",
    "cross_entropy",
    "cross_entropy_kd",
    "dist",
    "dkd",
    "dml",
    "ensemble_distance",
    "ensemble_logits",
    "entropy",
    "gram_of_classes",
    "gram_of_examples",
    "hard_kd",
    "hardest",
    "kept_ratio",
    "kl",
    "kl_score",
    "l2_normalized",
    "label_disagreement",
    "lskd",
    "mlkd",
    "standardize",
    "top_classes",
    "topk_kl",
]
