"""Bilinear and bicubic affine maps, in two passes as in `geometry`, with more planes.

A pixel needs the neighbours of where it comes from, 2 or 4 along each axis. Those of all pixels of
an output row y that need column u of the image lie within as many rows r as there are planes, 4 or
8, so plane k holds the one whose r leaves the remainder k. Where these rows begin is reckoned in
fixed point; coordinates and sums are Pillow's, in double precision (`float64_emulation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.augment.arithmetic import float64_emulation as f64
from kdaug_jax.augment.arithmetic.float64_emulation import Float64
from kdaug_jax.augment.arithmetic.packed import ALPHA, planes, with_colours
from kdaug_jax.augment.engine.tpu.geometry import (
    Map,
    first_crossing,
    first_tile,
    near_tiles,
    plane_tiles,
    to_planes,
    turn,
)
from kdaug_jax.augment.engine.tpu.rows import EXACT, FIXED, INVERSE, MAP, SWAPPED, Op
from kdaug_jax.augment.engine.tpu.tiles import (
    LANES,
    ROWS,
    TILE,
    Layout,
    Memory,
    for_groups,
    gather_lanes,
    group_rows,
    lanes_of,
    rows_of,
    tile_lanes,
)
from kdaug_jax.augment.ops.statistics import divide

REACH = {"bilinear": 1, "bicubic": 2}  # half the neighbours along an axis
# Fixed-point coordinates of images of up to 1,000 pixels are wrong by less, in pixels.
TOLERANCE = 1 / 64
SLACK = 8  # rows and columns that neighbours add to those that a group is gathered from


def planes_needed(method: str) -> int:
    """Returns how many planes a filter takes."""
    return 4 * REACH[method]


def move(
    layout: Layout, memory: Memory, op: Op, affine: Map, fill: jax.Array, method: str,
    channels: int,
) -> None:
    """Maps the image with a filter, "bilinear" or "bicubic".

    Args:
      layout: of the image.
      memory: of the kernel.
      op: the row.
      affine: its map in fixed point.
      fill: `u32[]`, for what lies outside.
      method: the filter.
      channels: with 4, the colours are weighted by alpha.
    """
    if channels == 4:
        _for_tiles(layout, memory, premultiplied)
    turn(layout, memory, op)
    used = memory.planes[: planes_needed(method)]
    to_planes(layout, memory, _across(layout, memory, op, affine, REACH[method]), used)
    _along(layout, memory, op, affine, fill, method, channels)
    if channels == 4:
        _for_tiles(layout, memory, unpremultiplied)


def _for_tiles(
    layout: Layout, memory: Memory, change: Callable[[jax.Array], jax.Array]
) -> None:
    def change_group(group) -> None:
        for tile in range(layout.across):
            at = group_rows(group), tile_lanes(tile)
            memory.image[at] = change(memory.image[at])

    for_groups(layout, change_group)


def premultiplied(words: jax.Array) -> jax.Array:
    """Does what `resample.premultiply` does, on packed pixels `u32[...]`."""
    alpha = (words >> 24).astype(jnp.int32)
    products = (plane * alpha + 128 for plane in planes(words))
    return with_colours(words, tuple(((p >> 8) + p) >> 8 for p in products))


def unpremultiplied(words: jax.Array) -> jax.Array:
    """Does what `resample.unpremultiply` does, on packed pixels `u32[...]`."""
    alpha = (words >> 24).astype(jnp.int32)
    divisor = jnp.maximum(alpha, 1)
    return with_colours(words, tuple(
        jnp.where(alpha == 0, plane, jnp.minimum(divide(255 * plane, divisor), 255))
        for plane in planes(words)
    ))


def _lengths(layout: Layout, op: Op) -> tuple[jax.Array, jax.Array]:
    """Returns how long the image is along u and along r."""
    swapped = op.integer(SWAPPED) != 0
    return (
        jnp.where(swapped, layout.height, layout.width),
        jnp.where(swapped, layout.width, layout.height),
    )


def _across(
    layout: Layout, memory: Memory, op: Op, affine: Map, reach: int
) -> Callable[..., list[jax.Array]]:
    a, b, c, d, e, f = (op.integer(MAP + entry) for entry in range(6))
    sign = jnp.where(a < 0, -1, 1)
    step, slow_step, inverse = a * sign, d * sign, op.real(INVERSE)
    slow_length, count = _lengths(layout, op)[1], 4 * reach
    tolerance = int(TOLERANCE * FIXED)

    def lines(group: Any, tile: Any) -> list[jax.Array]:
        u, y = ROWS * group + rows_of(), LANES * tile + lanes_of()
        start = b * y + c - (u << 16)
        wide = reach << 16
        first_x = first_crossing(step, inverse, start + (wide + tolerance))
        last_x = first_crossing(step, inverse, start - (wide + tolerance)) - 1
        least = slow_step * jnp.where(slow_step < 0, last_x, first_x) + (e * y + f) - tolerance
        least = (least >> 16) - (reach - 1)
        least = jnp.clip(least, 0, jnp.maximum(slow_length - count, 0))
        first = first_tile(
            layout, lambda y, u: affine.near_slow(u, y) - SLACK, LANES * tile, ROWS * group
        )
        tiles = [
            memory.turned[group_rows(group), tile_lanes(first + number)]
            for number in range(near_tiles(layout))
        ]
        return [
            gather_lanes(tiles, least + ((plane - least) & (count - 1)), first)
            for plane in range(count)
        ]

    return lines


def _constant(number: float) -> Float64:
    """Spreads a host number: float64 `[8,128]`."""
    return Float64(*(jnp.full(TILE, np.uint32(word)) for word in f64.to_bits(number)))


def _exact_entry(op: Op, entry: int) -> Float64:
    """Spreads an entry of the map in double precision: float64 `[8,128]`."""
    words = (op.integer(EXACT + 2 * entry + word) for word in range(2))
    return Float64(*(jnp.full(TILE, word).astype(jnp.uint32) for word in words))


def _at(tile: Any) -> Any:
    """Returns the slice of a tile in a block, which holds sixteen."""
    return group_rows(tile), slice(None)


def _put_number(block: Any, tile: Any, number: Float64) -> None:
    """Stores float64 `[8,128]` in two tiles of a block."""
    block[_at(tile)], block[_at(tile + 1)] = number


def _number(block: Any, tile: Any) -> Float64:
    """Reads float64 `[8,128]` from two tiles of a block."""
    return Float64(block[_at(tile)], block[_at(tile + 1)])


def _put_coordinates(op: Op, block: Any, column: jax.Array, row: jax.Array) -> None:
    """Finds where pixels come from along both axes of the image, see `resample`.

    Stores four tiles of each axis, columns first: the first of the two nearest pixels, how far
    beyond it in two words, and the pixel that it lies in, -1 for any before the image.

    Args:
      op: the row.
      block: `u32[128,128]`.
      column: `i32[8,128]`, of the result.
      row: `i32[8,128]`, of the result.
    """
    half = _constant(0.5)

    def along(axis, carry):
        terms = [
            f64.multiply(_exact_entry(op, 3 * axis + number), f64.add(f64.from_int(place), half))
            for number, place in enumerate((column, row))
        ]
        at = f64.add(f64.add(*terms), _exact_entry(op, 3 * axis + 2))
        pixel = jnp.where(f64.is_negative(at), -1, f64.truncate(at))
        below = f64.add(at, -half)
        floor = jnp.where(f64.is_negative(below), -1, f64.truncate(below))
        block[_at(4 * axis)] = floor.astype(jnp.uint32)
        _put_number(block, 4 * axis + 1, f64.add(below, f64.from_int(-floor)))
        block[_at(4 * axis + 3)] = pixel.astype(jnp.uint32)
        return carry

    lax.fori_loop(0, 2, along, 0, unroll=2)


def _along(
    layout: Layout, memory: Memory, op: Op, affine: Map, fill: jax.Array, method: str,
    channels: int,
) -> None:
    swapped = op.integer(SWAPPED) != 0
    reach, count = REACH[method], planes_needed(method)
    around = 2 * reach
    fast_length, slow_length = _lengths(layout, op)
    steps = range(1 - reach, reach + 1)
    # Loops and memory between them keep the program small: one copy of each long sum.
    neighbours, numbers, rows_at = *memory.blocks[:2], 8

    def move_tile(number, carry):
        group = lax.div(number, jnp.int32(layout.across))
        tile = lax.rem(number, jnp.int32(layout.across))
        column, row = LANES * tile + lanes_of(), ROWS * group + rows_of()
        _put_coordinates(op, numbers, column, row)
        x, y = (numbers[_at(tile)].astype(jnp.int32) for tile in (0, 4))
        u, r = jnp.where(swapped, y, x), jnp.where(swapped, x, y)
        first = first_tile(
            layout, lambda x, y: affine.near_fast(x, y) - SLACK, LANES * tile, ROWS * group
        )
        rows = [jnp.clip(r + step, 0, slow_length - 1) & (count - 1) for step in steps]
        for fast, step in enumerate(steps):
            place = jnp.clip(u + step, 0, fast_length - 1)
            lines = [
                gather_lanes(plane_tiles(layout, plane, group, first), place, first)
                for plane in memory.planes[:count]
            ]
            for slow, remainder in enumerate(rows):
                down, right = (jnp.where(swapped, *pair) for pair in ((fast, slow), (slow, fast)))
                neighbours[_at(around * down + right)] = _chosen(lines, remainder)

        def channel(number, total):
            shift = jnp.asarray(8 * number).astype(jnp.uint32)

            def between_columns(down, carry):
                words = (neighbours[_at(around * down + right)] for right in range(around))
                values = [((word >> shift) & 255).astype(jnp.int32) for word in words]
                value = _BETWEEN_COLUMNS[method](values, _number(numbers, 1))
                _put_number(numbers, rows_at + 2 * down, value)
                return carry

            lax.fori_loop(0, around, between_columns, 0, unroll=2)
            lines = [_number(numbers, rows_at + 2 * down) for down in range(around)]
            value = f64.truncate(_BETWEEN_ROWS[method](lines, _number(numbers, 5)))
            return total | (jnp.clip(value, 0, 255).astype(jnp.uint32) << shift)

        total = lax.fori_loop(0, channels, channel, jnp.zeros(TILE, jnp.uint32))
        if channels == 3:
            total = total | (neighbours[_at(0)] & ALPHA)
        at_x, at_y = (numbers[_at(tile)].astype(jnp.int32) for tile in (3, 7))
        inside = (at_x >= 0) & (at_x < layout.width) & (at_y >= 0) & (at_y < layout.height)
        memory.image[group_rows(group), tile_lanes(tile)] = jnp.where(inside, total, fill)
        return carry

    lax.fori_loop(0, layout.groups * layout.across, move_tile, 0)


def _chosen(lines: Sequence[jax.Array], number: jax.Array) -> jax.Array:
    """Takes each word `[8,128]` from the line of its number `i32[8,128]`."""
    chosen = lines[0]
    for other, line in enumerate(lines[1:], start=1):
        chosen = jnp.where(number == other, line, chosen)
    return chosen


def _between_two(values: Sequence[jax.Array], distance: Float64) -> Float64:
    left, right = values
    return f64.add(f64.from_int(left), f64.multiply(f64.from_int(right - left), distance))


def _between_two_rows(lines: Sequence[Float64], distance: Float64) -> Float64:
    upper, lower = lines
    return f64.add(f64.multiply(f64.add(lower, -upper), distance), upper)


def _cubic(start: Float64, slopes: Sequence[Float64], distance: Float64) -> Float64:
    """Returns start + d (slopes[0] + d (slopes[1] + d slopes[2])), rounded at each step."""
    linear, quadratic, value = slopes
    for below in (quadratic, linear, start):
        value = f64.add(below, f64.multiply(distance, value))
    return value


def _between_four(values: Sequence[jax.Array], distance: Float64) -> Float64:
    p, q, r, s = values
    slopes = (r - p, 2 * (p - q) + r - s, q - p - r + s)
    return _cubic(f64.from_int(q), [*map(f64.from_int, slopes)], distance)


def _between_four_rows(lines: Sequence[Float64], distance: Float64) -> Float64:
    p, q, r, s = lines
    # In Pillow's order.
    quadratic = f64.add(f64.add(f64.add(f64.twice(p), -f64.twice(q)), r), -s)
    cubic = f64.add(f64.add(f64.add(-p, q), -r), s)
    return _cubic(q, (f64.add(-p, r), quadratic, cubic), distance)


# Of `i32[8,128]` each in a row, and of float64 `[8,128]` each of the rows: float64 `[8,128]`.
_BETWEEN_COLUMNS = {"bilinear": _between_two, "bicubic": _between_four}
_BETWEEN_ROWS = {"bilinear": _between_two_rows, "bicubic": _between_four_rows}
