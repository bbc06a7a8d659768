"""Applies an op of its own to every image of a batch.

Three implementations give the same bits. `all` computes every kind of work for every image and
picks one: what `vmap` makes of a branch, simple, and the reference. `map` goes through the images
of each kind a few at a time, as many as a CPU's cache holds, and computes nothing in vain. `slab`
gathers the images of each kind into a slab of fixed size and computes it at once, which is for
accelerators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from kdaug_jax.augment.engine.kernels import Colours, Kernel, Kernels, Row, kernels, look_up
from kdaug_jax.augment.engine.rows import GIVEN, Table
from kdaug_jax.augment.ops.checks import check_batch
from kdaug_jax.augment.ops.words import ALPHA, pack, unpack
from kdaug_jax.errors import near

Implementation = Literal["auto", "map", "slab", "all"]
Work = Mapping[int, Kernel]
# Replaces in `out` `[B,...]` what one kind of work or another makes, see `slabs`.
Spread = Callable[..., jax.Array]
# How far, in standard deviations, the images of a kind may outnumber their share before a batch
# is computed by `all` instead: less than once in 10^8 batches.
SPREAD = 6.0
# Pixels on a CPU: that are worked on at a time, and that all ops are applied to in turn.
CACHED = 1 << 14
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
    if implementation not in ("auto", *SPREADS):
        raise ValueError(
            f"implementation={implementation!r}; {near(str(implementation), ('auto', *SPREADS))}"
        )
    check_batch(images)
    images, numbers, places = (jnp.asarray(array) for array in (images, numbers, places))
    drawn = (len(images), *numbers.shape[1:2])
    if numbers.shape != drawn or len(drawn) != 2 or places.shape != (*drawn, 2):
        raise ValueError(
            f"{len(images)} images with numbers {list(numbers.shape)} and places "
            f"{list(places.shape)}; must be [B,S] and [B,S,2], one row for each image"
        )
    if images.shape[1:3] != table.size:
        raise ValueError(f"images are {images.shape[1:3]}; the table is for {table.size}")
    if implementation == "auto":
        implementation = "map" if jax.default_backend() == "cpu" else "slab"
    if shares is None:
        shares = Shares(*(
            tuple(np.bincount(column) / len(column)) for column in (table.source, table.kind)
        ))

    def run(images: jax.Array, numbers: jax.Array, places: jax.Array) -> jax.Array:
        rows, work, words = look_up(table, numbers, places), kernels(table, colours), pack(images)
        if colours.clear is not None:
            words |= ALPHA
        spread = SPREADS[implementation]
        for number in range(numbers.shape[1]):
            row = jax.tree.map(lambda column, number=number: column[:, number], rows)
            words = stage(words, row, work, spread(shares.source), spread(shares.kind))
        if colours.clear is not None:
            words = jnp.where(words <= ~ALPHA, pack(colours.clear), words)
        return unpack(words, images.shape[3])

    if implementation == "map":
        run = _in_blocks(run, math.prod(table.size))
    return _on_each_device(run, images.shape[0])(images, numbers, places)


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


def _all(
    out: jax.Array, numbers: jax.Array, work: Work, row: Row, words: jax.Array | None = None
) -> jax.Array:
    if not work:
        return out
    branches = [lambda old, image, own: old] + [
        lambda old, image, own, kernel=kernel: kernel(image, own) for kernel in work.values()
    ]
    places = np.zeros(max(work) + 1, np.int32)
    places[list(work)] = np.arange(len(work)) + 1

    def one(number, *arguments):
        return jax.lax.switch(jnp.asarray(places)[number], branches, *arguments)

    return jax.vmap(one)(numbers, out, out if words is None else words, row)


def _map(
    out: jax.Array, numbers: jax.Array, work: Work, row: Row, words: jax.Array | None = None
) -> jax.Array:
    if not work:
        return out
    batch, height, width = (out if words is None else words).shape
    few = max(1, min(CACHED // (height * width), batch // 16))
    owners, starts, turns = _rounds(numbers, tuple(work), few)
    # Rows are fetched once for all: a round of few steps takes a CPU less time than one of many.
    theirs = jnp.minimum(owners, batch - 1)
    rows = _fetch(row, theirs)
    for kernel, start, count in zip(work.values(), starts, turns, strict=True):

        def some(turn: jax.Array, out: jax.Array, kernel=kernel, start=start) -> jax.Array:
            def take(array: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(array, start + turn * few, few)

            images = _fetch(out if words is None else words, take(theirs))
            return _put(out, take(owners), jax.vmap(kernel)(images, jax.tree.map(take, rows)))

        out = jax.lax.fori_loop(0, count, some, out)
    return out


def _rounds(
    numbers: jax.Array, kinds: tuple[int, ...], few: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lays the images of each kind out in whole rounds of `few`.

    Args:
      numbers: `i32[B]`, the kind of each image.
      kinds: those that are wanted.
      few: how many a round.

    Returns:
      `i32[M]`, images in rounds, filled up with B; where those of each kind begin; and how many
      rounds they are.
    """
    batch = len(numbers)
    mine = numbers[:, None] == jnp.asarray(kinds, jnp.int32)[None]
    counts = mine.sum(0, dtype=jnp.int32)
    turns = (counts + few - 1) // few
    starts = few * (jnp.cumsum(turns) - turns)
    places = starts[None] + jnp.cumsum(mine, axis=0, dtype=jnp.int32) - 1
    size = batch + few * len(kinds)
    places = jnp.where(mine, places, size).min(1)
    owners = jnp.full(size, batch, jnp.int32)
    return owners.at[places].set(jnp.arange(batch, dtype=jnp.int32), mode="drop"), starts, turns


def _fetch(tree: Any, theirs: jax.Array) -> Any:
    """Takes rows `i32[M]` out of arrays `[B,...]`."""
    return jax.tree.map(lambda array: array.at[theirs].get(mode="promise_in_bounds"), tree)


def _put(out: jax.Array, whose: jax.Array, done: jax.Array) -> jax.Array:
    return out.at[whose].set(done, mode="drop")


def _section(array: jax.Array, start: int, size: int) -> jax.Array:
    return array[start : start + size]


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


def _slab(
    out: jax.Array, numbers: jax.Array, work: Work, row: Row, words: jax.Array | None = None,
    *, shares: tuple[float, ...],
) -> jax.Array:
    if not work:
        return out
    room = rooms(work, shares, len(out))
    fits = jnp.array(True)
    for number, places in room.items():
        fits &= jnp.sum(numbers == number) <= places
    return jax.lax.cond(
        fits,
        lambda: slabs(out, numbers, work, row, words, room=room),
        lambda: _all(out, numbers, work, row, words),
    )


def rooms(work: Work, shares: tuple[float, ...], batch: int) -> dict[int, int]:
    """Gives the `capacity` that each kind of work has, by its share of a batch."""
    return {number: capacity(shares[number], batch) for number in work}


def slabs(
    out: jax.Array, numbers: jax.Array, work: Work, row: Row, words: jax.Array | None = None,
    *, room: Mapping[int, int],
) -> jax.Array:
    """Computes each kind of work for the images that drew it, as long as there is room.

    Args:
      out: `[B,...]`, what is replaced by what is computed.
      numbers: `i32[B]`, of the kind of work of each image.
      work: what is computed by kind.
      row: the rows `[B]`.
      words: `u32[B,H,W]`, see `ops.words`; None where they are what is replaced.
      room: how many images are computed by kind.

    Returns:
      `[B,...]`.
    """
    words = out if words is None else words
    # Sorted by kind, the images of each lie together.
    order = jnp.argsort(numbers, stable=True).astype(jnp.int32)
    order = jnp.concatenate([order, jnp.full(max(room.values()), len(out), jnp.int32)])
    owners = []
    for number, places in room.items():
        first = jnp.sum(numbers < number, dtype=jnp.int32)
        count = jnp.sum(numbers == number, dtype=jnp.int32)
        mine = jax.lax.dynamic_slice(order, (first,), (places,))
        owners.append(jnp.where(jnp.arange(places) < count, mine, len(out)))
    # One gather fetches the images of all kinds, and one scatter puts them back.
    whose = jnp.concatenate(owners)
    fetched = _fetch((words, row), jnp.minimum(whose, len(out) - 1))
    done, start = [], 0
    for number, places in room.items():
        slab = jax.tree.map(functools.partial(_section, start=start, size=places), fetched)
        done.append(jax.vmap(work[number])(*slab))
        start += places
    return _put(out, whose, jnp.concatenate(done))


SPREADS: dict[str, Callable[[tuple[float, ...]], Spread]] = {
    "all": lambda expected: _all,
    "map": lambda expected: _map,
    "slab": lambda expected: functools.partial(_slab, shares=expected),
}
