"""Ops as rows of a table of numbers, built on the host in double precision.

A row says which kernel computes an op and holds all numbers that it needs, so the device only
looks rows up. There are few kernels: what differs between invert and posterize is a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdaug_jax.augment.ops.kernel import Kernel
from kdaug_jax.augment.ops.squares import Squares
from kdaug_jax.augment.ops.table import (
    KERNELS,
    LUT_SOURCES,
    OPS,
    VARIANTS,
    Op,
    check_op,
    check_value,
)
from kdaug_jax.errors import ArgumentError, suggest

GIVEN = 0  # position in `LUT_SOURCES`: the lookup table does not depend on the image


class Table(NamedTuple):
    """Rows of ops, R in all.

    Attributes:
      kind: `i32[R]`, position in `kernels`.
      source: `i32[R]`, position in `lut_sources`; `GIVEN` where no lookup table is needed.
      which: `i32[R]`, which of `luts`.
      matrix: `u32[R,12]`, see `ops.table.Columns`.
      alpha: `f32[R,4]`, see `ops.table.Columns`.
      squares: `i32[R]` each, what erased squares are like.
      luts: `u8[L,256]`.
      opaque: `bool[R]`, whether alpha becomes 255.
      variant: whose arithmetic, in `policies.VARIANTS`.
      size: height and width of the images in pixels.
      kernels: those of the op table, and of ops from outside after them.
      lut_sources: likewise.
    """

    kind: np.ndarray
    source: np.ndarray
    which: np.ndarray
    matrix: np.ndarray
    alpha: np.ndarray
    squares: Squares
    luts: np.ndarray
    opaque: np.ndarray
    variant: str
    size: tuple[int, int]
    kernels: tuple[Kernel | None, ...]
    lut_sources: tuple[Kernel | None, ...]


def build_table(ops: Sequence[Op], size: tuple[int, int], variant: str = "pillow") -> Table:
    """Builds the table of some ops for images of one size.

    Args:
      ops: the rows.
      size: height and width of the images in pixels.
      variant: whose arithmetic, see `policies.VARIANTS`.

    Returns:
      Its rows, in the order of `ops`.

    Raises:
      ArgumentError: unknown op or variant, or a value that an op does not take.
    """
    if variant not in VARIANTS:
        raise ArgumentError(f"unknown variant '{variant}'", suggest(variant, VARIANTS))
    names = dict.fromkeys(op.name for op in ops)
    op_rows = {name: OPS[name] if name in OPS else check_op(name, size) for name in names}
    for op in ops:
        check_value(op, op_rows[op.name])
    columns = [op_rows[op.name].layout(op, size, variant) for op in ops]
    kernels = dict.fromkeys((*KERNELS, *(row.kernel for row in columns)))
    sources = dict.fromkeys((*LUT_SOURCES, *(row.lut_source for row in columns)))
    kinds = {kernel: number for number, kernel in enumerate(kernels)}
    source_numbers = {source: number for number, source in enumerate(sources)}
    luts: dict[bytes, int] = {}
    which = [
        0 if row.lut is None
        else luts.setdefault(np.asarray(row.lut, np.uint8).tobytes(), len(luts))
        for row in columns
    ]
    matrix = np.zeros((len(columns), 12), np.uint32)
    for number, row in enumerate(columns):
        matrix[number, : len(row.matrix)] = row.matrix
    tables = np.frombuffer(b"".join(luts) or bytes(range(256)), np.uint8).reshape(-1, 256)
    squares = zip(*(row.squares for row in columns), strict=True)
    return Table(
        kind=np.array([kinds[row.kernel] for row in columns], np.int32),
        source=np.array([source_numbers[row.lut_source] for row in columns], np.int32),
        which=np.array(which, np.int32),
        matrix=matrix,
        alpha=np.array([row.alpha for row in columns], np.float32).reshape(-1, 4),
        squares=Squares(*(np.array(column, np.int32) for column in squares)),
        luts=tables,
        opaque=np.array([row.opaque for row in columns], bool),
        variant=variant,
        size=size,
        kernels=tuple(kernels),
        lut_sources=tuple(sources),
    )
