"""Where erased squares lie: two random numbers a stage, turned into a box of whole pixels.

Three ops erase squares, at a place that is drawn anew each time:
`cutout`: side s around a centre that is uniform over the pixels; s // 2 lines go to each side
  and the border clips (DeVries and Taylor 2017; an odd side loses one line);
`erase_square`: the square lies wholly inside, its first corner uniform over what that leaves;
  a side that is larger than the image covers it;
`cutout_fast`: as Fast AutoAugment paints, side v real: the centre is a real number, its corner
  less v / 2 is moved inside at the top and left, and int(v) + 1 lines are cut by the other border.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.policies.policy import SQUARES, Op


class Squares(NamedTuple):
    """The squares that the rows of a table erase.

    Attributes:
      kind: `i32[rows]`, position in `SQUARES`; any where nothing is erased.
      side: `i32[rows]`, lines of the box before it is clipped; 0 where nothing is erased.
      half: `i32[rows]`, from the centre to the first line in 1/65536 pixels, for `cutout_fast`.
    """

    kind: np.ndarray
    side: np.ndarray
    half: np.ndarray


def squares(ops: Sequence[Op]) -> Squares:
    """Reads the squares of the rows of a table, on the host."""
    rows = [_square(op) for op in ops]
    return Squares(*(np.array(column, np.int32) for column in zip(*rows, strict=True)))


def _square(op: Op) -> tuple[int, int, int]:
    if op.name not in SQUARES or op.value <= 0:
        return 0, 0, 0
    kind = SQUARES.index(op.name)
    if op.name == "cutout_fast":
        return kind, int(op.value) + 1, int(op.value / 2 * 65536 + 0.5)
    return kind, int(op.value), 0


def places(key: jax.Array, stages: int) -> jax.Array:
    """Draws the places of the squares of one image, whether or not its stages erase any.

    Args:
      key: `key[]`, the key that the policy's `draw` takes.
      stages: of the policy.

    Returns:
      `u32[stages,2]`, for `box`.
    """
    return jax.random.bits(rng.fold(key, "place"), (stages, 2), jnp.uint32)


def box(
    place: jax.Array, kind: jax.Array, side: jax.Array, half: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Gives the box that one stage of one image erases.

    Args:
      place: `u32[2]`, from `places`: for the rows, for the columns.
      kind: `i32[]`, of the row, see `Squares`.
      side: `i32[]`, of the row.
      half: `i32[]`, of the row.
      size: height and width of the image in pixels, at most 32767.

    Returns:
      `i32[4]`: first row, row after the last, first column, column after the last; empty where
      nothing is erased.
    """
    spans = (_span(place[axis], kind, side, half, size[axis]) for axis in range(2))
    return jnp.concatenate([*spans])


def _span(place, kind, side, half, length: int) -> jax.Array:
    centre = (place % jnp.uint32(length)).astype(jnp.int32)
    around = centre - side // 2
    free = jnp.maximum(length - side, 0) + 1
    inside = (place % free.astype(jnp.uint32)).astype(jnp.int32)
    # The upper 16 bits are the centre in 16.16 fixed point, uniform over 0..length.
    real = ((place >> 16) * jnp.uint32(length)).astype(jnp.int32)
    corner = jnp.maximum(real - half, 0) >> 16
    first = jnp.stack([around, inside, corner])[kind]
    lines = jnp.where(kind == SQUARES.index("cutout"), side // 2 * 2, side)
    return jnp.clip(jnp.stack([first, first + lines]), 0, length)
