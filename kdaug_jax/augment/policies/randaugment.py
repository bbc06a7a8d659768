"""RandAugment: n ops, each uniform over a list with replacement, all at magnitude m."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.policies import levels
from kdaug_jax.augment.policies.levels import (
    ENHANCE,
    FIXED,
    SHEAR,
    TRANSLATE,
    each,
    op_levels,
)
from kdaug_jax.augment.policies.policy import (
    HparamSpec,
    Levels,
    Policy,
    Rows,
    below,
    count_hparam,
    named,
    padded,
    plain,
    signed,
    whole,
)
from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Range

# The list of Wei et al. 2020, for `ops` of the TPU spaces: no square and no solarize_add.
WEI2020 = (
    "Invert", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)
TPU_HIGHEST = 60  # twice the paper's scale; published runs go up to 36


class Space(NamedTuple):
    """One list of ops.

    Attributes:
      levels: the ops and what they do at each magnitude.
      highest: the largest magnitude; the smallest is 0.
      variant: see `Policy`.
      fill: see `Policy`.
    """

    levels: Levels
    highest: int
    variant: str
    fill: str | int


def _without(ops: Levels, *names: str) -> Levels:
    return {name: function for name, function in ops.items() if name not in names}


def _paper(size, translate_const, cutout_const) -> Space:
    """The list of the paper with AutoAugment's ranges over magnitudes 0..30.

    The paper gives no formula. Here the ranges of AutoAugment's Table 6 are cut into 30 steps,
    so that solarize and posterize change nothing at 0; the enhancing ops start at factor 0.1.
    """
    _only_tpu(translate_const, cutout_const)
    return Space({
        "Identity": lambda m, size: plain("identity"),
        **_without(FIXED, "Invert"),
        "Rotate": lambda m, size: signed("rotate", m * 30 / 30),
        "Solarize": lambda m, size: plain("solarize", 256 - m * 256 // 30),
        "Posterize": lambda m, size: plain("posterize", 8 - m * 4 // 30),
        **each(ENHANCE, lambda op, m, size: plain(op, m * 1.8 / 30 + 0.1)),
        **each(SHEAR, lambda op, m, size: signed(op, m * 0.3 / 30)),
        **each(TRANSLATE, lambda op, m, size: signed(
            op[0], m * 150 / 30 / 331 * size[op[1]])),
    }, 30, "pillow", "mean")


def _tpu(clean: bool, size, translate_const, cutout_const) -> Space:
    """The list of EfficientNet's TPU code."""
    ops = levels.tpu(
        clean,
        100 if translate_const is None else translate_const,
        40 if cutout_const is None else cutout_const,
    )
    return Space(ops, TPU_HIGHEST, "tpu_clean" if clean else "tpu", 128)


def _torchvision(size, translate_const, cutout_const) -> Space:
    _only_tpu(translate_const, cutout_const)
    return Space(_without(levels.torchvision(31), "Invert"), 30, "torchvision", "black")


def _only_tpu(translate_const, cutout_const) -> None:
    if translate_const is not None or cutout_const is not None:
        raise ArgumentError(
            "translate_const or cutout_const is given", "only the spaces tpu and tpu_clean take it"
        )


SPACES: dict[str, Callable[..., Space]] = {
    "paper": _paper,
    "tpu": lambda *options: _tpu(False, *options),
    "tpu_clean": lambda *options: _tpu(True, *options),
    "torchvision": _torchvision,
}


def randaugment(
    n: int,
    m: int,
    space: str = "paper",
    *,
    size: tuple[int, int],
    ops: Sequence[str] | None = None,
    translate_const: float | None = None,
    cutout_const: float | None = None,
    counts: Mapping[str, int] | None = None,
) -> Policy:
    """Applies n ops in turn, each uniform over a space with replacement, all at magnitude m.

    Signs of signed ops are positive with probability 1/2.

    Args:
      n: how many ops.
      m: the magnitude, traced under the name `m`; 0..30, in the TPU spaces 0..60 or as far as
        squares do not hide whole images.
      space: `paper`, 14 ops with AutoAugment's ranges on a scale of 30; `tpu`, EfficientNet's 16
        bit for bit with what wraps beyond 10; `tpu_clean`, the same with ranges that end;
        `torchvision`, 14 ops on 31 bins. The last has the arithmetic of torchvision on tensors;
        on images of Pillow it uses Pillow's: `policy._replace(variant="pillow")`.
      size: height and width of the images in pixels.
      ops: names of the space's ops to draw from, such as `WEI2020`, and ops from outside as
        `package.module:function`, see `levels.op_levels`; None for all of the space.
      translate_const: pixels of translation at 10 in the TPU spaces, 100 there. Images that are
        much smaller than 224 need smaller ones.
      cutout_const: half the side of squares at 10 in the TPU spaces, 40 there.
      counts: `{"n": most}` to trace n, 0..most: an image then takes `most` stages, those after the
        first n the identity.

    Returns:
      A policy with the traced hyper-parameter `m`, `i32[]`, and `n`, `i32[]`, of `counts`.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Cubuk et al. 2020 (RandAugment); `distort_image_with_randaugment` of
    tensorflow/tpu; `RandAugment` of torchvision.
    """
    op_space = named("space", space, SPACES)(size, translate_const, cutout_const)
    swept = counts or {}
    stages = whole("n", swept.get("n", n), 0, 100)
    whole("m", m, 0, op_space.highest)
    if ops is not None and not ops:
        raise ArgumentError("ops is empty", "name at least one op")
    if isinstance(ops, str):
        raise ArgumentError(f"ops is the text {ops!r}", f"must be a list of names, as [{ops!r}]")
    chosen = {
        name: op_levels(name, op_space.levels, op_space.highest, size)
        for name in (ops or op_space.levels)
    }
    highest = _highest(chosen, op_space.highest, size)
    if m > highest:
        raise ArgumentError(
            f"m is {m}, but from m={highest + 1} on squares hide {size[1]}×{size[0]} images whole",
            f"take m up to {highest}, a smaller cutout_const, or ops without Cutout",
        )
    rows = Rows()
    index = rows([
        [op(level, size) for level in range(highest + 1)] for op in chosen.values()
    ])
    hparams = {"m": level_hparam(m, highest), **{name: count_hparam(stages) for name in swept}}
    return Policy(
        rows.ops, uniform(index, stages), stages, hparams, op_space.variant, fill=op_space.fill
    )


def _highest(chosen: Levels, highest: int, size: tuple[int, int]) -> int:
    """Returns the largest magnitude at which no square hides an image wherever it lies."""
    if "Cutout" not in chosen:
        return highest
    sides = [chosen["Cutout"](m, size)[0].value for m in range(highest + 1)]
    return sum(side // 2 < max(size) for side in sides) - 1


def level_hparam(m: int, highest: int) -> HparamSpec:
    """Returns the traced hyper-parameter of a magnitude 0..highest."""
    return HparamSpec(np.asarray(m, np.int32), Range(np.int32, 0, highest))


def uniform(index: np.ndarray, stages: int) -> Callable[..., jax.Array]:
    """Makes the draw of uniform ops with uniform signs at the traced level `m`.

    Args:
      index: `i32[ops,levels,signs]`, row numbers.
      stages: how many ops; of these the first `n` where that is traced.

    Returns:
      A policy's `draw`.
    """

    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        op = below(key, "op", len(index), (stages,))
        sign = below(key, "sign", index.shape[2], (stages,))
        taken = jnp.asarray(index)[op, hparams["m"], sign]
        return padded(taken, hparams["n"]) if "n" in hparams else taken

    return draw
