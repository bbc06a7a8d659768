"""Applies an op of its own to every image of a batch.

The work of a stage is done by one of the three implementations in `spreads`.
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
from kdaug_jax.augment.engine.dispatch import DISPATCHES, Spread
from kdaug_jax.augment.engine.kernels import Colours, Kernels, Row, kernels, look_up
from kdaug_jax.augment.engine.rows import GIVEN, Table
from kdaug_jax.augment.ops.checks import check_batch
from kdaug_jax.errors import ArgumentError, suggest

Implementation = Literal["auto", "map", "slab", "all"]
# Pixels on a CPU that all ops are applied to in turn.
BLOCK = 1 << 19
DATA = "data"


class Shares(NamedTuple):
    """The share of the images of a stage that is expected to have each number, 0..1.

    Attributes:
      source: for each of `rows.SOURCES`.
      kind: for each of `rows.KINDS`.
    """

    source: tuple[float, ...]
    kind: tuple[float, ...]


def apply_ops(
    images: jax.Array,
    numbers: jax.Array,
    places: jax.Array,
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
      numbers: `i32[B,S]`, rows of the table, first to last.
      places: `u32[B,S,2]`, of erased squares, see `policies.places`.
      table: the rows, for images of this size.
      colours: of the fills.
      shares: how the images of a stage are expected to be distributed; by default as the rows of
        the table are. They decide how much work `slab` does, never what comes out.
      implementation: "map", "slab", "all", or "auto" for "map" on a CPU and "slab" elsewhere.

    Returns:
      `u8[B,H,W,C]`.

    Raises:
      TypeError: the images are not an array of uint8.
      ValueError: not `[B,H,W,3 or 4]`, not of the size that the table is for, not as many
        numbers or places as images, or an unknown implementation.
    """
    if implementation not in ("auto", *DISPATCHES):
        raise ArgumentError(
            f"implementation={implementation!r}; {suggest(str(implementation), ('auto', *DISPATCHES))}"
        )
    check_batch(images)
    images, numbers, places = (jnp.asarray(array) for array in (images, numbers, places))
    drawn = (len(images), *numbers.shape[1:2])
    if numbers.shape != drawn or len(drawn) != 2 or places.shape != (*drawn, 2):
        raise ArgumentError(
            f"{len(images)} images with numbers {list(numbers.shape)} and places "
            f"{list(places.shape)}; must be [B,S] and [B,S,2], one row for each image"
        )
    if images.shape[1:3] != table.size:
        raise ArgumentError(f"images are {images.shape[1:3]}; the table is for {table.size}")
    implementation = resolved(implementation)
    if shares is None:
        shares = Shares(*(
            tuple(np.bincount(column) / len(column)) for column in (table.source, table.kind)
        ))

    def run(images: jax.Array, numbers: jax.Array, places: jax.Array) -> jax.Array:
        rows, work, words = look_up(table, numbers, places), kernels(table, colours), pack(images)
        if colours.clear is not None:
            words |= ALPHA
        spread = DISPATCHES[implementation]
        for number in range(numbers.shape[1]):
            row = jax.tree.map(lambda column, number=number: column[:, number], rows)
            words = stage(words, row, work, spread(shares.source), spread(shares.kind))
        if colours.clear is not None:
            words = jnp.where(words <= ~ALPHA, pack(colours.clear), words)
        return unpack(words, images.shape[3])

    if implementation == "map":
        run = _in_blocks(run, math.prod(table.size))
    return _on_each_device(run, images.shape[0])(images, numbers, places)


def resolved(implementation: Implementation) -> Implementation:
    """Gives the implementation that "auto" stands for on these devices; others as they are."""
    if implementation != "auto":
        return implementation
    return "map" if jax.default_backend() == "cpu" else "slab"


def _in_blocks(run: Callable[..., jax.Array], pixels: int) -> Callable[..., jax.Array]:
    """Runs over parts of a batch whose words stay in a CPU's cache from one op to the next."""
    most = max(1, BLOCK // pixels)

    def blocks(*arrays: jax.Array) -> jax.Array:
        batch = len(arrays[0])
        size = next((one for one in range(most, most // 8, -1) if batch % one == 0), batch)
        if size == batch:
            return run(*arrays)
        parts = [array.reshape(-1, size, *array.shape[1:]) for array in arrays]
        done = jax.lax.map(lambda part: run(*part), tuple(parts))
        return done.reshape(batch, *done.shape[2:])

    return blocks


def _on_each_device(run: Callable[..., jax.Array], batch: int) -> Callable[..., jax.Array]:
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names or batch % mesh.shape[DATA]:
        return run
    spec = PartitionSpec(DATA)
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)


def stage(
    words: jax.Array, row: Row, work: Kernels, measure: Spread, apply: Spread
) -> jax.Array:
    """Applies one op to each image: first makes the tables that depend on images, then works.

    Args:
      words: `u32[B,H,W]`, see `ops.words`.
      row: the rows `[B]`.
      work: what is computed.
      measure: computes tables, by source; such as `slabs`.
      apply: computes images, by kind.

    Returns:
      `u32[B,H,W]`.
    """
    luts = work.luts
    if work.tables:
        blank = jnp.zeros((len(words), 3, 256), jnp.uint8)
        made = measure(blank, row.source, work.tables, row, words)
        mine = len(luts) + 768 * jnp.arange(len(words), dtype=jnp.int32)
        own = jnp.stack([mine, jnp.full_like(mine, 256)], axis=1)
        row = row._replace(lut=jnp.where(row.source[:, None] == GIVEN, row.lut, own))
        luts = jnp.concatenate([luts, made.reshape(-1)])
    return apply(words, row.kind, work.ops(luts), row)
