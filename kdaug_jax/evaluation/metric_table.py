"""The table of metrics for `eval.metrics`: sums over batches, and numbers computed from the sums.

The formulas are in `kdaug_jax.metrics`. A metric may name arrays of a row for each example too,
which are written and never summed, see `evaluation.exported`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import metrics, registry
from kdaug_jax.errors import ArgumentError, ConfigError

HIGHER, LOWER, NEITHER = "higher", "lower", ""
# Types in which sums of batches add up.
_SUMMED = (np.float32, np.int32, np.uint32)
# Always measured, and reported where it is not 0.
UNANSWERED = "unanswered"


class Settings(NamedTuple):
    """Settings of the metrics.

    Attributes:
      classes: C.
      bins: of confidence.
      embedding: name of the feature that class discrimination is measured in, or "logits".
      table5: see `metrics.class_discrimination`.
    """

    classes: int
    bins: int
    embedding: str
    table5: bool


class MetricInputs(NamedTuple):
    """Outputs of one predictor on a batch, and what they are compared with.

    Attributes:
      logits: `f32[B,C]`.
      label: `i32[B]`.
      mask: `bool[B]`, False on rows that do not count.
      teacher: `f32[B,C]`, logits of the teacher; None unless the metric needs "teacher".
      human: `f32[B,C]`, shares of people's answers, or None where they are not known.
      embedding: `[B,...]`, or None where no metric needs it.
    """

    logits: jax.Array
    label: jax.Array
    mask: jax.Array
    teacher: jax.Array | None = None
    human: jax.Array | None = None
    embedding: jax.Array | None = None


class Metric(NamedTuple):
    """A metric: one row of the table, or a user's.

    Attributes:
      sums: `sums(inputs, settings, before)`: a tree of sums that add up over batches, `f32`, `i32`
        or `u32`.
      finish: `finish(sums, settings) -> {name: value}` on the host; numbers, and arrays for plots.
      better: of each number by name, whether `HIGHER` or `LOWER` values are better, or `NEITHER`;
        only numbers with a direction can be a criterion such as `checkpoint.best`.
      needs: the field of `MetricInputs` that it needs beside logits and labels, "" for none.
      first: `first(inputs)`: what a first pass over the whole split computes, joined by
        `metrics.merge_moments` and passed to `sums` as `before`.
      rows: `f(inputs) -> [B,...]` by the name of the array that the last evaluation of a run and
        `--mode=evaluate` write, a row for each example.
    """

    sums: Callable[[MetricInputs, Settings, Any], Any]
    finish: Callable[[Any, Settings], dict[str, Any]]
    better: Mapping[str, str]
    needs: str = ""
    first: Callable[[MetricInputs], Any] | None = None
    rows: Mapping[str, Callable[[MetricInputs], jax.Array]] = {}


def mean_metric(
    name: str, function: Callable[[MetricInputs], tuple[Any, Any]], better: str = NEITHER,
    needs: str = "",
) -> Metric:
    """Makes a metric that is a mean over examples.

    Args:
      name: of the number.
      function: `f(inputs) -> (sum, count)`, both `f32[]`, over the rows where `inputs.mask` is
        True.
      better: see `Metric`.
      needs: see `Metric`.
    """

    def sums(inputs: MetricInputs, settings: Settings, before: Any):
        pair = function(inputs)
        if not isinstance(pair, tuple) or [np.shape(part) for part in pair] != [(), ()]:
            raise ArgumentError(
                f"'{name}' returned {_describe(pair)}",
                "return (sum, count), two numbers over the rows where inputs.mask is True",
            )
        return pair

    def finish(pair, settings: Settings) -> dict[str, Any]:
        return {name: float(pair[0]) / float(pair[1])}

    return Metric(sums, finish, {name: better}, needs)


def _describe(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_describe, value)) + ")"
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return f"a {type(value).__name__}"


def _rows(inputs: MetricInputs) -> tuple[jax.Array, jax.Array, jax.Array]:
    return inputs.logits, inputs.label, inputs.mask


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


def _human_numbers(sums, settings: Settings) -> dict[str, Any]:
    kl, cross_entropy, human, network = sums
    matrix = metrics.kl_matrix(metrics.class_means(human), metrics.class_means(network))
    return {
        "human_kl": float(kl[0]) / float(kl[1]),
        "human_cross_entropy": float(cross_entropy[0]) / float(cross_entropy[1]),
        "human_kl_class": metrics.human_kl_class(human, network),
        "human_kl_matrix": matrix,
        "human_class_means": metrics.class_means(human),
    }


def _unanswered(sums, settings: Settings) -> dict[str, Any]:
    count = float(np.sum(sums))
    return {UNANSWERED: count} if count else {}


METRICS: dict[str, Metric] = {
    "accuracy": mean_metric("accuracy", lambda inputs: metrics.accuracy(*_rows(inputs)), HIGHER),
    "top5": mean_metric(
        "top5", lambda inputs: metrics.top_k_accuracy(*_rows(inputs), 5), HIGHER
    ),
    "nll": mean_metric("nll", lambda inputs: metrics.nll(*_rows(inputs)), LOWER),
    "brier": mean_metric("brier", lambda inputs: metrics.brier(*_rows(inputs)), LOWER),
    "macro": Metric(
        lambda inputs, settings, before: (
            metrics.confusion(*_rows(inputs)), metrics.unanswered(*_rows(inputs))
        ),
        lambda sums, settings: metrics.precision_recall_f1(*sums),
        {"precision": HIGHER, "recall": HIGHER, "f1": HIGHER},
    ),
    "confusion": Metric(
        lambda inputs, settings, before: metrics.confusion(*_rows(inputs)),
        lambda sums, settings: {"confusion": sums}, {},
    ),
    "ece": Metric(
        _reliability, lambda sums, settings: {"ece": metrics.ece(sums)}, {"ece": LOWER}
    ),
    "mce": Metric(
        _reliability, lambda sums, settings: {"mce": metrics.mce(sums)}, {"mce": LOWER}
    ),
    "reliability": Metric(
        _reliability, lambda sums, settings: {
            f"reliability_{name}": value for name, value in sums._asdict().items()
        }, {},
    ),
    "separability": Metric(
        _class_sums, lambda sums, settings: {
            "class_separability": metrics.class_separability(sums),
            "class_means": metrics.class_means(sums),
        }, {"class_separability": HIGHER},
    ),
    "discrimination": Metric(
        _unit_sums, _discrimination,
        {"cohesion": HIGHER, "adhesion": LOWER, "discrimination": HIGHER}, "embedding",
        first=lambda inputs: metrics.moments(inputs.embedding, inputs.mask),
    ),
    "embedding": Metric(
        lambda inputs, settings, before: (), lambda sums, settings: {}, {}, "embedding",
        rows={"embeddings": lambda inputs: inputs.embedding.reshape(len(inputs.label), -1)},
    ),
    "effective_classes": mean_metric(
        "effective_classes", lambda inputs: metrics.effective_classes(inputs.logits, inputs.mask)
    ),
    "agreement": mean_metric(
        "agreement", lambda inputs: metrics.agreement(inputs.logits, inputs.teacher, inputs.mask),
        HIGHER, "teacher",
    ),
    "predictive_kl": mean_metric(
        "predictive_kl",
        lambda inputs: metrics.predictive_kl(inputs.logits, inputs.teacher, inputs.mask), LOWER,
        "teacher",
    ),
    UNANSWERED: Metric(
        lambda inputs, settings, before: metrics.unanswered(*_rows(inputs)),
        _unanswered, {},
    ),
    "human": Metric(
        _human, _human_numbers,
        {"human_kl": LOWER, "human_cross_entropy": LOWER, "human_kl_class": LOWER}, "human",
    ),
}
# Metrics that need no label, so that they are computed on views of training too.
ON_VIEWS = ("agreement", "predictive_kl", "effective_classes")


def resolve_metric(name: str) -> Metric:
    """Returns the metric that a name in `eval.metrics` stands for.

    Args:
      name: a row of `METRICS`, or `package.module:attribute`: a `Metric`, or a function
        `f(inputs: MetricInputs) -> (sum, count)` whose mean is reported under its own name.

    Raises:
      ConfigError: there is no such metric.
    """
    row = registry.resolve("eval.metrics", "metric", name, METRICS)
    if isinstance(row, Metric):
        return row
    try:
        inspect.signature(row).bind(None)
    except (TypeError, ValueError):  # not callable, without a signature, or of other arguments
        raise ConfigError(
            "eval.metrics", f"'{name}' is no function of one argument",
            "name a Metric, or a function f(inputs: MetricInputs) -> (sum, count)",
        ) from None
    return mean_metric(registry.short_name(name), row)


def resolve_metrics(
    section: Mapping[str, Any], num_classes: int
) -> tuple[dict[str, Metric], Settings]:
    """Resolves the metrics of `config.eval`.

    Args:
      section: the complete section.
      num_classes: C of the data.

    Returns:
      The metrics by the name in `eval.metrics`, and their settings.

    Raises:
      ConfigError: an unknown metric, one that does not fit the data, or bad settings.
    """
    rows = {name: resolve_metric(name) for name in section["metrics"]}
    if not {"accuracy", "nll"} <= set(rows):
        raise ConfigError(
            "eval.metrics", "leaves out accuracy or nll", "runs are compared by them: name both"
        )
    reported: dict[str, str] = {}
    for name, row in rows.items():
        for number in row.better:
            if number in reported:
                raise ConfigError(
                    "eval.metrics", f"'{reported[number]}' and '{name}' both report '{number}'",
                    "give one of them another name",
                )
            reported[number] = name
    if "top5" in rows and num_classes < 5:
        raise ConfigError("eval.metrics", f"top5 of {num_classes} classes", "leave it out")
    if ("human" in rows) != bool(section["human"]):
        raise ConfigError(
            "eval.human", f"is {section['human']!r}",
            "name a file of answers here and 'human' in eval.metrics, or neither",
        )
    rows[UNANSWERED] = METRICS[UNANSWERED]
    return rows, Settings(num_classes, section["bins"], section["embedding"], section["table5"])


def check_sums(name: str, metric: Metric, inputs: MetricInputs, settings: Settings) -> None:
    """Validates the sums of a user's metric by tracing it, without computing anything.

    Args:
      name: in `eval.metrics`.
      metric: the metric.
      inputs: shapes and dtypes of a batch.
      settings: of the metrics.

    Raises:
      ConfigError: the shapes of the sums are not those of a sum, or their types hold no sum.
    """

    def traced(inputs: MetricInputs):
        before = None
        if metric.first is not None:
            moments = metric.first(inputs)
            before = metrics.merge_moments(moments, moments)
        return metric.sums(inputs, settings, before)

    def rows(count: int) -> MetricInputs:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), inputs
        )

    try:
        few, more = (jax.eval_shape(traced, rows(count)) for count in (2, 3))
    except ArgumentError as error:
        raise ConfigError("eval.metrics", error.what, error.remedy) from None
    if few != more or not (jax.tree.leaves(few) or metric.rows):
        raise ConfigError(
            "eval.metrics", f"the sums of '{name}' have a shape that depends on the batch size",
            "sum over the rows where inputs.mask is True",
        )
    # bfloat16 counts up to 256, float16 to 2,048, bytes wrap, and of truth values the sum is 1.
    for leaf in jax.tree.leaves(few):
        if leaf.dtype not in _SUMMED:
            raise ConfigError(
                "eval.metrics", f"the sums of '{name}' are {leaf.dtype}, which stops short in the "
                "sum over batches", "sum in float32, as by jnp.sum(..., dtype=jnp.float32)",
            )


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers among finished values; a mean over no rows is NaN."""
    return {
        name: float(value) for name, value in values.items()
        if np.ndim(value) == 0 and np.isfinite(value)
    }


def arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays among finished values."""
    return {name: np.asarray(value) for name, value in values.items() if np.ndim(value)}
