"""How the gradients of task and distillation become one gradient.

A user's combination, written `package.module.name(options)` in `optim.combine`, is a function
`f(epoch, ...)` like `clip_per_variable`, which gets the groups apart, or a row `Combine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdaug_jax.types import Fraction, NonNegative

Grads = Mapping[str, Any]


class Combine(NamedTuple):
    """How gradient groups become one gradient.

    Attributes:
      make: `make(epoch, **options) -> f(grads: {group: tree}) -> tree`; with `momentum`,
        `make(decay, momentum, **options) -> GradientTransformation` from such grads to a tree.
      separate: whether it needs the groups "task" and "distill" apart, which costs one backward
        pass a group.
      momentum: whether it takes weight decay and momentum over from the optimiser.
    """

    make: Callable[..., Any]
    separate: bool = True
    momentum: bool = False

    @property
    def skip(self) -> int:
        """How many leading parameters of `make` are not options."""
        return 2 if self.momentum else 1


def sum_groups(epoch: jax.Array) -> Callable[[Grads], Any]:
    """Adds the gradients of all groups."""
    return lambda grads: jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *grads.values())


def clip_per_variable(epoch: jax.Array, start: NonNegative = 0.0) -> Callable[[Grads], Any]:
    """Clips each variable's distillation gradient to the norm of its task gradient.

    g = g_task + clip(g_distill, ‖g_task‖ · σ(epoch − start)), variable by variable. The terms' own
    parameters are not clipped: their task gradient is 0 and they would never train.

    Args:
      epoch: `i32[]`.
      start: epoch at which σ is ½.

    Returns:
      A function of `{"task": tree, "distill": tree}`.

    Source: paper 003 section 4 ("clip as in KD-SVD"); Lee et al. 2018, KD-SVD.
    """
    ramp = jax.nn.sigmoid(epoch.astype(jnp.float32) - start)

    def clip(task, distill):
        limit = optax.tree.norm(task) * ramp
        norm = optax.tree.norm(distill)
        return task + distill * jnp.where(norm > limit, limit / jnp.maximum(norm, 1e-30), 1.0)

    def combine(grads):
        task, distill = grads["task"], grads["distill"]
        return {
            name: jax.tree.map(jnp.add if name == "terms" else clip, task[name], distill[name])
            for name in task
        }

    return combine


def dot(
    decay: optax.GradientTransformation, momentum: jax.Array, delta: Fraction = 0.075
) -> optax.GradientTransformation:
    """Adds task and distillation with momenta m − δ and m + δ (distillation-oriented).

    u = (m − δ) u + g_task + decay; v = (m + δ) v + g_distill; the gradient is u + v. It takes the
    place of plain SGD's momentum m.

    Args:
      decay: the link that adds weight decay, here to the task's gradient alone.
      momentum: `f32[]`, m of the optimiser.
      delta: δ; 0.09 on ImageNet.

    Returns:
      A transformation of `{"task": tree, "distill": tree}`.

    Source: Zhao et al. 2023, "DOT: A Distillation-Oriented Trainer", eq. 5-6.
    """
    rates = {"task": momentum - delta, "distill": momentum + delta}

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"decay": decay.init(params), "task": zeros, "distill": zeros}

    def update(grads, state, params=None):
        task, decayed = decay.update(grads["task"], state["decay"], params)
        now = {"task": task, "distill": grads["distill"]}
        moved = {
            name: jax.tree.map(lambda old, g, rate=rates[name]: rate * old + g, state[name], new)
            for name, new in now.items()
        }
        together = jax.tree.map(jnp.add, moved["task"], moved["distill"])
        return together, {"decay": decayed, **moved}

    return optax.GradientTransformation(init, update)


COMBINE = {
    "sum": Combine(sum_groups, separate=False),
    "clip_per_variable": Combine(clip_per_variable, separate=True),
    "dot": Combine(dot, separate=True, momentum=True),
}
