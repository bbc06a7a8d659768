"""ReviewKD: the student's stages, fused from the last to the first, match the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters
from kdaug_jax.losses.adapters import Params
from kdaug_jax.losses.arrays import masked_mean, need_equal
from kdaug_jax.losses.term import Context, Term, TermInput

Inputs = tuple[TermInput, ...]
LEVELS = (4, 2, 1)


def adaptive_pool(maps: jax.Array, side: int) -> jax.Array:
    """Averages maps to `side` × `side` over windows that may overlap, as PyTorch's adaptive pool.

    Args:
      maps: `f32[B,H,W,C]`.
      side: the new height and width.

    Returns:
      `f32[B,side,side,C]`.
    """
    rows, columns = (jnp.asarray(_windows(size, side)) for size in maps.shape[1:3])
    return jnp.einsum(
        "ph,qw,bhwc->bpqc", rows, columns, maps, precision=jax.lax.Precision.HIGHEST
    )


def _windows(size: int, side: int) -> np.ndarray:
    """Returns `f32[side,size]`: window i is floor(i size / side) .. ceil((i+1) size / side)."""
    matrix = np.zeros((side, size), np.float32)
    for i in range(side):
        start, stop = i * size // side, -(-(i + 1) * size // side)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def nearest(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes `[B,H,W,C]`, pixel i from pixel floor(i H / H'), as PyTorch's "nearest"."""
    for axis, target in zip((1, 2), size, strict=True):
        side = maps.shape[axis]
        if side != target:
            maps = jnp.take(maps, np.arange(target) * side // target, axis=axis)
    return maps


def hierarchical_context(
    student: Sequence[jax.Array], teacher: Sequence[jax.Array]
) -> jax.Array:
    """Hierarchical context loss: mean squared differences at full size and pooled to 4, 2 and 1.

    The weights 1, 1/2, 1/4, 1/8 are divided by their sum; sizes that are not smaller than the map
    are skipped, and the next size takes the weight.

    Args:
      student: maps `f32[B,H,W,C]`, one for each stage.
      teacher: maps of the same shapes.

    Returns:
      `f32[B]`, summed over stages.

    Raises:
      ArgumentError: unequal shapes.

    Source: Chen et al. 2021, "Distilling Knowledge via Knowledge Review", section 3.4.
    """
    total = jnp.zeros(student[0].shape[0], jnp.float32)
    for s, t in zip(student, teacher, strict=True):
        need_equal("shapes", s, t)
        difference = s.astype(jnp.float32) - t.astype(jnp.float32)
        value, weight, weights = jnp.mean(jnp.square(difference), axis=(1, 2, 3)), 1.0, 1.0
        for side in LEVELS:
            if side < difference.shape[1]:
                weight /= 2.0
                weights += weight
                pooled = adaptive_pool(difference, side)
                value += weight * jnp.mean(jnp.square(pooled), axis=(1, 2, 3))
        total += value / weights
    return total


def fusion_init(
    key: jax.Array, inputs: int, middle: int, outputs: int, fuses: bool
) -> Params:
    """Initialises an attention-based fusion module (ABF).

    Args:
      key: for its convolutions.
      inputs: channels of the student's stage.
      middle: channels of the map that is passed to the stage before.
      outputs: channels of the teacher's stage.
      fuses: whether it takes the map of a later stage; all but the last do.

    Returns:
      Its parameters.
    """
    keys = jax.random.split(key, 3)

    def conv(key, size, inputs, outputs):
        bound = math.sqrt(3.0 / (size * size * inputs))
        return {"kernel": adapters.uniform(key, (size, size, inputs, outputs), bound)}

    params = {
        "conv1": conv(keys[0], 1, inputs, middle), "bn1": adapters.norm_init(middle),
        "conv2": conv(keys[1], 3, middle, outputs), "bn2": adapters.norm_init(outputs),
    }
    attention = {"attention": adapters.conv_init(keys[2], 1, 2 * middle, 2)} if fuses else {}
    return params | attention


def fuse(
    params: Params, maps: jax.Array, later: jax.Array | None, size: tuple[int, int], groups: int
) -> tuple[jax.Array, jax.Array]:
    """Fuses a stage with the map of the stage after it (ABF).

    Args:
      params: see `fusion_init`.
      maps: `[B,H,W,C]` of the student's stage.
      later: `f32[B,h,w,M]`, or None for the last stage.
      size: height and width of the teacher's stage.
      groups: those of BatchNorm.

    Returns:
      `f32[B,*size,outputs]`, to be compared with the teacher, and `f32[B,*size,M]`, for the stage
      before.
    """
    x = adapters.conv(params["conv1"], maps.astype(jnp.float32))
    x = adapters.norm(params["bn1"], x, groups)
    if later is not None:
        later = nearest(later, x.shape[1:3])
        both = jnp.concatenate([x, later], axis=-1)
        share = jax.nn.sigmoid(adapters.conv(params["attention"], both))
        x = x * share[..., :1] + later * share[..., 1:]
    x = nearest(x, size)
    y = adapters.conv(params["conv2"], x, padding=1)
    return adapters.norm(params["bn2"], y, groups), x


def _as_map(features: jax.Array) -> jax.Array:
    """Returns vectors `[B,C]` as maps of one pixel, and maps unchanged."""
    return features[:, None, None, :] if features.ndim == 2 else features


def _init(key, inputs: Inputs, info, *, middle, **options):
    if middle < 1:
        raise ArgumentError(f"got middle={middle}", "must be at least 1")
    student = [maps.shape[-1] for maps in inputs[0].chosen_student]
    teacher = [maps.shape[-1] for maps in inputs[0].chosen_teacher]
    middle = min(middle, student[-1])
    pairs = enumerate(zip(student, teacher, strict=True))
    return {
        str(i): fusion_init(
            jax.random.fold_in(key, i), width, middle, outputs, fuses=i < len(student) - 1
        )
        for i, (width, outputs) in pairs
    }, {}


def _apply(params, state, inputs: Inputs, context: Context, *, middle: int = 512):
    """Knowledge review over the chosen features, from the first stage to the pooled vector.

    The public code has features before the ReLU, the pooled vector last, and weight 1 (5 for
    ResNet-32x4 to ResNet-8x4) with a warm-up of 20 epochs, which is a schedule of the weight.

    Args:
      params: a fusion module for each feature.
      state: empty.
      inputs: one for each view.
      context: its groups are those of BatchNorm.
      middle: channels of the maps passed between stages, at most those of the student's last
        feature.

    Returns:
      Value, state, no metrics.

    Source: Chen et al. 2021, "Distilling Knowledge via Knowledge Review".
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        student = [_as_map(features) for features in item.chosen_student]
        teacher = [_as_map(features) for features in item.chosen_teacher]
        fused, later = [], None
        for i in reversed(range(len(student))):
            maps, later = fuse(
                params[str(i)], student[i], later, teacher[i].shape[1:3], context.groups
            )
            fused.insert(0, maps)
        value += masked_mean(hierarchical_context(fused, teacher), item.view.mask)
    return value, state, {}


reviewkd = Term(_init, _apply, features=True)
