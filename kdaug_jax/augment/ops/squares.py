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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax import rng

CLIPPED, INSIDE, REAL = range(3)  # how cutout, erase_square and cutout_fast place a square


class Squares(NamedTuple):
    """The squares that the rows of a table erase.

    Attributes:
      kind: `i32[rows]`, `CLIPPED`, `INSIDE` or `REAL`; any where nothing is erased.
      side: `i32[rows]`, lines of the box before it is clipped; 0 where nothing is erased.
      half: `i32[rows]`, from the centre to the first line in 1/65536 pixels, for `REAL`.
    """

    kind: ArrayLike = 0
    side: ArrayLike = 0
    half: ArrayLike = 0


def square(kind: int, side: float) -> Squares:
    """Returns one square of a side in pixels, as host numbers."""
    if kind == REAL:
        return Squares(kind, int(side) + 1, int(side / 2 * 65536 + 0.5))
    return Squares(kind, int(side))


def square_offsets(key: jax.Array, stages: int) -> jax.Array:
    """Draws the places of the squares of one image, whether or not its stages erase any.

    Args:
      key: `key[]`, the key that the policy's `draw` takes.
      stages: of the policy.

    Returns:
      `u32[stages,2]`, for `box`.
    """
    return jax.random.bits(rng.fold(key, "place"), (stages, 2), jnp.uint32)


def box(
    offset: jax.Array, kind: jax.Array, side: jax.Array, half: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns the box that one stage of one image erases.

    Args:
      offset: `u32[2]`, from `square_offsets`: for the rows, for the columns.
      kind: `i32[]`, of the row, see `Squares`.
      side: `i32[]`, of the row.
      half: `i32[]`, of the row.
      size: height and width of the image in pixels, at most 32767.

    Returns:
      `i32[4]`: first row, row after the last, first column, column after the last; empty where
      nothing is erased.
    """
    spans = (_span(offset[axis], kind, side, half, size[axis]) for axis in range(2))
    return jnp.concatenate([*spans])


def _span(offset, kind, side, half, length: int) -> jax.Array:
    centre = (offset % jnp.uint32(length)).astype(jnp.int32)
    around = centre - side // 2
    free = jnp.maximum(length - side, 0) + 1
    inside = (offset % free.astype(jnp.uint32)).astype(jnp.int32)
    # The upper 16 bits are the centre in 16.16 fixed point, uniform over 0..length.
    real = ((offset >> 16) * jnp.uint32(length)).astype(jnp.int32)
    corner = jnp.maximum(real - half, 0) >> 16
    first = jnp.where(kind == REAL, corner, jnp.where(kind == INSIDE, inside, around))
    lines = jnp.where(kind == CLIPPED, side // 2 * 2, side)
    return jnp.clip(jnp.stack([first, first + lines]), 0, length)
