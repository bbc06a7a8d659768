"""Applies to every image of a batch the ops that it drew.

Each stage is computed by one of the three implementations in `dispatch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from kdaug_jax.augment.arithmetic.packed import ALPHA, pack, unpack
from kdaug_jax.augment.engine.dispatch import DISPATCHES, Dispatch
from kdaug_jax.augment.engine.kernels import Colours, Kernels, Row, bind_kernels, look_up
from kdaug_jax.augment.engine.rows import GIVEN, Table
from kdaug_jax.augment.ops.checks import check_batch
from kdaug_jax.errors import ArgumentError, suggest

Implementation = Literal["auto", "switch", "loop", "gather"]
# Pixels on a CPU that all ops are applied to in turn.
BLOCK = 1 << 19
DATA = "data"


class Shares(NamedTuple):
    """The share of the images of a stage that is expected to have each kernel, 0..1.

    Attributes:
      source: for each of `Table.lut_sources`.
      kind: for each of `Table.kernels`.
    """

    source: tuple[float, ...]
    kind: tuple[float, ...]


def apply_ops(
    images: jax.Array,
    op_ids: jax.Array,
    square_offsets: jax.Array,
    table: Table,
    colours: Colours,
    *,
    shares: Shares | None = None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Applies some ops in turn to each image of a batch.

    Under `jax.set_mesh` with an axis "data" that divides the batch, each device works on its own
    images, without any exchange.

    Args:
      images: `u8[B,H,W,C]`, C = 3 or 4.
      op_ids: `i32[B,S]`, rows of the table, first to last.
      square_offsets: `u32[B,S,2]`, see `policies.square_offsets`.
      table: the rows, for images of this size.
      colours: of the fills.
      shares: how the images of a stage are expected to be distributed; by default as the rows of
        the table are. They decide how much work `gather` does, never what comes out.
      implementation: "switch", "loop", "gather", or "auto" for "loop" on a CPU and "gather"
        elsewhere.

    Returns:
      `u8[B,H,W,C]`.

    Raises:
      TypeError: the images are not an array of uint8.
      ArgumentError: not `[B,H,W,3 or 4]`, not of the size that the table is for, not as many
        ids or offsets as images, or an unknown implementation.
    """
    if implementation not in ("auto", *DISPATCHES):
        raise ArgumentError(
            f"implementation={implementation!r}",
            suggest(str(implementation), ("auto", *DISPATCHES)),
        )
    check_batch(images)
    images, op_ids, square_offsets = (
        jnp.asarray(array) for array in (images, op_ids, square_offsets)
    )
    expected = (len(images), *op_ids.shape[1:2])
    if op_ids.shape != expected or len(expected) != 2 or square_offsets.shape != (*expected, 2):
        raise ArgumentError(
            f"{len(images)} images with op_ids {list(op_ids.shape)} and square_offsets "
            f"{list(square_offsets.shape)}",
            "must be [B,S] and [B,S,2], one row for each image",
        )
    if images.shape[1:3] != table.size:
        (height, width), (rows, columns) = images.shape[1:3], table.size
        raise ArgumentError(
            f"images are {width}x{height}; the table is for {columns}x{rows}",
            "build the table for the size of the images",
        )
    implementation = resolved(implementation)
    if shares is None:
        shares = Shares(*(
            tuple(np.bincount(column) / len(column)) for column in (table.source, table.kind)
        ))

    def run(images: jax.Array, op_ids: jax.Array, square_offsets: jax.Array) -> jax.Array:
        rows = look_up(table, op_ids, square_offsets)
        kernels, packed = bind_kernels(table, colours), pack(images)
        if colours.clear is not None:
            packed |= ALPHA
        dispatch = DISPATCHES[implementation]
        for number in range(op_ids.shape[1]):
            row = jax.tree.map(lambda column, number=number: column[:, number], rows)
            packed = stage(packed, row, kernels, dispatch(shares.source), dispatch(shares.kind))
        if colours.clear is not None:
            packed = jnp.where(packed <= ~ALPHA, pack(colours.clear), packed)
        return unpack(packed, images.shape[3])

    if implementation == "loop":
        run = _in_blocks(run, math.prod(table.size))
    return _on_each_device(run, images.shape[0])(images, op_ids, square_offsets)


def resolved(implementation: Implementation) -> Implementation:
    """Returns the implementation that "auto" stands for on these devices; others as they are."""
    if implementation != "auto":
        return implementation
    return "loop" if jax.default_backend() == "cpu" else "gather"


def _in_blocks(run: Callable[..., jax.Array], pixels: int) -> Callable[..., jax.Array]:
    """Runs over parts of a batch whose pixels stay in a CPU's cache from one op to the next."""
    most = max(1, BLOCK // pixels)

    def blocks(*arrays: jax.Array) -> jax.Array:
        batch = len(arrays[0])
        sizes = range(most, most // 8, -1)
        size = next((size for size in sizes if batch % size == 0), batch)
        if size == batch:
            return run(*arrays)
        parts = [array.reshape(-1, size, *array.shape[1:]) for array in arrays]
        augmented = jax.lax.map(lambda part: run(*part), tuple(parts))
        return augmented.reshape(batch, *augmented.shape[2:])

    return blocks


def _on_each_device(run: Callable[..., jax.Array], batch: int) -> Callable[..., jax.Array]:
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names or batch % mesh.shape[DATA]:
        return run
    spec = PartitionSpec(DATA)
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)


def stage(
    packed: jax.Array, row: Row, kernels: Kernels, measure: Dispatch, apply: Dispatch
) -> jax.Array:
    """Applies one op to each image, after making the lookup tables that depend on images.

    Args:
      packed: `u32[B,H,W]`, see `arithmetic.packed`.
      row: the rows `[B]`.
      kernels: what is computed.
      measure: computes lookup tables, by source; such as `dispatch.gather`.
      apply: computes images, by kind.

    Returns:
      `u32[B,H,W]`.
    """
    luts = kernels.luts
    if kernels.lut_sources:
        blank = jnp.zeros((len(packed), 3, 256), jnp.uint8)
        image_luts = measure(blank, row.source, kernels.lut_sources, row, packed)
        start = len(luts) + 768 * jnp.arange(len(packed), dtype=jnp.int32)
        place = jnp.stack([start, jnp.full_like(start, 256)], axis=1)
        row = row._replace(lut=jnp.where(row.source[:, None] == GIVEN, row.lut, place))
        luts = jnp.concatenate([luts, image_luts.reshape(-1)])
    return apply(packed, row.kind, kernels.ops(luts), row)
