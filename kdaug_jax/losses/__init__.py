"""Objectives: pure functions with one value an example. `LOSSES` maps their names in configs."""

from kdaug_jax.losses.response import (
    binary_cross_entropy,
    cross_entropy,
    kl,
    top_classes,
    topk_kl,
)

LOSSES = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "kl": kl,
    "topk_kl": topk_kl,
}

__all__ = ["LOSSES", "binary_cross_entropy", "cross_entropy", "kl", "top_classes", "topk_kl"]
