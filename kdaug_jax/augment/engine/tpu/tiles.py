"""How an image lies in a TPU's vector memory: a packed pixel a word, in tiles of 8 x 128 words.

What lies beyond the image, up to whole tiles, is undefined: an op may leave anything there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

ROWS, LANES = 8, 128
TILE = (ROWS, LANES)
MARGIN = ROWS  # undefined rows before and after the image, in copies that are read at offsets


def round_up(number: int, unit: int) -> int:
    """Returns the smallest multiple of `unit` that is not below `number`."""
    return -(-number // unit) * unit


class Layout(NamedTuple):
    """The size of the images in pixels, and what follows from it."""

    height: int
    width: int

    @property
    def rows(self) -> int:
        """Rows in whole tiles."""
        return round_up(self.height, ROWS)

    @property
    def lanes(self) -> int:
        """Columns in whole tiles."""
        return round_up(self.width, LANES)

    @property
    def side(self) -> int:
        """Side of a square of 128 x 128 blocks that holds the image."""
        return max(round_up(self.height, LANES), self.lanes)

    @property
    def groups(self) -> int:
        """Groups of eight rows."""
        return self.rows // ROWS

    @property
    def across(self) -> int:
        """Tiles in a row of the image."""
        return self.lanes // LANES


class Memory(NamedTuple):
    """The references of a kernel.

    Attributes:
      image: `u32[rows,lanes]`, replaced by each op.
      turned: `u32[side,side]`, see `geometry`.
      planes: `u32[rows up to 128s + 16, side]` each; the first takes copies with a margin.
      blocks: `u32[128,128]` each.
      lut: `u32[8,128]`, see `luts`.
      luts: `u32[L,128]`, the given lookup tables.
      constants: `u32[8,128]`, of the variant.
      shared: `i32[N]` in scalar memory, see `rows`.
    """

    image: Any
    turned: Any
    planes: tuple[Any, ...]
    blocks: tuple[Any, ...]
    lut: Any
    luts: Any
    constants: Any
    shared: Any


def lanes_of(shape: tuple[int, int] = TILE) -> jax.Array:
    """Returns the number of each word's lane, `i32[shape]`."""
    return lax.broadcasted_iota(jnp.int32, shape, 1)


def rows_of(shape: tuple[int, int] = TILE) -> jax.Array:
    """Returns the number of each word's row, `i32[shape]`."""
    return lax.broadcasted_iota(jnp.int32, shape, 0)


def group_rows(group: Any, margin: int = 0, count: int = ROWS) -> Any:
    """Returns the slice of the rows of a group, in an array with a margin."""
    return pl.ds(pl.multiple_of(ROWS * group + margin, ROWS), count)


def tile_lanes(tile: Any) -> Any:
    """Returns the slice of the lanes of a tile in its row."""
    if isinstance(tile, int):
        return slice(LANES * tile, LANES * tile + LANES)
    return pl.ds(pl.multiple_of(LANES * tile, LANES), LANES)


def unrolled(count: int) -> int:
    """Returns how often a loop of `count` turns is unrolled: what divides it, at most 5."""
    return next(times for times in (4, 5, 3, 2, 1) if count % times == 0)


def for_groups(layout: Layout, body: Callable[[Any], None]) -> None:
    """Calls `body(group)` for each group of eight rows."""

    def turn(group, carry):
        body(group)
        return carry

    lax.fori_loop(0, layout.groups, turn, 0, unroll=unrolled(layout.groups))


def copy_with_margin(layout: Layout, memory: Memory) -> None:
    """Copies the image to the first plane, `MARGIN` rows further down."""

    def copy(group) -> None:
        memory.planes[0][group_rows(group, MARGIN), : layout.lanes] = memory.image[
            group_rows(group), :
        ]

    for_groups(layout, copy)


def take_lanes(tile: jax.Array, lanes: jax.Array) -> jax.Array:
    """Takes from each row of `[8,128]` the lanes `i32[8,128]`, 0..127."""
    return jnp.take_along_axis(tile, lanes, axis=1, mode="promise_in_bounds")


def gather_lanes(tiles: Sequence[jax.Array], columns: jax.Array, first: Any = 0) -> jax.Array:
    """Takes words of a row that is several tiles long.

    Args:
      tiles: `[8,128]` each, those of the row from the `first` one on.
      columns: `i32[8,128]`, the columns that are taken.
      first: number of the first tile.

    Returns:
      `[8,128]`; anything where a column is not among those of the tiles.
    """
    lanes, tile = columns & (LANES - 1), columns >> 7
    taken = take_lanes(tiles[0], lanes)
    for number, words in enumerate(tiles[1:], start=1):
        taken = jnp.where(tile == first + number, take_lanes(words, lanes), taken)
    return taken
