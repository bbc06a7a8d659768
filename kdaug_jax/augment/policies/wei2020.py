"""The five-op space of Wei et al. 2020 (arXiv:2003.11342, Table 1).

The paper gives the ops, N=2, and that magnitude M=3 translates by 30 % of the field while M=10
destroys the image. With m = M/10, read here as: each op leaves the fraction 1-m of the image
visible (cutout: a square of side m), at a fixed magnitude with a random sign. The options are
the other readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdaug_jax.augment.policies.policy import (
    Levels,
    Pair,
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
from kdaug_jax.augment.policies.randaugment import level_hparam

OPS = ("shear_x", "shear_y", "translate_x", "translate_y", "cutout")
HIGHEST = 10
OPTIONS = {
    "translate": ("fixed", "uniform"),
    "shear": ("visible", "angle"),
    "cutout": ("side", "area", "clipped"),
}


def pixels(level: int, length: int) -> int:
    """Returns `level / 10 * length` pixels, rounded half up without a float between."""
    return (2 * level * length + HIGHEST) // (2 * HIGHEST)


def visible_shear(level: int, across: int, along: int) -> float:
    """Returns the shear that leaves 1-m of an image visible.

    A shear about the corner leaves 1 - v/2 of a square for v <= 1 and 1/(2v) beyond; the ratio
    of the sides makes the same true of other rectangles.

    Args:
      level: 0..9.
      across: side in pixels along which lines are moved.
      along: the other side in pixels.

    Returns:
      Pixels moved per line.
    """
    m = level / HIGHEST
    v = 2 * m if 2 * level <= HIGHEST else 1 / (2 * (1 - m))
    return v * across / along


def _move(axis: int, level: int, size: tuple[int, int]) -> Pair:
    name = ("translate_y", "translate_x")[axis]
    return signed(name, pixels(level, size[axis]))


def _shear(axis: int, level: int, size: tuple[int, int], reading: str) -> Pair:
    if level == HIGHEST:  # no finite shear hides everything
        return _move(axis, level, size)
    if reading == "angle":
        v = math.tan(math.radians(9 * level))
    else:
        v = visible_shear(level, size[axis], size[1 - axis])
    return signed(("shear_y", "shear_x")[axis], v)


def _square(level: int, size: tuple[int, int], reading: str) -> Pair:
    length = min(size)
    if reading == "clipped":
        return plain("cutout", 2 * (max(size) if level == HIGHEST else pixels(level, length)))
    if level == HIGHEST:  # covers a rectangle too
        return plain("erase_square", max(size))
    if reading == "area":
        return plain("erase_square", math.floor(math.sqrt(level / HIGHEST) * length + 0.5))
    return plain("erase_square", pixels(level, length))


def wei2020_levels(shear: str = "visible", cutout: str = "side") -> Levels:
    """Returns the five ops as functions of a level 0..10 and an image size.

    Args:
      shear: see `wei2020`.
      cutout: see `wei2020`.
    """
    return {
        "ShearX": lambda level, size: _shear(1, level, size, shear),
        "ShearY": lambda level, size: _shear(0, level, size, shear),
        "TranslateX": lambda level, size: _move(1, level, size),
        "TranslateY": lambda level, size: _move(0, level, size),
        "Cutout": lambda level, size: _square(level, size, cutout),
    }


def wei2020(
    n: int,
    m: int,
    *,
    size: tuple[int, int],
    translate: str = "fixed",
    shear: str = "visible",
    cutout: str = "side",
    counts: Mapping[str, int] | None = None,
) -> Policy:
    """Applies n ops in turn, each uniform over the five, all at magnitude m with random signs.

    At magnitude 0 no op changes anything, at 10 each leaves nothing.

    Args:
      n: how many ops; 2 in the paper.
      m: the magnitude 0..10, traced under the name `m`.
      size: height and width of the images in pixels.
      translate: `fixed`, by m of the side; `uniform`, by u m of it with u uniform over [0,1),
        "at most" as the paper words it.
      shear: `visible`, so that 1-m stays visible; `angle`, by an angle of 9 degrees a level.
      cutout: `side`, a square of side m wholly inside; `area`, of area m; `clipped`, of side 2m
        around a uniform centre, clipped by the border.
      counts: `{"n": most}` to trace n, see `randaugment`.

    Returns:
      A policy with the traced hyper-parameter `m`, `i32[]`, and `n`, `i32[]`, of `counts`.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Wei et al. 2020, Table 1.
    """
    swept = counts or {}
    stages = whole("n", swept.get("n", n), 0, 100)
    whole("m", m, 0, HIGHEST)
    for option, value in (("translate", translate), ("shear", shear), ("cutout", cutout)):
        named(option, value, dict.fromkeys(OPTIONS[option]))
    rows, levels = Rows(), range(HIGHEST + 1)
    index = rows([
        [op(level, size) for level in levels] for op in wei2020_levels(shear, cutout).values()
    ])
    moves = None
    if translate == "uniform":
        far = range(max(size) + 1)
        moves = rows([[signed(name, by) for by in far] for name in ("translate_x", "translate_y")])

    def draw(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        taken = take(key, hparams)
        return padded(taken, hparams["n"]) if "n" in hparams else taken

    def take(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        op = below(key, "op", len(OPS), (stages,))
        sign = below(key, "sign", 2, (stages,))
        row = jnp.asarray(index)[op, hparams["m"], sign]
        if moves is None:
            return row
        axis = jnp.clip(op - OPS.index("translate_x"), 0, 1)
        length = jnp.where(axis == 0, size[1], size[0])
        # u m length in units of 1/20 pixel, so that rounding half up is exact.
        twentieths = below(key, "distance", 2 * hparams["m"] * length, (stages,))
        by = (twentieths + HIGHEST) // (2 * HIGHEST)
        moved = jnp.asarray(moves)[axis, by, sign]
        return jnp.where((op == 2) | (op == 3), moved, row)

    hparams = {"m": level_hparam(m, HIGHEST), **{name: count_hparam(stages) for name in swept}}
    return Policy(rows.ops, draw, stages, hparams)
