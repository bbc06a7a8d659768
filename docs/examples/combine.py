"""Gradient combinations of your own: named in `optim.combine` as `PACKAGE.MODULE.name(values)`.

    config.optim.combine = "docs.examples.combine.project(0.5)"

A plain function `f(epoch, ...)` returns a function of `{"task": tree, "distill": tree}`, the
gradients of all parameters from the terms of either `gradient_group`, that returns one such tree.
Keeping the groups apart costs a backward pass each. `Combine(function, separate=False)` gets their
sum as `{"all": tree}` instead. Options annotated as in `kdaug_jax.types` are traced.
"""

import jax
import jax.numpy as jnp
import optax

from kdaug_jax.experiment.combine import Combine
from kdaug_jax.types import Fraction, NonNegative


def project(epoch: jax.Array, strength: Fraction = 1.0):
    """Takes out of the distillation gradient what opposes the task gradient (after Yu et al. 2020).

    Args:
      epoch: `i32[]`.
      strength: share of the opposing part that is taken out.

    Returns:
      A function of `{"task": tree, "distill": tree}`.
    """

    def combine(grads):
        task, distill = grads["task"], grads["distill"]
        dot, square = optax.tree.vdot(task, distill), optax.tree.vdot(task, task)
        part = strength * jnp.minimum(dot, 0.0) / jnp.maximum(square, 1e-30)
        return jax.tree.map(lambda t, d: t + d - part * t, task, distill)

    return combine


def _fade(epoch: jax.Array, rate: NonNegative = 0.1):
    """Shrinks the gradient from epoch to epoch."""
    scale = jnp.exp(-rate * epoch.astype(jnp.float32))
    return lambda grads: jax.tree.map(lambda g: scale * g, grads["all"])


fade = Combine(_fade, separate=False)
