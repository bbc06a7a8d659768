"""OFD: features before the ReLU; negative responses of the teacher only bound the student's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters
from kdaug_jax.losses.arrays import masked_mean, need_equal, need_maps, pool_to
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.types import NonNegative

Inputs = tuple[TermInput, ...]
# From this many batches on the margin is a moving average.
MOST_BATCHES = 100


def partial_square(student: jax.Array, teacher: jax.Array, margin: jax.Array) -> jax.Array:
    """Squared distance from max(teacher, margin); 0 where teacher <= 0 and the student is below it.

    Args:
      student: `[B,H,W,C]`, before the ReLU, after its connector.
      teacher: `[B,H,W,C]`, before the ReLU.
      margin: `f32[C]`, negative, the lower bound of the target.

    Returns:
      `f32[B]`, sums over pixels and channels.

    Raises:
      ArgumentError: unequal shapes.

    Source: Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", eq. 1-3.
    """
    need_equal("shapes", student, teacher)
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    target = jnp.maximum(teacher, margin[None, None, None, :])
    counts = (student > target) | (teacher > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - target), 0.0), axis=(1, 2, 3))


def moved_margin(state: dict[str, jax.Array], teacher: jax.Array) -> dict[str, jax.Array]:
    """Moves each channel's margin towards the mean of a batch's negative responses.

    The mean of the first 100 batches, then a moving average with weight 1/100. The paper has the
    expectation over the training images, or computes it from the teacher's BatchNorm.

    Args:
      state: "margin" `f32[C]` and "seen" `f32[C]`, batches that had negative responses.
      teacher: `[B,H,W,C]`, before the ReLU.

    Returns:
      The new state.
    """
    teacher = teacher.astype(jnp.float32)
    negative = teacher < 0
    count = jnp.sum(negative, axis=(0, 1, 2), dtype=jnp.float32)
    total = jnp.sum(jnp.where(negative, teacher, 0.0), axis=(0, 1, 2))
    has = count > 0
    batches = jnp.minimum(state["seen"] + 1.0, MOST_BATCHES)
    mean = total / jnp.maximum(count, 1.0)
    margin = state["margin"] + (mean - state["margin"]) / batches
    return {
        "margin": jnp.where(has, margin, state["margin"]),
        "seen": jnp.where(has, batches, state["seen"]),
    }


def closed_margin(scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Mean negative response of a BatchNorm whose input is normal: E[x | x < 0].

    Args:
      scale: `f32[C]`, of either sign.
      bias: `f32[C]`.

    Returns:
      `f32[C]`; three deviations below 0 where at most one response in a thousand is negative.

    Source: Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation", section 3.2, and
    its public code.
    """
    deviation = jnp.maximum(jnp.abs(scale), 1e-12)
    share = jax.scipy.special.ndtr(-bias / deviation)
    density = jnp.exp(-0.5 * jnp.square(bias / deviation)) / jnp.sqrt(2.0 * jnp.pi)
    mean = bias - deviation * density / jnp.maximum(share, 1e-12)
    return jnp.where(share > 0.001, mean, -3.0 * deviation)


def _init(key, inputs: Inputs, info, *, margin, **options):
    item = inputs[0]
    need_maps(*item.chosen_student, *item.chosen_teacher)
    if margin not in ("batchnorm", "moving"):
        raise ArgumentError(f"got margin={margin!r}", "must be 'batchnorm' or 'moving'")
    if margin == "batchnorm" and None in (item.teacher_norms or (None,)):
        raise ArgumentError(
            "margin='batchnorm' finds no BatchNorm before a feature of a frozen teacher",
            "choose f1_pre, f2_pre, ... of a ResNet, WRN or VGG, or margin='moving'",
        )
    params, state = {}, {}
    for i, (s, t) in enumerate(zip(item.chosen_student, item.chosen_teacher, strict=True)):
        params[str(i)] = adapters.widen_init(
            jax.random.fold_in(key, i), s.shape[-1], t.shape[-1]
        )
        zeros = jnp.zeros(t.shape[-1], jnp.float32)
        state[str(i)] = {"margin": zeros, "seen": zeros}
        if margin == "batchnorm":
            state[str(i)] = {"margin": closed_margin(**item.teacher_norms[i])}
    return params, state


def _apply(
    params, state, inputs: Inputs, context: Context, *,
    scale: NonNegative = 0.001, margin: str = "batchnorm",
):
    """Overhauled feature distillation before the ReLU, each feature weighted twice the one before.

    Connectors are 1×1 convolutions with BatchNorm; a larger map of the teacher is averaged down to
    the student's size. The authors run the teacher with the statistics of each batch, here it is in
    inference mode.

    Args:
      params: a connector for each feature.
      state: margins of each feature.
      inputs: one for each view.
      context: its groups are those of BatchNorm.
      scale: factor of the loss; 1/1000 in the public code, 1/10000 on ImageNet.
      margin: lower bound of the target: "batchnorm", constant, from the frozen teacher's BatchNorm,
        see `closed_margin`; or "moving", see `moved_margin`.

    Returns:
      Value, state, no metrics.

    Source: Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation".
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        count = len(item.chosen_student)
        pairs = zip(item.chosen_student, item.chosen_teacher, strict=True)
        for i, (student, teacher) in enumerate(pairs):
            name = str(i)
            if student.shape[1] < teacher.shape[1]:
                teacher = pool_to(teacher, student.shape[1])
            if margin == "moving":
                state = {**state, name: moved_margin(state[name], teacher)}
            connected = adapters.widen(params[name], student, context.groups)
            squares = partial_square(connected, teacher, state[name]["margin"])
            value += masked_mean(squares, item.view.mask) / 2.0 ** (count - 1 - i)
    return jnp.asarray(scale, jnp.float32) * value, state, {}


ofd = Term(_init, _apply, features=True, reads_norms=True)
