"""The five-op space of Wei et al. 2020 (arXiv:2003.11342, Table 1) as tables of numbers.

The paper gives the ops, N=2, and that magnitude M=3 translates by 30 % of the field while M=10
destroys the image. With m = M/10, read here as: each op leaves the fraction 1-m of the image
visible (cutout: a square of side m), at a fixed magnitude with a random sign.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kdaug_jax.augment.geometry import affine_coefficients
from kdaug_jax.augment.policies.wei2020 import HIGHEST, pixels, visible_shear

OPS = ("shear_x", "shear_y", "translate_x", "translate_y", "cutout")
MAX_LEVEL = HIGHEST
SIGNS = (1, -1)


class Table(NamedTuple):
    """What each op does at each level and sign: an affine map, then an erased square.

    Attributes:
      coefficients: `i32[ops,levels,signs,6]`, for `geometry.affine_nearest`.
      side: `i32[ops,levels]`, side of the erased square in pixels, 0 for none.
    """

    coefficients: np.ndarray
    side: np.ndarray


def _affine(op: str, level: int, sign: int, height: int, width: int) -> np.ndarray:
    """Gives `i32[6]` of one op at one level and sign."""
    by_x, by_y = sign * pixels(level, width), sign * pixels(level, height)
    # No finite shear hides everything, so at the last level shears become whole translations.
    last = level == MAX_LEVEL
    if op == "translate_x" or (op == "shear_x" and last):
        return affine_coefficients(1, 0, by_x, 0, 1, 0)
    if op == "translate_y" or (op == "shear_y" and last):
        return affine_coefficients(1, 0, 0, 0, 1, by_y)
    if op == "shear_x":
        return affine_coefficients(1, sign * visible_shear(level, width, height), 0, 0, 1, 0)
    if op == "shear_y":
        return affine_coefficients(1, 0, 0, sign * visible_shear(level, height, width), 1, 0)
    return affine_coefficients(1, 0, 0, 0, 1, 0)


def _side(level: int, height: int, width: int) -> int:
    """Gives the side of cutout's square; the last level covers a rectangle too."""
    return max(height, width) if level == MAX_LEVEL else pixels(level, min(height, width))


def table(height: int, width: int) -> Table:
    """Builds the table of images of one size, on the host in double precision.

    Args:
      height: of the images in pixels.
      width: of the images in pixels.

    Returns:
      Its rows; those of level 0 change nothing and those of level 10 leave nothing.

    Source: Wei et al. 2020, Table 1.
    """
    levels = range(MAX_LEVEL + 1)
    coefficients = [
        [[_affine(op, level, sign, height, width) for sign in SIGNS] for level in levels]
        for op in OPS
    ]
    side = [
        [_side(level, height, width) if op == "cutout" else 0 for level in levels] for op in OPS
    ]
    return Table(np.array(coefficients, np.int32), np.array(side, np.int32))
