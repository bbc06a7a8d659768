"""The rows of an engine's table as numbers in scalar memory, which the kernel reads itself.

They are worked out on the host, so XLA looks up nothing for each image but the boxes of squares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.augment.engine.rows import Table
from kdaug_jax.augment.engine.tpu.tiles import LANES, ROWS, round_up
from kdaug_jax.augment.ops.squares import box
from kdaug_jax.augment.ops.table import TPU_FORMS

# What a row computes; "none" changes nothing. Rows from "lut" to "equalize" end in a lookup table,
# and "shift" is what "nearest" is where rows only move.
FORMS = (
    "none", "lut", "contrast", "auto_contrast", "equalize", "shift", "nearest", "bilinear",
    "bicubic", "color", "sharpness", "erase", "smooth", "blur",
)
# Columns of a row. `SWAPPED`: whether the columns of the image are the axis along which rows of the
# result run slowly; `INVERSE`: 1 over the size of the first entry of `MAP`, which is in the order
# of the passes. `EXACT` are float64 numbers in Pillow's order.
FORM, LUT, OPAQUE, SWAPPED, ROW_OFFSET, INVERSE, MAP, ALPHA, EXACT, COLUMNS = (
    0, 1, 2, 3, 4, 5, 6, 12, 16, 28
)
FILL, ERASE, SCALES = 0, 1, 2  # positions in what all images share
FIXED = 1 << 16


class Affine(NamedTuple):
    """Affine maps of a table in the numbers that their forms compute with.

    Attributes:
      numbers: `[R,6]`, a to f: output to input, swapped where that is needed.
      swapped: `bool[R]`, whether |d| was above |a|.
      two_passes: `bool[R]`, whether more than whole rows move.
      row_offset: `i32[R]`, how far up rows move.
    """

    numbers: np.ndarray
    swapped: np.ndarray
    two_passes: np.ndarray
    row_offset: np.ndarray


class Op:
    """One row as the kernel reads it."""

    def __init__(self, numbers: Any, row: Any, box: tuple[Any, Any]):
        """Points at a row of `numbers` in scalar memory; `box` are two words of `boxes`."""
        self._numbers, self._first, self.box = numbers, row * COLUMNS, box

    def integer(self, column: int) -> jax.Array:
        """Returns a column, `i32[]`."""
        return self._numbers[self._first + column]

    def real(self, column: int) -> jax.Array:
        """Returns a column of float32 numbers, `f32[]`."""
        return lax.bitcast_convert_type(self.integer(column), jnp.float32)

    @property
    def alpha(self) -> tuple[jax.Array, ...]:
        """The four parts of a factor, see `ops.table.Columns`."""
        return tuple(self.real(ALPHA + part) for part in range(4))


def forms_of(table: Table) -> np.ndarray:
    """Returns the position in `FORMS` of what each row computes, `i32[R]`; -1 for no form."""
    forms, nearest = _forms_of_kernels(table), FORMS.index("nearest")
    shifts = (forms == nearest) & ~affine_maps(table).two_passes
    return np.where(shifts, FORMS.index("shift"), forms)


def _forms_of_kernels(table: Table) -> np.ndarray:
    """Returns the position in `FORMS` of the kernel of each row, `i32[R]`; -1 for none."""

    def name(kernel: Any, source: Any) -> str | None:
        made = TPU_FORMS.get(kernel, "none" if kernel is None else None)
        return made if source is None else TPU_FORMS.get(source) if made == "lut" else None

    names = [
        name(table.kernels[kind], table.lut_sources[source])
        for kind, source in zip(table.kind, table.source, strict=True)
    ]
    return np.array([FORMS.index(form) if form in FORMS else -1 for form in names], np.int32)


def affine_maps(table: Table) -> Affine:
    """Returns the maps of all rows; of those that are no maps, anything.

    `numbers` are float32 pixels in the TPU variants, else 16.16 fixed point. Of rows that are
    interpolated they are rounded from float64, of pixel corners instead of middles.
    """
    floats = table.variant.startswith("tpu")
    words = table.matrix[:, :6]
    maps = words.view(np.float32) if floats else words.view(np.int32)
    if not floats:
        exact = exact_maps(table)
        reach = np.float64(np.iinfo(np.int32).max)
        corners = exact.copy()
        corners[:, [2, 5]] += (exact[:, [0, 3]] + exact[:, [1, 4]] - 1) / 2
        rounded = np.clip(np.floor(corners * FIXED + 0.5), -reach, reach).astype(np.int32)
        maps = np.where(is_interpolated(table)[:, None], rounded, maps)
    unit = 1 if floats else FIXED
    a, d, e, f = (maps[:, column] for column in (0, 3, 4, 5))
    two_passes = is_interpolated(table) | (d != 0) | (e != unit)
    if floats:
        two_passes |= f != np.floor(f)
    swapped = two_passes & (np.abs(d.astype(np.float64)) > np.abs(a.astype(np.float64)))
    numbers = np.where(swapped[:, None], maps[:, [3, 4, 5, 0, 1, 2]], maps)
    offset = np.where(two_passes, 0, np.floor(f / unit)).astype(np.int32)
    return Affine(numbers, swapped, two_passes, offset)


def is_interpolated(table: Table) -> np.ndarray:
    """Returns which rows are bilinear or bicubic maps, `bool[R]`."""
    return np.isin(_forms_of_kernels(table), (FORMS.index("bilinear"), FORMS.index("bicubic")))


def exact_maps(table: Table) -> np.ndarray:
    """Returns the maps of interpolated rows, `f64[R,6]`; zeros of others."""
    words = table.matrix.astype(np.uint64).reshape(-1, 6, 2)
    numbers = ((words[..., 0] << np.uint64(32)) | words[..., 1]).view(np.float64)
    return np.where(is_interpolated(table)[:, None], numbers, 0.0)


def numbers_of(table: Table) -> np.ndarray:
    """Returns the rows as the kernel reads them, with one more that changes nothing.

    Args:
      table: whose rows without a form change nothing either.

    Returns:
      `i32[(R+1) COLUMNS]`.
    """
    numbers = np.zeros((len(table.kind) + 1, COLUMNS), np.int32)
    rows, maps = numbers[:-1], affine_maps(table)
    rows[:, FORM] = np.maximum(forms_of(table), 0)
    rows[:, LUT] = table.which
    rows[:, OPAQUE] = table.opaque
    rows[:, SWAPPED] = maps.swapped
    rows[:, ROW_OFFSET] = maps.row_offset
    steps = np.abs(maps.numbers[:, 0].astype(np.float64))
    inverse = 1.0 / np.maximum(steps, 1e-6 if maps.numbers.dtype == np.float32 else 1)
    rows[:, INVERSE] = inverse.astype(np.float32).view(np.int32)
    rows[:, MAP : MAP + 6] = maps.numbers.view(np.int32)
    rows[:, ALPHA : ALPHA + 4] = table.alpha.view(np.int32)
    rows[:, EXACT : EXACT + 12] = table.matrix.view(np.int32)
    return numbers.reshape(-1)


def luts_of(table: Table) -> np.ndarray:
    """Returns the given lookup tables, both halves in a word: `u32[L,128]`, L a multiple of 8."""
    words = table.luts.astype(np.uint32)
    halves = words[:, :LANES] | (words[:, LANES:] << np.uint32(8))
    return np.pad(halves, ((0, round_up(len(halves), ROWS) - len(halves)), (0, 0)))


def has_squares(table: Table) -> bool:
    """Returns whether any row erases a square."""
    return bool((table.squares.side > 0).any())


def boxes(table: Table, op_ids: jax.Array, square_offsets: jax.Array) -> jax.Array:
    """Returns the boxes that squares erase, two words each: first line and line after the last.

    Args:
      table: the rows, R in all.
      op_ids: `i32[B,S]`, R for none.
      square_offsets: `u32[B,S,2]`.

    Returns:
      `i32[2BS]`, rows then columns, in the upper and lower half of a word.
    """
    columns = np.pad(np.stack(table.squares, axis=-1), ((0, 1), (0, 0)))
    squares = jnp.asarray(columns)[op_ids]

    def edges(offset: jax.Array, square: jax.Array) -> jax.Array:
        top, bottom, left, right = box(offset, *square, table.size)
        return jnp.stack([(top << 16) | bottom, (left << 16) | right])

    return jax.vmap(jax.vmap(edges))(square_offsets, squares).reshape(-1)
