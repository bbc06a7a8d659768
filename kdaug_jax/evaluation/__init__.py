"""Evaluates networks: predictors, metrics as sums over batches, the eval step, whole runs."""

from kdaug_jax.evaluation.metric_table import Metric, MetricInputs, Settings, mean_metric

__all__ = ["Metric", "MetricInputs", "Settings", "mean_metric"]
