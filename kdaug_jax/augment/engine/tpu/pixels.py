"""Ops whose kernel depends on the variant or on what was drawn: color, sharpness and erasing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.augment.arithmetic.packed import planes, with_colours
from kdaug_jax.augment.engine.tpu.filters import replace_by, window
from kdaug_jax.augment.engine.tpu.rows import Op
from kdaug_jax.augment.engine.tpu.tiles import (
    ROWS,
    Layout,
    Memory,
    for_groups,
    group_rows,
    lanes_of,
    rows_of,
    tile_lanes,
)
from kdaug_jax.augment.engine.tpu.variants import Variant


def color(layout: Layout, variant: Variant, memory: Memory, op: Op) -> None:
    """Takes colour away or adds to it, against each pixel's own grey."""
    alpha = op.alpha

    def blend(group) -> None:
        for tile in range(layout.across):
            at = group_rows(group), tile_lanes(tile)
            words = memory.image[at]
            colours = planes(words)
            grey = variant.grey(colours, memory.constants)
            memory.image[at] = with_colours(words, tuple(
                variant.arithmetic.blend(grey, plane, alpha) for plane in colours
            ))

    for_groups(layout, blend)


def erase(layout: Layout, memory: Memory, op: Op, colour: Any) -> None:
    """Paints the box of an op."""
    rows, columns = op.box
    top, bottom, left, right = rows >> 16, rows & 0xFFFF, columns >> 16, columns & 0xFFFF
    shape = (ROWS, layout.lanes)

    def paint(group) -> None:
        row, column = ROWS * group + rows_of(shape), lanes_of(shape)
        inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        at = group_rows(group), slice(None)
        memory.image[at] = jnp.where(inside, colour, memory.image[at])

    for_groups(layout, paint)


def sharpness(layout: Layout, variant: Variant, memory: Memory, op: Op) -> None:
    """Makes edges harder or softer, against the smoothed image."""
    alpha = op.alpha

    def blend(layout: Layout, memory: Memory, group: Any) -> jax.Array:
        words = window(layout, memory, group, 0)[0]
        return with_colours(words, tuple(
            variant.arithmetic.blend(start, plane, alpha)
            for start, plane in zip(
                variant.smooth(layout, memory, group), planes(words), strict=True
            )
        ))

    replace_by(layout, memory, blend)
