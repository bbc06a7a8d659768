"""What BatchNorm's shifted variance costs: the distillation step with it and with plain sums.

Statistics are taken in one pass, of the differences to the mean of the first example (see
`kdaug_jax.models.batchnorm`); `plain` sums the inputs and their squares instead. The step is that
of `kd_step.py`. Both in one process, in turn. One JSON line: `ratio` is the median over the rounds
of shifted to plain seconds, and

    error    largest deviation of normalised values from float64 at a mean of 1,000 deviations, of
             both

    python benchmarks/batchnorm.py
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from unittest import mock

import common
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.models import batchnorm
from kdaug_jax.runtime import compile_cache, sharding

TARGET = 1.01
EPSILON = 1e-5


def plain_moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance over `axes` as E[x^2] - E[x]^2."""
    mean = jnp.mean(x, axis=axes)
    return mean, jnp.maximum(jnp.mean(x * x, axis=axes) - mean * mean, 0.0)


def error(moments: Callable[..., tuple[jax.Array, jax.Array]]) -> float:
    """Returns the largest deviation of normalised values from those in float64."""
    x = np.random.default_rng(0).normal(1000.0, 1.0, (64, 8, 8, 16)).astype(np.float32)
    mean, variance = (np.asarray(m, np.float64) for m in jax.jit(moments, static_argnums=1)(
        x, (0, 1, 2)
    ))
    wide = x.astype(np.float64)
    right = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + EPSILON)
    return float(np.abs((wide - mean) / np.sqrt(variance + EPSILON) - right).max())


def main() -> int:
    """Measures and returns the exit status, which does not depend on the target."""
    options = common.parse(__doc__, steps=2)
    compile_cache.use()
    sharding.use_host_cores(options.batch)
    shifted = common.Ours(options.batch)
    shifted(1)
    with mock.patch.object(batchnorm, "_moments", plain_moments):
        plain = common.Ours(options.batch)
        plain(1)
    sides = {
        "shifted": functools.partial(common.timed, shifted),
        "plain": functools.partial(common.timed, plain),
    }
    result, _ = common.compare("batchnorm", sides, options, ("jax",))
    errors = {"shifted": batchnorm._moments, "plain": plain_moments}
    result["error"] = {side: float(f"{error(moments):.2g}") for side, moments in errors.items()}
    common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
