"""Dispatches each image to the kernel of its kind: three implementations, the same bits.

`switch` is `lax.switch` under `vmap`, which computes every kernel for every image and picks one:
simple, and the reference. `loop` goes through the images of each kind a few at a time, as many as
a CPU's cache holds, and computes nothing in vain. `gather` collects the images of each kind in an
array of fixed size and computes it at once, which is for GPUs.

The fourth implementation, for TPUs, computes all stages of an image in one kernel: `engine.tpu`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.engine.kernels import BoundKernel, Row

Kernels = Mapping[int, BoundKernel]
# Replaces in `out` `[B,...]` what one kernel or another computes, see `gather`.
Dispatch = Callable[..., jax.Array]
# How often the images of a kind may outnumber their room, so that `switch` computes the batch: it
# takes several times as long, and all devices wait for the slowest.
OUTNUMBERED = 1e-7
SMALL = 256  # images, up to which rooms are as narrow as can be; of more they are multiples of 8
CACHED = 1 << 14  # pixels that are worked on at a time on a CPU


def _switch(
    out: jax.Array, kinds: jax.Array, kernels: Kernels, row: Row, packed: jax.Array | None = None
) -> jax.Array:
    if not kernels:
        return out
    branches = [lambda old, image, row: old] + [
        lambda old, image, row, kernel=kernel: kernel(image, row) for kernel in kernels.values()
    ]
    branch_of = np.zeros(max(kernels) + 1, np.int32)
    branch_of[list(kernels)] = np.arange(len(kernels)) + 1

    def compute(kind, *arguments):
        return jax.lax.switch(jnp.asarray(branch_of)[kind], branches, *arguments)

    return jax.vmap(compute)(kinds, out, out if packed is None else packed, row)


def _loop(
    out: jax.Array, kinds: jax.Array, kernels: Kernels, row: Row, packed: jax.Array | None = None
) -> jax.Array:
    if not kernels:
        return out
    batch, height, width = (out if packed is None else packed).shape
    few = max(1, min(CACHED // (height * width), batch // 16))
    owners, starts, turns = _rounds(kinds, tuple(kernels), few)
    image_ids = jnp.minimum(owners, batch - 1)
    # Rows are fetched once for all: a round of few steps takes a CPU less time than one of many.
    rows = _fetch(row, image_ids)

    def take(tree: Any, start: jax.Array, turn: jax.Array) -> Any:
        return jax.tree.map(
            lambda array: jax.lax.dynamic_slice_in_dim(array, start + turn * few, few), tree
        )

    for kernel, start, count in zip(kernels.values(), starts, turns, strict=True):

        def resolved(turn: jax.Array, kernel=kernel, start=start) -> Row:
            return jax.vmap(kernel.resolve)(take(rows, start, turn))

        # The rows of a round are computed in the round before. In the same round XLA would fuse
        # looking them up into the kernel, and do it again for every pixel.
        def compute_few(
            turn: jax.Array, state: tuple[jax.Array, Row], kernel=kernel, start=start,
            resolved=resolved,
        ) -> tuple[jax.Array, Row]:
            out, resolved_rows = state
            images = _fetch(out if packed is None else packed, take(image_ids, start, turn))
            computed = jax.vmap(kernel.compute)(images, resolved_rows)
            return _put(out, take(owners, start, turn), computed), resolved(turn + 1)

        out, _ = jax.lax.fori_loop(0, count, compute_few, (out, resolved(0)))
    return out


def _rounds(
    kinds: jax.Array, computed: tuple[int, ...], few: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lays the images of each kind out in whole rounds of `few`.

    Args:
      kinds: `i32[B]`, the kind of each image.
      computed: the kinds that have a kernel.
      few: how many a round.

    Returns:
      `i32[M]`, images in rounds, filled up with B; where those of each kind begin; and how many
      rounds they are.
    """
    batch = len(kinds)
    matches = kinds[:, None] == jnp.asarray(computed, jnp.int32)[None]
    counts = matches.sum(0, dtype=jnp.int32)
    turns = (counts + few - 1) // few
    starts = few * (jnp.cumsum(turns) - turns)
    positions = starts[None] + jnp.cumsum(matches, axis=0, dtype=jnp.int32) - 1
    size = batch + few * len(computed)
    positions = jnp.where(matches, positions, size).min(1)
    owners = jnp.full(size, batch, jnp.int32)
    return owners.at[positions].set(jnp.arange(batch, dtype=jnp.int32), mode="drop"), starts, turns


def _fetch(tree: Any, image_ids: jax.Array) -> Any:
    """Takes rows `i32[M]` out of arrays `[B,...]`."""
    return jax.tree.map(lambda array: array.at[image_ids].get(mode="promise_in_bounds"), tree)


def _put(out: jax.Array, owners: jax.Array, computed: jax.Array) -> jax.Array:
    return out.at[owners].set(computed, mode="drop")


def _section(array: jax.Array, start: int, size: int) -> jax.Array:
    return array[start : start + size]


def capacity(share: float, batch: int) -> int:
    """Returns how many images of a batch are made room for.

    Args:
      share: expected share of the batch, 0..1.
      batch: number of images of a device.

    Returns:
      The fewest that are outnumbered less often than `OUTNUMBERED`, at least an eighth of a batch
      up to 8.
    """
    least = min(8, max(1, batch // 8))
    if share <= 0.0:
        return least
    beyond = 1.0 - np.cumsum(_chances(share, batch))
    wide = max(int(np.argmax(beyond <= OUTNUMBERED)), least)
    return wide if batch <= SMALL else min(-(-wide // 8) * 8, batch)


def images_a_round(share: float, batch: int) -> int:
    """Returns how many images to compute at a time where a round is filled up to so many.

    Args:
      share: expected share of the batch, 0..1.
      batch: number of images of a device.

    Returns:
      The number with which the fewest are computed on average, a round costing one more.
    """
    chances, counts = _chances(share, batch), np.arange(batch + 1)

    def work(size: int) -> float:
        return float((chances * -(-counts // size)).sum() * (size + 1))

    # The best grows with the root of the expected number, twice of which is well above it.
    most = min(batch, 2 + 2 * math.isqrt(1 + math.ceil(2 * share * batch)))
    return min(range(1, most + 1), key=work)


def _chances(share: float, batch: int) -> np.ndarray:
    """Returns how likely each number of images `0..batch` is, `f64[batch+1]`."""
    if share <= 0.0 or share >= 1.0:
        return (np.arange(batch + 1) == batch * round(share)).astype(np.float64)
    steps = np.log(np.arange(1, batch + 1))
    factorials = np.concatenate([[0.0], np.cumsum(steps)])
    counts = np.arange(batch + 1)
    ways = factorials[-1] - factorials - factorials[::-1]
    return np.exp(ways + counts * math.log(share) + (batch - counts) * math.log1p(-share))


def _gather_or_switch(
    out: jax.Array, kinds: jax.Array, kernels: Kernels, row: Row, packed: jax.Array | None = None,
    *, shares: tuple[float, ...],
) -> jax.Array:
    if not kernels:
        return out
    room = rooms(kernels, shares, len(out))
    fits = jnp.array(True)
    for kind, slots in room.items():
        fits &= jnp.sum(kinds == kind) <= slots
    return jax.lax.cond(
        fits,
        lambda: gather(out, kinds, kernels, row, packed, room=room),
        lambda: _switch(out, kinds, kernels, row, packed),
    )


def rooms(kernels: Kernels, shares: tuple[float, ...], batch: int) -> dict[int, int]:
    """Returns the `capacity` that each kernel has, by its share of a batch."""
    return {kind: capacity(shares[kind], batch) for kind in kernels}


def gather(
    out: jax.Array, kinds: jax.Array, kernels: Kernels, row: Row, packed: jax.Array | None = None,
    *, room: Mapping[int, int],
) -> jax.Array:
    """Runs each kernel on the images that drew its kind, as long as there is room.

    Args:
      out: `[B,...]`, what is replaced by what is computed.
      kinds: `i32[B]`, of each image.
      kernels: by kind.
      row: the rows `[B]`.
      packed: `u32[B,H,W]`, see `arithmetic.packed`; None where they are what is replaced.
      room: how many images are computed by kind.

    Returns:
      `[B,...]`.
    """
    packed = out if packed is None else packed
    # Sorted by kind, the images of each lie together.
    order = jnp.argsort(kinds, stable=True).astype(jnp.int32)
    order = jnp.concatenate([order, jnp.full(max(room.values()), len(out), jnp.int32)])
    owners = []
    for kind, slots in room.items():
        first = jnp.sum(kinds < kind, dtype=jnp.int32)
        count = jnp.sum(kinds == kind, dtype=jnp.int32)
        image_ids = jax.lax.dynamic_slice(order, (first,), (slots,))
        owners.append(jnp.where(jnp.arange(slots) < count, image_ids, len(out)))
    # One gather fetches the images of all kinds, and one scatter puts them back.
    all_owners = jnp.concatenate(owners)
    fetched = _fetch((packed, row), jnp.minimum(all_owners, len(out) - 1))
    computed, start = [], 0
    for kind, slots in room.items():
        section = jax.tree.map(functools.partial(_section, start=start, size=slots), fetched)
        computed.append(jax.vmap(kernels[kind])(*section))
        start += slots
    return _put(out, all_owners, jnp.concatenate(computed))


def in_rounds(
    compute: Callable[..., jax.Array], chosen: jax.Array, share: float, packed: jax.Array,
    *arrays: jax.Array,
) -> jax.Array:
    """Computes some images of a batch, `images_a_round` at a time, and leaves the others.

    Args:
      compute: `f(packed u32[M,H,W], *arrays [M,...]) -> u32[M,H,W]`.
      chosen: `bool[B]`, which images.
      share: how many of them are expected, 0..1.
      packed: `u32[B,H,W]`.
      *arrays: `[B,...]` each.

    Returns:
      `u32[B,H,W]`.
    """
    batch = len(packed)
    room = images_a_round(share, batch)
    count = jnp.sum(chosen, dtype=jnp.int32)
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    order = jnp.where(jnp.arange(batch) < count, order, batch)
    order = jnp.concatenate([order, jnp.full(room, batch, jnp.int32)])

    def turn(number: jax.Array, out: jax.Array) -> jax.Array:
        owners = jax.lax.dynamic_slice_in_dim(order, number * room, room)
        given = _fetch((out, *arrays), jnp.minimum(owners, batch - 1))
        return _put(out, owners, compute(*given))

    return jax.lax.fori_loop(0, (count + room - 1) // room, turn, packed)


DISPATCHES: dict[str, Callable[[tuple[float, ...]], Dispatch]] = {
    "switch": lambda shares: _switch,
    "loop": lambda shares: _loop,
    "gather": lambda shares: functools.partial(_gather_or_switch, shares=shares),
}
