"""What `eval.metrics` can name: each metric as sums over batches and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import metrics
from kdaug_jax.errors import ConfigError, suggest


class Settings(NamedTuple):
    """What metrics depend on beside the answers.

    Attributes:
      classes: C.
      bins: of confidence.
      embedding: the feature that classes are told apart in, or "logits".
      table5: see `metrics.class_discrimination`.
    """

    classes: int
    bins: int
    embedding: str
    table5: bool


class MetricInputs(NamedTuple):
    """What one network, or an ensemble, says of a batch, and what it is compared with.

    Attributes:
      logits: `f32[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      teacher: `f32[B,C]`, logits of the other network, or None.
      human: `f32[B,C]`, shares of people's answers, or None.
      embedding: `[B,...]`, or None.
    """

    logits: jax.Array
    label: jax.Array
    mask: jax.Array
    teacher: jax.Array | None = None
    human: jax.Array | None = None
    embedding: jax.Array | None = None


class Metric(NamedTuple):
    """One row of the table.

    Attributes:
      sums: `sums(seen, settings, before)`: a tree of sums that add up over batches.
      finish: `finish(sums, settings) -> {name: value}` on the host; numbers, and arrays for plots.
      names: of the numbers.
      needs: the field of `Seen` that it needs beside logits and labels.
      first: `first(seen)`: what a pass over the whole split gathers before, joined by
        `metrics.merge_moments`.
    """

    sums: Callable[[MetricInputs, Settings, Any], Any]
    finish: Callable[[Any, Settings], dict[str, Any]]
    names: tuple[str, ...]
    needs: str = ""
    first: Callable[[MetricInputs], Any] | None = None


def _mean_of(name: str, sums: Callable[[MetricInputs], Any], needs: str = "") -> Metric:
    def finish(pair, settings: Settings) -> dict[str, Any]:
        return {name: float(pair[0]) / float(pair[1])}

    return Metric(lambda inputs, settings, before: sums(inputs), finish, (name,), needs)


def _rows(inputs: MetricInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    return inputs.logits, inputs.label, inputs.mask


def _confusion(inputs: MetricInputs, settings: Settings, before: Any):
    return metrics.confusion(*_rows(inputs))


def _reliability(inputs: MetricInputs, settings: Settings, before: Any):
    return metrics.reliability(*_rows(inputs), bins=settings.bins)


def _class_sums(inputs: MetricInputs, settings: Settings, before: Any) -> metrics.ClassSums:
    p = jax.nn.softmax(inputs.logits, axis=-1)
    return metrics.class_sums(p, inputs.label, inputs.mask, settings.classes)


def _unit_sums(inputs: MetricInputs, settings: Settings, before: metrics.Moments):
    return metrics.unit_sums(inputs.embedding, inputs.label, inputs.mask, before, settings.classes)


def _discrimination(sums, settings: Settings) -> dict[str, Any]:
    return metrics.class_discrimination(sums, table5=settings.table5)._asdict()


def _human(inputs: MetricInputs, settings: Settings, before: Any):
    return (
        metrics.human_kl_total(inputs.logits, inputs.human, inputs.mask),
        metrics.human_cross_entropy(inputs.logits, inputs.human, inputs.mask),
        metrics.class_sums(inputs.human, inputs.label, inputs.mask, settings.classes),
        _class_sums(inputs, settings, before),
    )


def _told_by_humans(sums, settings: Settings) -> dict[str, Any]:
    kl, cross_entropy, human, network = sums
    matrix = metrics.kl_matrix(metrics.class_means(human), metrics.class_means(network))
    return {
        "human_kl": float(kl[0]) / float(kl[1]),
        "human_cross_entropy": float(cross_entropy[0]) / float(cross_entropy[1]),
        "human_kl_class": metrics.human_kl_class(human, network),
        "human_kl_matrix": matrix,
    }


METRICS: dict[str, Metric] = {
    "accuracy": _mean_of("accuracy", lambda inputs: metrics.accuracy(*_rows(inputs))),
    "top5": _mean_of("top5", lambda inputs: metrics.top_k_accuracy(*_rows(inputs), 5)),
    "nll": _mean_of("nll", lambda inputs: metrics.nll(*_rows(inputs))),
    "brier": _mean_of("brier", lambda inputs: metrics.brier(*_rows(inputs))),
    "macro": Metric(
        _confusion, lambda sums, settings: metrics.precision_recall_f1(sums),
        ("precision", "recall", "f1"),
    ),
    "confusion": Metric(_confusion, lambda sums, settings: {"confusion": sums}, ()),
    "ece": Metric(_reliability, lambda sums, settings: {"ece": metrics.ece(sums)}, ("ece",)),
    "mce": Metric(_reliability, lambda sums, settings: {"mce": metrics.mce(sums)}, ("mce",)),
    "reliability": Metric(
        _reliability, lambda sums, settings: {
            f"reliability_{name}": value for name, value in sums._asdict().items()
        }, (),
    ),
    "separability": Metric(
        _class_sums, lambda sums, settings: {
            "class_separability": metrics.class_separability(sums),
            "class_means": metrics.class_means(sums),
        }, ("class_separability",),
    ),
    "discrimination": Metric(
        _unit_sums, _discrimination, ("cohesion", "adhesion", "discrimination"), "embedding",
        first=lambda inputs: metrics.moments(inputs.embedding, inputs.mask),
    ),
    "effective_classes": _mean_of(
        "effective_classes", lambda inputs: metrics.effective_classes(inputs.logits, inputs.mask)
    ),
    "agreement": _mean_of(
        "agreement", lambda inputs: metrics.agreement(inputs.logits, inputs.teacher, inputs.mask), "teacher"
    ),
    "predictive_kl": _mean_of(
        "predictive_kl",
        lambda inputs: metrics.predictive_kl(inputs.logits, inputs.teacher, inputs.mask), "teacher",
    ),
    "human": Metric(
        _human, _told_by_humans, ("human_kl", "human_cross_entropy", "human_kl_class"), "human"
    ),
}
# What is measured on views of training too, where there is no label of their own.
ON_VIEWS = ("agreement", "predictive_kl", "effective_classes")


def check(section: Mapping[str, Any], classes: int) -> Settings:
    """Checks `config.eval` as far as it concerns metrics.

    Args:
      section: the complete section.
      classes: C of the data.

    Returns:
      The settings of the metrics.

    Raises:
      ConfigError: an unknown metric, one that does not fit the data, or bad settings.
    """
    for name in section["metrics"]:
        if name not in METRICS:
            raise ConfigError("eval.metrics", f"unknown metric '{name}'", suggest(name, METRICS))
    if not {"accuracy", "nll"} <= set(section["metrics"]):
        raise ConfigError(
            "eval.metrics", "leaves out accuracy or nll", "runs are compared by them: name both"
        )
    if "top5" in section["metrics"] and classes < 5:
        raise ConfigError("eval.metrics", f"top5 of {classes} classes", "leave it out")
    if ("human" in section["metrics"]) != bool(section["human"]):
        raise ConfigError(
            "eval.human", f"is {section['human']!r}",
            "name a file of answers here and 'human' in eval.metrics, or neither",
        )
    return Settings(classes, section["bins"], section["embedding"], section["table5"])


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Gives the finite numbers among finished values; where nothing was counted there is NaN."""
    return {
        name: float(value) for name, value in found.items()
        if np.ndim(value) == 0 and np.isfinite(value)
    }


def arrays(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Gives the arrays among finished values."""
    return {name: np.asarray(value) for name, value in found.items() if np.ndim(value)}
