"""Applies an op of its own to every image of a batch.

Three implementations give the same bits. `all` computes every kind for every image and picks one:
what `vmap` makes of a branch, simple, and the reference. `map` takes the images one after another
and computes one kind each, which is fastest on a CPU. `slab` gathers the images of each kind and
computes each kind for them alone, which is for accelerators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from kdaug_jax.augment.engine.kernels import Colours, Row, kernels, look_up
from kdaug_jax.augment.engine.rows import KINDS, NONE, Table

Implementation = Literal["auto", "map", "slab", "all"]
# How far, in standard deviations, the images of a kind may outnumber their share before a batch
# is computed by `all` instead: less than once in 10^8 batches.
SPREAD = 6.0
DATA = "data"


def apply_ops(
    images: jax.Array,
    numbers: jax.Array,
    places: jax.Array,
    table: Table,
    colours: Colours,
    *,
    shares: Sequence[float] = (),
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
      colours: of the fills, `u8[C]` each.
      shares: the share of all images of a stage that each of `rows.KINDS` is expected to have;
        by default that of its rows in the table. It decides how much work is done, never what
        comes out.
      implementation: "map", "slab", "all", or "auto" for "map" on a CPU and "slab" elsewhere.

    Returns:
      `u8[B,H,W,C]`.

    Raises:
      ValueError: the images are not of the size that the table is for.
    """
    if images.shape[1:3] != table.size:
        raise ValueError(f"images are {images.shape[1:3]}; the table is for {table.size}")
    if implementation == "auto":
        implementation = "map" if jax.default_backend() == "cpu" else "slab"
    work = {"all": _all, "map": _map, "slab": _slab}[implementation]
    if not len(shares):
        shares = np.bincount(table.kind, minlength=len(KINDS)) / len(table.kind)

    def run(images, numbers, places):
        return work(images, look_up(table, numbers, places), kernels(table, colours), shares)

    return _on_each_device(run, images.shape[0])(images, numbers, places)


def _on_each_device(run: Callable[..., jax.Array], batch: int) -> Callable[..., jax.Array]:
    mesh = jax.sharding.get_abstract_mesh()
    if DATA not in mesh.axis_names or batch % mesh.shape[DATA]:
        return run
    spec = PartitionSpec(DATA)
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)


def _one(image: jax.Array, row: Row, work: dict[int, Any]) -> jax.Array:
    """Applies one op to one image."""
    if len(work) == 1:
        return image
    # Kinds are numbered by their place among those that the table has.
    places = np.zeros(len(KINDS), np.int32)
    places[list(work)] = np.arange(len(work))
    return jax.lax.switch(jnp.asarray(places)[row.kind], list(work.values()), image, row)


def _stages(row: Row) -> list[Row]:
    """Takes rows `[B,S]` apart, stage by stage."""
    return [_take(row, (slice(None), stage)) for stage in range(row.kind.shape[1])]


def _take(row: Row, place: Any) -> Row:
    return jax.tree.map(lambda array: array[place], row)


def _all(images: jax.Array, row: Row, work: dict[int, Any], shares: Sequence[float]) -> jax.Array:
    del shares
    for stage in _stages(row):
        images = jax.vmap(lambda image, own: _one(image, own, work))(images, stage)
    return images


def _map(images: jax.Array, row: Row, work: dict[int, Any], shares: Sequence[float]) -> jax.Array:
    del shares
    stages = row.kind.shape[1]

    def image_of(arguments):
        image, own = arguments
        return jax.lax.fori_loop(
            0, stages,
            lambda stage, image: _one(image, _take(own, stage), work), image,
        )

    return jax.lax.map(image_of, (images, row))


def capacity(share: float, batch: int) -> int:
    """Gives how many images of a batch are made room for.

    Args:
      share: expected share of the batch, 0..1.
      batch: number of images.

    Returns:
      Share and spread together, rounded up to a multiple of 8, at most the batch.
    """
    if share <= 0.0:
        return min(8, batch)
    wide = batch * share + SPREAD * math.sqrt(batch * share * (1.0 - share))
    return min(-(-math.ceil(wide) // 8) * 8, batch)


def _slab(images: jax.Array, row: Row, work: dict[int, Any], shares: Sequence[float]) -> jax.Array:
    room = {kind: capacity(shares[kind], len(images)) for kind in work if kind != NONE}
    for stage in _stages(row):
        fits = jnp.array(True)
        for kind, places in room.items():
            fits &= jnp.sum(stage.kind == kind) <= places
        images = jax.lax.cond(
            fits,
            lambda images, stage: slabs(images, stage, work, room),
            lambda images, stage: _all(images, _take(stage, (slice(None), None)), work, shares),
            images, stage,
        )
    return images


def slabs(
    images: jax.Array, stage: Row, work: dict[int, Any], room: dict[int, int]
) -> jax.Array:
    """Computes each kind for the images that it is drawn for, as long as there is room.

    Args:
      images: `u8[B,H,W,C]`.
      stage: the rows `[B]`.
      work: functions by kind.
      room: how many images of each kind are computed.

    Returns:
      `u8[B,H,W,C]`.
    """
    batch = len(images)
    # Sorted by kind, the images of each lie together.
    order = jnp.argsort(stage.kind, stable=True).astype(jnp.int32)
    order = jnp.concatenate([order, jnp.full(max(room.values(), default=0), batch, jnp.int32)])
    for kind, places in room.items():
        first = jnp.sum(stage.kind < kind, dtype=jnp.int32)
        count = jnp.sum(stage.kind == kind, dtype=jnp.int32)
        mine = jax.lax.dynamic_slice(order, (first,), (places,))
        mine = jnp.where(jnp.arange(places) < count, mine, batch)
        theirs = jnp.minimum(mine, batch - 1)
        done = jax.vmap(work[kind])(images[theirs], _take(stage, theirs))
        images = images.at[mine].set(done, mode="drop")
    return images
