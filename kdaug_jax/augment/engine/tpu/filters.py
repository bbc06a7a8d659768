"""Windows of neighbouring pixels, and the filters that are sums of them: smooth and blur."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from kdaug_jax.augment.arithmetic.packed import even, interleave, odd
from kdaug_jax.augment.engine.tpu.tiles import (
    MARGIN,
    ROWS,
    Layout,
    Memory,
    copy_with_margin,
    for_groups,
    group_rows,
    lanes_of,
    rows_of,
)
from kdaug_jax.augment.ops.filters import thirteenth


def inner(layout: Layout, group: Any, border: int) -> jax.Array:
    """Returns which words of a group do not belong to the border, `bool[8,lanes]`."""
    shape = (ROWS, layout.lanes)
    row, column = ROWS * group + rows_of(shape), lanes_of(shape)
    rows = (row >= border) & (row < layout.height - border)
    return rows & (column >= border) & (column < layout.width - border)


def window(layout: Layout, memory: Memory, group: Any, reach: int) -> list[jax.Array]:
    """Returns the rows of a group moved down by `reach` to up by it, `u32[8,lanes]` each."""
    # Whole tiles are loaded and then cut: rows that do not begin a tile are not.
    near = memory.planes[0][group_rows(group, count=ROWS + 2 * MARGIN), : layout.lanes]
    return [near[MARGIN + step : MARGIN + step + ROWS] for step in range(-reach, reach + 1)]


def beside(words: jax.Array, step: int) -> jax.Array:
    """Moves `[8,lanes]` to the right, or with a negative step to the left, all around."""
    return pltpu.roll(words, step % words.shape[1], axis=1)


def smooth_words(layout: Layout, memory: Memory, group: Any) -> jax.Array:
    """Returns the smoothed words of a group, `u32[8,lanes]`, the border as it was."""
    above, middle, below = window(layout, memory, group, 1)
    halves = []
    for half in (even, odd):
        centre = half(middle)
        column = half(above) + centre + half(below)
        total = column + beside(column, 1) + beside(column, -1)
        halves.append(thirteenth(total + 4 * centre + np.uint32(0x00060006)))
    return jnp.where(inner(layout, group, 1), interleave(*halves), middle)


def blur_words(layout: Layout, memory: Memory, group: Any) -> jax.Array:
    """Returns the blurred words of a group, `u32[8,lanes]`, the border as it was."""
    rows, halves = window(layout, memory, group, 2), []
    for half in (even, odd):
        lines = [half(row) for row in rows]
        ends = lines[0] + lines[4]
        column = ends + lines[1] + lines[2] + lines[3]
        total = ends + beside(ends, 1) + beside(ends, -1) + beside(column, 2) + beside(column, -2)
        halves.append(even((total + np.uint32(0x00080008)) >> 4))
    return jnp.where(inner(layout, group, 2), interleave(*halves), rows[2])


def replace_by(
    layout: Layout, memory: Memory, words: Callable[[Layout, Memory, Any], jax.Array]
) -> None:
    """Replaces the image by what `words(layout, memory, group)` makes of a copy of it."""
    copy_with_margin(layout, memory)

    def replace(group) -> None:
        memory.image[group_rows(group), :] = words(layout, memory, group)

    for_groups(layout, replace)
