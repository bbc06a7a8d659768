"""The kernels of the op table, bound to the rows and colours of one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax.augment.arithmetic.packed import pack
from kdaug_jax.augment.engine.rows import Table
from kdaug_jax.augment.ops.kernel import Context, Kernel, Row
from kdaug_jax.augment.ops.lut import lut_kernel, resolve_lut
from kdaug_jax.augment.ops.table import ARITHMETIC

# What a kernel wants in its row instead of where that lies.
RESOLVERS = {lut_kernel: resolve_lut}


class BoundKernel(NamedTuple):
    """A kernel, bound to the rows and colours of one call.

    Attributes:
      resolve: `f(row) -> row`, fetches what lies elsewhere, such as lookup tables.
      compute: `f(packed u32[H,W], row) -> u32[H,W]`, of a resolved row.
    """

    resolve: Callable[[Row], Row]
    compute: Callable[[jax.Array, Row], jax.Array]

    def __call__(self, packed: jax.Array, row: Row) -> jax.Array:
        """Returns what the kernel makes of an image by a row that is not resolved."""
        return self.compute(packed, self.resolve(row))


class Colours(NamedTuple):
    """The colours of a batch `u8[B,H,W,C]`.

    Attributes:
      fill: `u8[C]`, of what comes in from outside an image.
      erase: `u8[C]`, that squares are erased with.
      clear: `u8[C]`, or None. With it images take on an alpha channel for as long as ops are
        applied, so C is 3 and `fill` and `erase` are `u8[4]`; what is transparent in the end
        becomes this.
    """

    fill: Any
    erase: Any
    clear: Any = None


def look_up(table: Table, op_ids: jax.Array, square_offsets: jax.Array) -> Row:
    """Returns the rows `i32[...]` of a table, with the offsets `u32[...,2]` drawn for them."""
    fields = ("kind", "source", "matrix", "alpha", "squares", "opaque")
    columns = {field: getattr(table, field) for field in fields}
    rows = jax.tree.map(lambda column: jnp.asarray(column)[op_ids], columns)
    start = 256 * jnp.asarray(table.which)[op_ids]
    lut = jnp.stack([start, jnp.zeros_like(start)], axis=-1)
    return Row(**rows, lut=lut, square_offset=square_offsets)


class Kernels(NamedTuple):
    """What is computed for one image.

    Attributes:
      luts: `u8[256 L]`, the given tables, one after the other.
      lut_sources: `{source: f(packed u32[H,W], row) -> u8[3,256]}`, of the tables made from images.
      ops: `f(luts u8[N])` returns `{kind: f(packed u32[H,W], row) -> u32[H,W]}`; what changes
        nothing is not among them.
    """

    luts: jax.Array
    lut_sources: dict[int, BoundKernel]
    ops: Callable[[jax.Array], dict[int, BoundKernel]]


def bind_kernels(table: Table, colours: Colours) -> Kernels:
    """Returns the kernels that the rows of a table need.

    Args:
      table: the rows.
      colours: of the fills.

    Returns:
      Those of the sources and kinds that occur; for packed pixels see `arithmetic.packed`.
    """
    context = Context(
        ARITHMETIC[table.variant], len(colours.fill), colours.fill, pack(colours.fill),
        pack(colours.erase),
    )

    def bind(kernels, column, context: Context) -> dict[int, BoundKernel]:
        return {
            number: _bind(kernel, context)
            for number, kernel in enumerate(kernels) if kernel is not None and number in column
        }

    return Kernels(
        jnp.asarray(table.luts).reshape(-1),
        bind(table.lut_sources, table.source, context),
        lambda luts: bind(table.kernels, table.kind, context._replace(luts=luts)),
    )


def _bind(kernel: Kernel, context: Context) -> BoundKernel:
    resolve = RESOLVERS.get(kernel)
    return BoundKernel(
        (lambda row: row) if resolve is None else lambda row: resolve(row, context),
        lambda packed, row: kernel(packed, row, context),
    )
