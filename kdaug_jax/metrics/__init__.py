"""Metrics as sums that add up over batches, devices and processes, and values derived from them."""

from kdaug_jax.metrics.agreement import agreement, effective_classes, predictive_kl
from kdaug_jax.metrics.calibration import Reliability, brier, ece, gaps, mce, reliability
from kdaug_jax.metrics.classification import (
    accuracy,
    answered,
    mean,
    merge,
    nll,
    top_k_accuracy,
)
from kdaug_jax.metrics.confusion import confusion, precision_recall_f1, unanswered
from kdaug_jax.metrics.embedding import (
    Discrimination,
    Moments,
    UnitSums,
    class_discrimination,
    merge_moments,
    moments,
    unit_sums,
)
from kdaug_jax.metrics.human import (
    ClassSums,
    class_means,
    class_separability,
    class_sums,
    human_cross_entropy,
    human_kl,
    human_kl_class,
    human_kl_total,
    kl_matrix,
)
from kdaug_jax.metrics.variation import GROUP, group_sums, t_stddev

__all__ = [
    "ClassSums",
    "Discrimination",
    "GROUP",
    "Moments",
    "Reliability",
    "UnitSums",
    "accuracy",
    "agreement",
    "answered",
    "brier",
    "class_discrimination",
    "class_means",
    "class_separability",
    "class_sums",
    "confusion",
    "ece",
    "effective_classes",
    "gaps",
    "group_sums",
    "human_cross_entropy",
    "human_kl",
    "human_kl_class",
    "human_kl_total",
    "kl_matrix",
    "mce",
    "mean",
    "merge",
    "merge_moments",
    "moments",
    "nll",
    "precision_recall_f1",
    "predictive_kl",
    "reliability",
    "t_stddev",
    "top_k_accuracy",
    "unanswered",
    "unit_sums",
]
