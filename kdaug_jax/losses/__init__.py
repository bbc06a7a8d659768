"""Objectives: pure functions with one value an example. `LOSSES` maps their names in configs."""

from kdaug_jax.losses.response import cross_entropy, kl, top_classes, topk_kl

LOSSES = {"cross_entropy": cross_entropy, "kl": kl, "topk_kl": topk_kl}

__all__ = ["LOSSES", "cross_entropy", "kl", "top_classes", "topk_kl"]
