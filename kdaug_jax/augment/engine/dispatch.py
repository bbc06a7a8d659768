"""Does work of many kinds, for each image its own: three implementations, the same bits.

`all` computes every kind of work for every image and picks one: what `vmap` makes of a branch,
simple, and the reference. `map` goes through the images of each kind a few at a time, as many as a
CPU's cache holds, and computes nothing in vain. `slab` gathers the images of each kind into a slab
of fixed size and computes it at once, which is for accelerators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.engine.kernels import Kernel, Row

Work = Mapping[int, Kernel]
# Replaces in `out` `[B,...]` what one kind of work or another makes, see `slabs`.
Spread = Callable[..., jax.Array]
# How far, in standard deviations, the images of a kind may outnumber their share before a batch
# is computed by `all` instead: less than once in 10^8 batches.
DEVIATIONS = 6.0
CACHED = 1 << 14  # pixels that are worked on at a time on a CPU


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
    wide = batch * share + DEVIATIONS * math.sqrt(batch * share * (1.0 - share))
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


DISPATCHES: dict[str, Callable[[tuple[float, ...]], Spread]] = {
    "all": lambda expected: _all,
    "map": lambda expected: _map,
    "slab": lambda expected: functools.partial(_slab, shares=expected),
}
