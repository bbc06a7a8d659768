"""Applies to every image of a batch the ops that it drew.

On TPUs all stages are computed by the kernel of `engine.tpu`, elsewhere each stage by one of the
three implementations in `dispatch`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.arithmetic.packed import ALPHA, pack, unpack
from kdaug_jax.augment.engine import tpu
from kdaug_jax.augment.engine.dispatch import DISPATCHES, Dispatch, in_rounds
from kdaug_jax.augment.engine.kernels import Colours, Kernels, Row, bind_kernels, look_up
from kdaug_jax.augment.engine.rows import GIVEN, Table
from kdaug_jax.augment.ops.checks import check_batch
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.per_device import on_each_device
from kdaug_jax.runtime.platform import target_platform

Implementation = Literal["auto", "switch", "loop", "gather", "kernel"]
IMPLEMENTATIONS = (*DISPATCHES, "kernel")
# Pixels on a CPU that all ops are applied to in turn.
BLOCK = 1 << 19


class Shares(NamedTuple):
    """The share of the images of a stage that is expected to have each kernel, 0..1.

    Attributes:
      source: for each of `Table.lut_sources`.
      kind: for each of `Table.kernels`.
      slow: of images with a row in any stage that the kernel for TPUs does not compute.
    """

    source: tuple[float, ...]
    kind: tuple[float, ...]
    slow: float = 0.0


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
      implementation: "switch", "loop", "gather", "kernel", or "auto", see `choose`. A CPU
        interprets "kernel", which is for tests; images with a row that the kernel does not
        compute (`tpu.slow_ops`) are computed by "loop" in the same call.

    Returns:
      `u8[B,H,W,C]`.

    Raises:
      TypeError: the images are not an array of uint8.
      ArgumentError: not `[B,H,W,3 or 4]`, not of the size that the table is for, not as many
        ids or offsets as images, an unknown implementation, or one that the platform has not.
    """
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
            f"images are {width}×{height}; the table is for {columns}×{rows}",
            "build the table for the size of the images",
        )
    platform = target_platform()
    implementation = resolved(implementation, platform, table)
    if not op_ids.shape[1]:
        return images
    if shares is None:
        shares = shares_of(table, op_ids.shape[1])

    def staged(dispatch_name: str, shares: Shares, packed, op_ids, square_offsets) -> jax.Array:
        rows = look_up(table, op_ids, square_offsets)
        kernels, dispatch = bind_kernels(table, colours), DISPATCHES[dispatch_name]
        for number in range(op_ids.shape[1]):
            row = jax.tree.map(lambda column, number=number: column[:, number], rows)
            packed = stage(packed, row, kernels, dispatch(shares.source), dispatch(shares.kind))
        return packed

    def in_kernel(packed: jax.Array, op_ids: jax.Array, square_offsets: jax.Array) -> jax.Array:
        slow = slow_rows(table)
        if not slow.any():
            return tpu.apply_rows(
                packed, op_ids, square_offsets, table, colours, interpret=platform == "cpu"
            )
        is_slow = jnp.asarray(slow)[op_ids].any(axis=1)
        fast_ids = jnp.where(is_slow[:, None], len(slow), op_ids)
        packed = tpu.apply_rows(
            packed, fast_ids, square_offsets, table, colours, interpret=platform == "cpu"
        )
        rest = functools.partial(staged, "loop", shares)
        return in_rounds(rest, is_slow, shares.slow, packed, op_ids, square_offsets)

    def run(images: jax.Array, op_ids: jax.Array, square_offsets: jax.Array) -> jax.Array:
        packed = pack(images)
        if colours.clear is not None:
            packed |= ALPHA
        if implementation == "kernel":
            packed = in_kernel(packed, op_ids, square_offsets)
        else:
            packed = staged(implementation, shares, packed, op_ids, square_offsets)
        if colours.clear is not None:
            packed = jnp.where(packed <= ~ALPHA, pack(colours.clear), packed)
        return unpack(packed, images.shape[3])

    if implementation == "loop":
        run = _in_blocks(run, max(1, BLOCK // math.prod(table.size)))
    elif implementation == "kernel":
        run = _in_blocks(run, tpu.images_a_call(table, op_ids.shape[1]))
    run = on_each_device(run, images.shape[0], alone=implementation == "kernel")
    return run(images, op_ids, square_offsets)


def choose(platform: str, has_kernel: bool) -> Implementation:
    """Returns the implementation for a platform.

    Args:
      platform: "cpu", "gpu" or "tpu".
      has_kernel: whether the kernel for TPUs computes any row that changes something.

    Returns:
      "loop" for a CPU, "kernel" for a TPU if there is anything for it, and "gather" elsewhere.
    """
    if platform == "cpu":
        return "loop"
    return "kernel" if platform == "tpu" and has_kernel else "gather"


def resolved(implementation: Implementation, platform: str, table: Table) -> Implementation:
    """Returns the implementation that "auto" stands for on a platform; others as they are.

    Raises:
      ArgumentError: an unknown implementation, or one that the platform has not.
    """
    if implementation == "auto":
        return choose(platform, bool((~slow_rows(table) & (table.kind > 0)).any()))
    if implementation not in IMPLEMENTATIONS:
        raise ArgumentError(
            f"implementation={implementation!r}",
            suggest(str(implementation), ("auto", *IMPLEMENTATIONS)),
        )
    if implementation == "kernel" and platform not in ("cpu", "tpu"):
        raise ArgumentError(
            f"implementation='kernel' for {platform}", "it is for TPUs; use 'auto' or 'gather'"
        )
    return implementation


def slow_rows(table: Table) -> np.ndarray:
    """Returns which rows the kernel for TPUs does not compute, `bool[R]`."""
    return np.array([text is not None for text in tpu.problems(table)], bool)


def shares_of(table: Table, stages: int) -> Shares:
    """Returns the shares of a batch whose images draw each row of a table as often."""
    source, kind = (
        tuple(np.bincount(column) / len(column)) for column in (table.source, table.kind)
    )
    return Shares(source, kind, float(1 - (1 - slow_rows(table).mean()) ** stages))


def _in_blocks(run: Callable[..., jax.Array], most: int) -> Callable[..., jax.Array]:
    """Runs over parts of a batch of at most so many images.

    On a CPU their pixels stay in its cache from one op to the next, and on a TPU their numbers fit
    its scalar memory.
    """

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
