"""Lookup tables in the kernel: those of the host, those made from an image, and looking pixels up.

A table is one row of 128 words: the entries 0..127 in the lowest byte and 128..255 in the next, so
that one gather of lanes and one shift look a value up. `Memory.lut` holds those of red, green and
blue in its rows 0, 2 and 4. While it is made, a table of all three is a tile: rows 2c and 2c + 1
hold the entries 0..127 and 128..255 of colour c.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kdaug_jax.augment.arithmetic.packed import ALPHA, planes
from kdaug_jax.augment.engine.tpu.rows import LUT, OPAQUE, Op
from kdaug_jax.augment.engine.tpu.tiles import (
    LANES,
    ROWS,
    TILE,
    Layout,
    Memory,
    for_groups,
    group_rows,
    lanes_of,
    rows_of,
    take_lanes,
    tile_lanes,
)
from kdaug_jax.augment.engine.tpu.variants import Variant, of_colours
from kdaug_jax.augment.ops.statistics import divide

COLOURS = 3
_SIXTEEN = (16, LANES)


def values() -> jax.Array:
    """Returns the value of each entry of a tile of tables, `i32[8,128]`."""
    return (rows_of() & 1) * LANES + lanes_of()


def _store(memory: Memory, tables: jax.Array) -> None:
    """Stores a tile of tables `i32[8,128]`."""
    upper = pltpu.roll(tables, ROWS - 1, axis=0)
    memory.lut[...] = (tables | (upper << 8)).astype(jnp.uint32)


def given(memory: Memory, op: Op) -> None:
    """Makes a table of the host that of all colours."""
    row = memory.luts[pl.ds(op.integer(LUT), 1), :]
    memory.lut[...] = jnp.broadcast_to(row, TILE)


def contrast(layout: Layout, variant: Variant, memory: Memory, op: Op) -> None:
    """Makes the table that moves colours away from the mean grey level."""

    def add(group, total):
        for tile in range(layout.across):
            words, inside = _masked(layout, memory, group, tile)
            grey = variant.grey(planes(words), memory.constants)
            total = total + (grey if inside is None else jnp.where(inside, grey, 0))
        return total

    sums = lax.fori_loop(0, layout.groups, add, jnp.zeros(TILE, jnp.int32))
    total = jnp.full(TILE, jnp.sum(sums))
    level = variant.arithmetic.level(total, layout.height * layout.width)
    _store(memory, variant.arithmetic.blend(level, values(), op.alpha))


def auto_contrast(layout: Layout, variant: Variant, memory: Memory) -> None:
    """Makes the tables that stretch the values of each colour to 0..255."""

    def look(group, extremes):
        low, high = list(extremes[:COLOURS]), list(extremes[COLOURS:])
        for tile in range(layout.across):
            words, inside = _masked(layout, memory, group, tile)
            for colour, plane in enumerate(planes(words)):
                kept = plane if inside is None else jnp.where(inside, plane, 255)
                low[colour] = jnp.minimum(low[colour], kept)
                kept = plane if inside is None else jnp.where(inside, plane, 0)
                high[colour] = jnp.maximum(high[colour], kept)
        return (*low, *high)

    start = (jnp.full(TILE, 255, jnp.int32),) * COLOURS + (jnp.zeros(TILE, jnp.int32),) * COLOURS
    extremes = lax.fori_loop(0, layout.groups, look, start)
    low = tuple(jnp.min(tile) for tile in extremes[:COLOURS])
    high = tuple(jnp.max(tile) for tile in extremes[COLOURS:])
    lowest, highest = of_colours(low), of_colours(high)
    stretched = variant.stretch(values(), low, high, memory.shared)
    _store(memory, jnp.where(highest > lowest, stretched, values()))


def _masked(layout: Layout, memory: Memory, group: Any, tile: int) -> tuple[jax.Array, Any]:
    """Returns words of the image, and which lie inside it; None for all."""
    words = memory.image[group_rows(group), tile_lanes(tile)]
    inside = None
    if LANES * (tile + 1) > layout.width:
        inside = lanes_of() + LANES * tile < layout.width
    if layout.rows != layout.height:
        rows = ROWS * group + rows_of() < layout.height
        inside = rows if inside is None else inside & rows
    return words, inside


def equalize(layout: Layout, memory: Memory) -> None:
    """Makes the tables that spread the values of each colour evenly."""
    counts = _counts(layout, memory)
    packed = jnp.zeros((ROWS, LANES), jnp.int32)
    for colour in range(COLOURS):
        places = slice(16 * colour, 16 * colour + 16)
        square = counts[places, places].astype(jnp.int32)
        lower, upper = _in_lanes(_spread(layout, square))
        packed = jnp.where(rows_of() == 2 * colour, lower | (upper << 8), packed)
    memory.lut[...] = packed.astype(jnp.uint32)


def _one_hot(words: jax.Array, shift: int) -> jax.Array:
    """Returns which of 16 values four bits have: `bf16[16,128]` of equal rows `u32[8,128]`."""
    digit = (words & np.uint32(15 << shift)).astype(jnp.int32)
    halves = [
        jnp.where(digit == (rows_of() + first) << shift, 1.0, 0.0) for first in (0, ROWS)
    ]
    return jnp.concatenate(halves, axis=0).astype(jnp.bfloat16)


def _counts(layout: Layout, memory: Memory) -> jax.Array:
    """Counts pairs of upper and lower digits: `f32[48,48]`, colours on the diagonal.

    Words of lanes beyond the image count as 0. Sums stay below 2^24, where float32 is exact.
    """
    together = next(rows for rows in (4, 2, 1) if layout.height % rows == 0)

    def add(turn, total):
        upper, lower = [], []
        for number in range(together):
            row = memory.image[pl.ds(together * turn + number, 1), :]
            for tile in range(layout.across):
                words = row[:, tile_lanes(tile)]
                if LANES * (tile + 1) > layout.width:
                    inside = lanes_of((1, LANES)) + LANES * tile < layout.width
                    words = jnp.where(inside, words, jnp.uint32(0))
                words = jnp.broadcast_to(words, TILE)
                shifts = range(0, 8 * COLOURS, 8)
                upper.append(jnp.concatenate([_one_hot(words, s + 4) for s in shifts], axis=0))
                lower.append(jnp.concatenate([_one_hot(words, s) for s in shifts], axis=0))
        return total + lax.dot_general(
            jnp.concatenate(upper, axis=1), jnp.concatenate(lower, axis=1),
            (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32,
        )

    turns, start = layout.height // together, jnp.zeros((48, 48), jnp.float32)
    return lax.fori_loop(0, turns, add, start, unroll=2 if turns % 2 == 0 else 1)


def _spread(layout: Layout, square: jax.Array) -> jax.Array:
    """Makes the table of one colour, see `statistics.equalize_lut`.

    Args:
      layout: of the image.
      square: `i32[16,16]`, how often each value occurs, by upper and lower digit.

    Returns:
      `i32[16,128]`, by upper digit, and lower digit in the first 16 lanes.
    """
    lanes, rows = lanes_of(_SIXTEEN), rows_of(_SIXTEEN)
    beyond = jnp.where((rows == 0) & (lanes == 0), layout.height * (layout.lanes - layout.width), 0)
    counts = jnp.concatenate([square, jnp.zeros((16, LANES - 16), jnp.int32)], axis=1) - beyond
    within = counts
    for step in (1, 2, 4, 8):
        within = within + jnp.where(lanes >= step, pltpu.roll(within, step, axis=1), 0)
    row_sums = jnp.broadcast_to(jnp.sum(counts, axis=1, keepdims=True), _SIXTEEN)
    before = row_sums
    for step in (1, 2, 4, 8):
        before = before + jnp.where(rows >= step, pltpu.roll(before, step, axis=0), 0)
    below = within - counts + before - row_sums
    highest = jnp.max(jnp.where((counts > 0) & (lanes < 16), below, 0))
    step = lax.div(highest, jnp.int32(255))
    spread = divide((step >> 1) + below, jnp.maximum(step, 1))
    return jnp.where(step > 0, jnp.minimum(spread, 255), 16 * rows + lanes)


def _in_lanes(table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Lays a table `i32[16,128]` of 16 x 16 entries out in lanes: two halves, `i32[8,128]` each."""
    bytes_ = jnp.where(lanes_of(_SIXTEEN) < 16, table, 0)
    # A product with zeros and ones, exact: the entries are below 256.
    square = (LANES, LANES)
    repeat = jnp.where((lanes_of(square) & 15) == rows_of(square), 1.0, 0.0).astype(jnp.bfloat16)
    wide = lax.dot_general(
        bytes_.astype(jnp.float32).astype(jnp.bfloat16), repeat, (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    halves = []
    for half in (wide[:ROWS], wide[ROWS:]):
        picked = jnp.where(rows_of() == lanes_of() >> 4, half, 0.0)
        row = jnp.sum(picked, axis=0, keepdims=True).astype(jnp.int32)
        halves.append(jnp.broadcast_to(row, TILE))
    return halves[0], halves[1]


def look_up(layout: Layout, memory: Memory, op: Op) -> None:
    """Replaces all colours by what their tables say."""
    rows = memory.lut[...]
    tables = [jnp.broadcast_to(rows[2 * c : 2 * c + 1, :], TILE) for c in range(COLOURS)]
    opaque = jnp.where(op.integer(OPAQUE) != 0, ALPHA, np.uint32(0))

    def replace(group) -> None:
        for tile in range(layout.across):
            at = group_rows(group), tile_lanes(tile)
            words = memory.image[at]
            replaced = (words & ALPHA) | opaque
            for colour, table in enumerate(tables):
                value = (words >> (8 * colour)) if colour else words
                entry = take_lanes(table, (value & 127).astype(jnp.int32))
                entry = (entry >> ((value >> 4) & 8)) & 255
                replaced = replaced | (entry << (8 * colour) if colour else entry)
            memory.image[at] = replaced

    for_groups(layout, replace)
