"""A schedule of your own: named in a config as `PACKAGE.MODULE:function`.

    triangle = "docs.examples.schedule:triangle"
    config.optim = optimizer("sgd", dict(name=triangle, base=0.1, peak=0.25))
    kd = term("kl", ("x",), teacher="teacher", weight=dict(name=triangle, base=1.0))

A schedule is a function `f(span, ...)` that returns the multiplier of the base value: a function
of the step, `i32[] -> f32[]`. Its options set constants of the compiled program; the base value
is traced. `unit` and `warmup` work with every schedule.
"""

import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.experiment.schedules import Multiplier, Span


def triangle(span: Span, peak: float = 0.5) -> Multiplier:
    """Rises from 0 to 1 along a line and falls back to 0 at the end of the run.

    Args:
      span: `span.total_steps` of the run, and `span.steps_per_unit` for options that are times.
      peak: where it reaches 1, as a share of the run.

    Returns:
      `f(step: i32[]) -> f32[]`.
    """
    if not 0.0 < peak < 1.0:
        raise ArgumentError(f"peak = {peak}", "must lie between 0 and 1")  # gets its config path
    top, last = np.float32(peak * span.total_steps), np.float32(span.total_steps)

    def multiplier(step):
        step = step.astype(jnp.float32)
        return jnp.minimum(step / top, jnp.maximum((last - step) / (last - top), 0.0))

    return multiplier
