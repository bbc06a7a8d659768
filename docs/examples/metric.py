"""Metrics of your own: a function of sums, and a `Metric` that compares with the teacher.

With this file beside the config file, or in the current directory, the config names them as
`module:attribute`:

    config.eval.metrics = ("accuracy", "nll", "metric:margin", "metric:worse_than_teacher")

A function `f(inputs) -> (sum, count)` is reported as its mean over a split, under its own name.
Rows where `inputs.mask` is False only fill a batch up: they must not count. Sums are f32, i32 or
u32: others stop short when batches are added up, and are refused. This file is a config too, of two
tiny runs on a CPU:

    python main.py --config=docs/examples/metric.py --workdir=/tmp/metric
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from kdaug_jax.evaluation import MetricInputs, mean_metric
from kdaug_jax.experiment import config as configs


def margin(inputs: MetricInputs) -> tuple[jax.Array, jax.Array]:
    """Sums how far the label's probability is above that of the best other class.

    Args:
      inputs: `logits` f32[B,C], `label` i32[B], `mask` bool[B]; see `MetricInputs` for the others.

    Returns:
      (sum f32[], count f32[]) over the rows that count.
    """
    p = jax.nn.softmax(inputs.logits)
    is_label = jax.nn.one_hot(inputs.label, p.shape[-1], dtype=bool)
    value = jnp.max(p, axis=-1, where=is_label, initial=0.0)
    value -= jnp.max(p, axis=-1, where=~is_label, initial=0.0)
    return jnp.sum(jnp.where(inputs.mask, value, 0.0)), jnp.sum(inputs.mask, dtype=jnp.float32)


def _worse(inputs: MetricInputs) -> tuple[jax.Array, jax.Array]:
    right, teacher_right = (
        jnp.argmax(logits, axis=-1) == inputs.label for logits in (inputs.logits, inputs.teacher)
    )
    worse = inputs.mask & teacher_right & ~right
    return jnp.sum(worse, dtype=jnp.float32), jnp.sum(inputs.mask, dtype=jnp.float32)


# Share of examples that the teacher classifies rightly and the student does not. `needs` names the
# field of MetricInputs that has to be there: "teacher", "human" or "embedding". `better` lets
# `checkpoint.best` choose by it, which it refuses for a plain function.
worse_than_teacher = mean_metric("worse_than_teacher", _worse, better="lower", needs="teacher")


def get_config() -> ConfigDict:
    """Returns a distillation on made-up 8×8 images that is evaluated with these metrics."""
    config = configs.default()
    with config.unlocked():
        config.data.source = "synthetic:8x8,4,64"
        config.data.batch_size = 16
        config.views.x = "flip"
        config.networks.student = configs.network("resnet8", trainable=True)
        config.networks.teacher = configs.network("resnet8")
        config.terms.ce = configs.term("cross_entropy", on=("x",))
        config.terms.kd = configs.term("kl", on=("x",), teacher="teacher")
        config.train.epochs = 2.0
        config.train.allow_weak_teacher = True
        config.eval.metrics = ("accuracy", "nll", "metric:margin", "metric:worse_than_teacher")
    return config
