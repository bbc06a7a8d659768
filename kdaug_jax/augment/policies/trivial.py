"""TrivialAugment: one op an image at a uniform strength."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdaug_jax.augment.policies.levels import Reach, torchvision
from kdaug_jax.augment.policies.policy import Policy, Rows, below

BINS = 31
WIDE = Reach(shear=0.99, translate=32.0, rotate=135.0, enhance=0.99, bits=6)


def trivialaugment_wide(*, size: tuple[int, int]) -> Policy:
    """Applies one of RandAugment's 14 ops, at one of 31 strengths, all uniform.

    Shears reach 0.99, translations 32 pixels, rotations 135 degrees, enhancing factors
    1 +- 0.99, posterize keeps 8..2 bits, solarize has thresholds 255..0. Signs are positive with
    probability 1/2.

    Args:
      size: height and width of the images in pixels; translations do not scale with it.

    Returns:
      A policy without traced hyper-parameters.

    Source: Müller and Hutter 2021 (TrivialAugment), wide space, with torchvision's numbers; for
    its arithmetic on tensors `policy._replace(variant="torchvision")`.
    """
    ops = {name: op for name, op in torchvision(BINS, WIDE).items() if name != "Invert"}
    rows = Rows()
    index = rows([[op(number, size) for number in range(BINS)] for op in ops.values()])

    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        del hparams
        op = below(key, "op", len(index), (1,))
        strength = below(key, "strength", BINS, (1,))
        sign = below(key, "sign", 2, (1,))
        return jnp.asarray(index)[op, strength, sign]

    return Policy(rows.ops, draw, 1, fill="black")
