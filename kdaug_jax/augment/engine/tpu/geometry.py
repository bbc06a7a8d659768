"""Affine maps of nearest pixels, without a gather of single pixels.

A TPU moves words within a row of 128 lanes at will, and to other rows hardly at all. Where a map
only moves rows, each row of the result is made of one row of the image, moved along its lanes.
Other maps take two passes. Let u be the axis of the image along which a row of the result runs
faster, and r the other. The first pass makes, for each row y of the result, the line of those
pixels that lie in column u of the image where row y crosses it: at most two neighbours, r and
r + 1, so they are told apart by whether r is even, in two planes `[y,u]`. As each line of a plane
is a line of the image moved along r, it is computed with r in the lanes, and turned. The second
pass moves the lines of the planes along their lanes, and takes each pixel from one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kdaug_jax.augment.engine.tpu.rows import INVERSE, MAP, ROW_OFFSET, SWAPPED, Op
from kdaug_jax.augment.engine.tpu.tiles import (
    LANES,
    MARGIN,
    ROWS,
    Layout,
    Memory,
    copy_with_margin,
    for_groups,
    gather_lanes,
    group_rows,
    lanes_of,
    rows_of,
    tile_lanes,
)
from kdaug_jax.augment.ops.blending import split
from kdaug_jax.augment.ops.tpu.geometry import nearest, place

TURNED = 16  # groups in a block of 128 rows
NEAR = 3  # tiles of a long row that a group is gathered from, see `limits`
SLACK = 2  # pixels by which the corner of a group may be misjudged


class Map(NamedTuple):
    """The map of one row, all in the order of the passes.

    Attributes:
      fast: `f(x, y) -> i32[...]`, the coordinate u of output pixels.
      slow: `f(x, y) -> i32[...]`, the coordinate r.
      crossings: `f(u, y) -> two i32[...]`, the coordinates r where row y crosses column u.
      near_fast: `f(x, y) -> i32[]`, about `fast`.
      near_slow: `f(u, y) -> i32[]`, about the coordinate r where row y crosses column u.
    """

    fast: Callable[..., jax.Array]
    slow: Callable[..., jax.Array]
    crossings: Callable[..., tuple[jax.Array, jax.Array]]
    near_fast: Callable[..., jax.Array]
    near_slow: Callable[..., jax.Array]


def fixed_map(op: Op) -> Map:
    """Returns the map of a row in 16.16 fixed point, see `ops.geometry.nearest_pixels`."""
    a, b, c, d, e, f = (op.integer(MAP + entry) for entry in range(6))
    sign = jnp.where(a < 0, -1, 1)
    step, slow_step, inverse = a * sign, d * sign, op.real(INVERSE)

    def crossings(u: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        slow = slow_step * first_crossing(step, inverse, b * y + c - (u << 16)) + (e * y + f)
        return slow >> 16, (slow + slow_step) >> 16

    def near_slow(u: jax.Array, y: jax.Array) -> jax.Array:
        way = ((u << 16) - b * y - c).astype(jnp.float32) * inverse
        return (slow_step * way.astype(jnp.int32) + e * y + f) >> 16

    def fast(x: jax.Array, y: jax.Array) -> jax.Array:
        return (a * x + (b * y + c)) >> 16

    return Map(fast, lambda x, y: (d * x + (e * y + f)) >> 16, crossings, fast, near_slow)


def first_crossing(step: jax.Array, inverse: jax.Array, start: jax.Array) -> jax.Array:
    """Returns the smallest whole x at which step * x + start is 0 or more.

    Args:
      step: `i32[]`, above 0.
      inverse: `f32[]`, 1 / step.
      start: `i32[...]`; -start / step is below 2^20, so that it is misjudged by less than 1.

    Returns:
      `i32[...]`.
    """
    x = jnp.ceil((0 - start).astype(jnp.float32) * inverse).astype(jnp.int32)
    rest = step * x + start
    return x + jnp.where(rest < 0, 1, 0) - jnp.where(rest >= step, 1, 0)


def float_map(op: Op) -> Map:
    """Returns the map of a row in float32 pixels, see `ops.tpu.geometry.nearest_pixels`."""
    a, b, c, d, e, f = (op.real(MAP + entry) for entry in range(6))
    inverse = jnp.where(a < 0, 0.0 - op.real(INVERSE), op.real(INVERSE))
    half = jnp.where(a < 0, 0.5, -0.5)  # towards where a row comes from

    def coordinate(p: jax.Array, q: jax.Array, r: jax.Array) -> Callable[..., jax.Array]:
        parts = (*split(p), *split(q), r)

        def at(x: jax.Array, y: jax.Array) -> jax.Array:
            return nearest(place(*parts, x.astype(jnp.float32), y.astype(jnp.float32)))

        return at

    fast, slow = coordinate(a, b, c), coordinate(d, e, f)

    def crossings(u: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        way = u.astype(jnp.float32) + half - b * y.astype(jnp.float32) - c
        x = jnp.ceil(way * inverse).astype(jnp.int32)
        before, here = fast(x - 1, y) == u, fast(x, y) == u
        first = jnp.where(before, x - 1, jnp.where(here, x, x + 1))
        return slow(first, y), slow(first + 1, y)

    def real(number: Any) -> jax.Array:
        return jnp.asarray(number, jnp.int32).astype(jnp.float32)

    def near_fast(x: Any, y: Any) -> jax.Array:
        return (a * real(x) + b * real(y) + c).astype(jnp.int32)

    def near_slow(u: Any, y: Any) -> jax.Array:
        way = (real(u) - b * real(y) - c) * inverse
        return (d * way + e * real(y) + f).astype(jnp.int32)

    return Map(fast, slow, crossings, near_fast, near_slow)


def move(layout: Layout, memory: Memory, op: Op, affine: Map, fill: jax.Array) -> None:
    """Maps the image in two passes, taking nearest pixels, or the fill outside."""
    turn(layout, memory, op)
    to_planes(layout, memory, _across(layout, memory, affine), memory.planes[:2])
    _along(layout, memory, op, affine, fill)


def shift(layout: Layout, memory: Memory, op: Op, affine: Map, fill: jax.Array) -> None:
    """Maps the image where each row of the result comes from one row."""
    copy_with_margin(layout, memory)
    offset = op.integer(ROW_OFFSET)

    def move_group(group) -> None:
        # The first of eight rows; rows outside the image are in the margin, or not used.
        start = jnp.clip(ROWS * group + offset, -MARGIN, layout.rows) + MARGIN
        row = ROWS * group + rows_of()
        inside = (row + offset >= 0) & (row + offset < layout.height)
        near = memory.planes[0][group_rows(start >> 3, count=2 * ROWS), : layout.lanes]
        near = pltpu.roll(near, (2 * ROWS - (start & 7)) & 15, axis=0)[:ROWS]
        tiles = [near[:, tile_lanes(tile)] for tile in range(layout.across)]
        for tile in range(layout.across):
            column = affine.fast(lanes_of() + LANES * tile, row)
            seen = inside & (column >= 0) & (column < layout.width)
            moved = jnp.where(seen, gather_lanes(tiles, column), fill)
            memory.image[group_rows(group), tile_lanes(tile)] = moved

    for_groups(layout, move_group)


def turn(layout: Layout, memory: Memory, op: Op) -> None:
    """Lays the image out with u in the rows and r in the lanes."""

    @pl.when(op.integer(SWAPPED) != 0)
    def _() -> None:
        def copy(group) -> None:
            memory.turned[group_rows(group), : layout.lanes] = memory.image[group_rows(group), :]

        for_groups(layout, copy)

    @pl.when(op.integer(SWAPPED) == 0)
    def _() -> None:
        for first in range(0, layout.rows, LANES):
            for tile in range(layout.across):
                rows = min(LANES, layout.rows - first)
                block = memory.image[first : first + rows, tile_lanes(tile)]
                if rows < LANES:
                    missing = jnp.zeros((LANES - rows, LANES), jnp.uint32)
                    block = jnp.concatenate([block, missing], axis=0)
                memory.turned[tile_lanes(tile), first : first + LANES] = block.T


def near_tiles(layout: Layout) -> int:
    """Returns how many tiles of a row of the planes a group is gathered from."""
    return min(layout.side // LANES, NEAR)


def first_tile(layout: Layout, estimate: Callable[..., jax.Array], lane: Any, row: Any) -> Any:
    """Returns the first of the tiles that eight rows of 128 lanes are gathered from.

    Args:
      layout: of the image.
      estimate: `f(lane, row) -> i32[]`, about the column that is taken, an affine map.
      lane: `i32[]`, the first lane.
      row: `i32[]`, the first row.
    """
    if layout.side // LANES <= NEAR:
        return 0
    corners = [
        estimate(lane + right, row + down) for right in (0, LANES - 1) for down in (0, ROWS - 1)
    ]
    least = jnp.minimum(jnp.minimum(*corners[:2]), jnp.minimum(*corners[2:])) - SLACK
    return jnp.clip(least >> 7, 0, layout.side // LANES - NEAR)


def _across(layout: Layout, memory: Memory, affine: Map) -> Callable[..., list[jax.Array]]:
    """Returns what computes eight rows u of the planes of even and of odd r, y in the lanes."""

    def lines(group: Any, tile: Any) -> list[jax.Array]:
        u, y = ROWS * group + rows_of(), LANES * tile + lanes_of()
        slow, next_slow = affine.crossings(u, y)
        odd = (slow & 1) == 1
        first = first_tile(
            layout, lambda y, u: affine.near_slow(u, y), LANES * tile, ROWS * group
        )
        tiles = [
            memory.turned[group_rows(group), tile_lanes(first + number)]
            for number in range(near_tiles(layout))
        ]
        return [
            gather_lanes(tiles, jnp.where(odd, next_slow, slow), first),
            gather_lanes(tiles, jnp.where(odd, slow, next_slow), first),
        ]

    return lines


def to_planes(
    layout: Layout, memory: Memory, lines: Callable[..., list[jax.Array]], planes: Any
) -> None:
    """Fills planes `[y,u]` with what `lines(group of u, tile of y)` computes of each."""
    blocks, tiles = memory.blocks[: len(planes)], layout.side // LANES

    def fill_block(number, carry):
        down, across = lax.div(number, jnp.int32(tiles)), lax.rem(number, jnp.int32(tiles))

        def fill_rows(group, carry):
            for block, line in zip(blocks, lines(TURNED * across + group, down), strict=True):
                block[group_rows(group), :] = line
            return carry

        lax.fori_loop(0, TURNED, fill_rows, 0, unroll=4)
        rows = pl.ds(pl.multiple_of(LANES * down + MARGIN, ROWS), LANES)
        for plane, block in zip(planes, blocks, strict=True):
            plane[rows, tile_lanes(across)] = block[...].T
        return carry

    lax.fori_loop(0, -(-layout.height // LANES) * tiles, fill_block, 0)


def plane_tiles(layout: Layout, plane: Any, group: Any, first: Any) -> list[jax.Array]:
    """Returns the tiles of a group of a plane from the `first` one on."""
    rows = group_rows(group, MARGIN)
    return [plane[rows, tile_lanes(first + number)] for number in range(near_tiles(layout))]


def _along(layout: Layout, memory: Memory, op: Op, affine: Map, fill: jax.Array) -> None:
    even, odd = memory.planes[:2]
    swapped = op.integer(SWAPPED) != 0
    fast_length = jnp.where(swapped, layout.height, layout.width)
    slow_length = jnp.where(swapped, layout.width, layout.height)

    def move_group(group) -> None:
        row = ROWS * group + rows_of()
        for tile in range(layout.across):
            column = lanes_of() + LANES * tile
            u, r = affine.fast(column, row), affine.slow(column, row)
            inside = (u >= 0) & (u < fast_length) & (r >= 0) & (r < slow_length)
            first = first_tile(layout, affine.near_fast, np.int32(LANES * tile), ROWS * group)
            pixels = jnp.where(
                (r & 1) == 1, gather_lanes(plane_tiles(layout, odd, group, first), u, first),
                gather_lanes(plane_tiles(layout, even, group, first), u, first),
            )
            moved = jnp.where(inside, pixels, fill)
            memory.image[group_rows(group), tile_lanes(tile)] = moved

    for_groups(layout, move_group)
