"""Metrics as (sum, count) pairs."""

from kdaug_jax.metrics.classification import accuracy, mean, merge, nll, top_k_accuracy

__all__ = ["accuracy", "mean", "merge", "nll", "top_k_accuracy"]
