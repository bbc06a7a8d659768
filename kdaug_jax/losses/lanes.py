"""Fetches numbers of long rows on a TPU, by the gather that its vector lanes have.

XLA gathers elements one after another there, about 10 cycles each. The lanes of a vector gather
1,024 at once, but within 128 neighbours, so a kernel goes through the tiles of a row that a vector
of positions falls into. Positions that rise along a row fall into few.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kdaug_jax.per_device import on_each_device

ROWS, LANES = 8, 128
VECTOR = ROWS * LANES


def take_along_rows(
    table: jax.Array, index: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Returns `table[b, index[b, k]]`, as `jnp.take_along_axis` does.

    Args:
      table: `[B,N]`, of 32 bits.
      index: `i32[B,K]`, 0..N-1; the nearer neighbours lie to each other, the faster.
      interpret: True to run the kernel as XLA operations of any platform, for tests.

    Returns:
      `[B,K]` of the table's dtype.
    """
    run = functools.partial(_take, interpret=interpret)
    return on_each_device(run, len(table), alone=True)(table, index)


def _take(table: jax.Array, index: jax.Array, *, interpret: bool) -> jax.Array:
    batch, count = index.shape
    tables = _in_tiles(table, "constant")
    # What fills the last vector up lies where its last position does.
    indices = _in_tiles(index, "edge")
    parts = indices.reshape(batch, -1, VECTOR) // VECTOR
    groups = jnp.stack([parts.min(-1), parts.max(-1)], axis=-1).reshape(batch, 1, -1)

    def of_example(array: jax.Array, space=pltpu.VMEM) -> pl.BlockSpec:
        return pl.BlockSpec(
            (1, *array.shape[1:]), lambda example: (example, 0, 0), memory_space=space
        )

    taken = pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct(indices.shape, table.dtype),
        grid=(batch,),
        in_specs=[of_example(groups, pltpu.SMEM), of_example(tables), of_example(indices)],
        out_specs=of_example(indices),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
        name="take_along_rows",
    )(groups, tables, indices)
    return taken.reshape(batch, -1)[:, :count]


def _in_tiles(array: jax.Array, mode: str) -> jax.Array:
    """Returns `[B,N]` as `[B,8V,128]`, filled up to whole vectors."""
    padded = jnp.pad(array, ((0, 0), (0, -array.shape[1] % VECTOR)), mode=mode)
    return padded.reshape(len(array), -1, LANES)


def _kernel(groups, table, index, out) -> None:
    """Takes the numbers of one example.

    Args:
      groups: `i32[1,1,2V]`, the first and the last vector of the table that each vector of
        positions falls into.
      table: `[1,8T,128]`.
      index: `i32[1,8V,128]`.
      out: `[1,8V,128]`.
    """

    def vector(number, carry):
        rows = pl.ds(pl.multiple_of(ROWS * number, ROWS), ROWS)
        position = index[0, rows, :]
        lane, tile = position & (LANES - 1), position >> 7

        def group(at, taken):
            tiles = table[0, pl.ds(pl.multiple_of(ROWS * at, ROWS), ROWS), :]
            for row in range(ROWS):
                numbers = jnp.broadcast_to(tiles[row : row + 1], (ROWS, LANES))
                fetched = jnp.take_along_axis(numbers, lane, axis=1, mode="promise_in_bounds")
                taken = jnp.where(tile == ROWS * at + row, fetched, taken)
            return taken

        first, last = groups[0, 0, 2 * number], groups[0, 0, 2 * number + 1]
        blank = jnp.zeros((ROWS, LANES), table.dtype)
        out[0, rows, :] = lax.fori_loop(first, last + 1, group, blank)
        return carry

    lax.fori_loop(0, index.shape[1] // ROWS, vector, 0)
