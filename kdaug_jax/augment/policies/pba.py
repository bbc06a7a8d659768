"""Population based augmentation: policies that are arrays, and schedules of them by epoch.

A policy is 60 whole numbers: 15 ops, twice, each with its probability in tenths 0..10 and its
magnitude 0..9. It is data, so a schedule, a search or a population runs one compiled program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.policies import published
from kdaug_jax.augment.policies.files import check_keys, parse, read, with_line
from kdaug_jax.augment.policies.levels import SOURCES, Source
from kdaug_jax.augment.policies.policy import (
    HparamSpec,
    Policy,
    Rows,
    below,
    check_squares,
    named,
    whole,
)
from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Range

# The order of the published schedules, which is that of a dict of the released code in Python 2.
OPS = (
    "Rotate", "TranslateX", "TranslateY", "Brightness", "Color", "Invert", "Sharpness",
    "Posterize", "ShearX", "Solarize", "ShearY", "Equalize", "AutoContrast", "Cutout", "Contrast",
)
SLOTS = 2 * len(OPS)
LENGTH = 2 * SLOTS
HIGHEST_TENTHS, HIGHEST_MAGNITUDE = 10, 9
# How many ops an image takes, each tenth of the cases: 0 in 2, 1 in 3, 2 in 5.
COUNTS = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2], np.int32)
STAGES = 2


def pba(
    policy: Sequence[int] | None = None, *, size: tuple[int, int], levels: str = "released"
) -> Policy:
    """Applies 0, 1 or 2 ops: the first to succeed when all 30 are tried in a random order.

    The number of ops is 0, 1 or 2 with probability 0.2, 0.3 and 0.5. Each of the 30 succeeds with
    its own probability; where too few succeed, fewer are applied. The same op may come twice, once
    from either copy. Signs are positive with probability 1/2.

    Args:
      policy: 60 whole numbers, traced under the name `policy`; None for all 0, which applies
        nothing. Number 2i is the probability of op i in tenths, 2i + 1 its magnitude; the ops
        are `OPS`, then `OPS` again.
      size: height and width of the images in pixels.
      levels: `released`, whose distances are pixels of 32x32 images, or `released_scaled`, which
        scales them to the images.

    Returns:
      A policy with the traced hyper-parameter `policy`, `i32[60]`.

    Raises:
      ArgumentError: what is wrong, and what to write.

    Source: Ho et al. 2019 (PBA); `apply_policy` of augmentation_transforms_hp.py, arcelien/pba.
    """
    default = np.zeros(LENGTH, np.int32) if policy is None else check_policy("policy", policy)
    draw, source, rows = _parts(size, levels)
    hparam = HparamSpec(default, Range(np.int32, 0, HIGHEST_TENTHS))
    return _policy(rows, lambda key, hparams: draw(key, hparams["policy"]), source, policy=hparam)


def schedule(
    path: str,
    epochs: int | None = None,
    *,
    size: tuple[int, int],
    levels: str = "released",
    flatten: bool = False,
    searched: int = published.SEARCHED,
) -> Policy:
    """Applies the PBA policy of the epoch.

    Args:
      path: of a schedule file, see `read_schedule`.
      epochs: of the run; the schedule is stretched to it. None for the file's own.
      size: height and width of the images in pixels.
      levels: see `pba`.
      flatten: draw the policy of a random epoch for each image instead.
      searched: of a log, the epochs of its search.

    Returns:
      A policy with the traced hyper-parameter `epoch`, `i32[]`, which is ignored with `flatten`;
      epochs beyond the last repeat it.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    table, lost = _read_schedule(path, epochs, searched)
    draw, source, rows = _parts(size, levels)

    def scheduled(key: jax.Array, hparams: Mapping[str, jax.Array]) -> jax.Array:
        epoch = below(key, "epoch", len(table)) if flatten else hparams["epoch"]
        return draw(key, jnp.asarray(table).at[epoch].get(mode="clip"))

    hparam = HparamSpec(np.zeros((), np.int32), Range(np.int32, 0))
    note = "" if not lost else (
        f"{lost[0]} of {lost[1]} segments of {path} are shorter than an epoch of a run of "
        f"{len(table)} epochs: their policies are never used, as in the released code"
    )
    return _policy(rows, scheduled, source, epoch=hparam)._replace(note=note)


def read_schedule(
    path: str, epochs: int | None = None, searched: int = published.SEARCHED
) -> np.ndarray:
    """Reads a schedule file and gives the policy of each epoch of a run.

    The file is JSON: `{"segments": [[epochs, [60 whole numbers]], ...]}`, and `"source"`, any
    text, if you like. A segment is a policy as `pba` takes it and for how many epochs it holds;
    0 is allowed. In a run of E' epochs instead of the file's E, a segment of n epochs lasts the
    whole part of n E' / E, and what remains at the end repeats the last policy. The file may also
    be a log of a search, as PBA and role-kd publish it, see `published.segments`.

    Args:
      path: of the file.
      epochs: E', of the run; None for E.
      searched: of a log, the epochs of its search.

    Returns:
      `i32[epochs,60]`.

    Raises:
      ArgumentError: what is wrong, with line, segment and op, and what to write.

    Source: Ho et al. 2019 (PBA); `parse_log_schedule` of pba/utils.py.
    """
    return _read_schedule(path, epochs, searched)[0]


def _read_schedule(
    path: str, epochs: int | None, searched: int
) -> tuple[np.ndarray, tuple[int, int] | None]:
    """Returns the policy of each epoch, and how many of all segments have no epoch, if any."""
    if epochs is not None:
        whole("epochs", epochs, 1, 1_000_000)
    text = read(path)
    if published.is_log(text):
        whole("searched", searched, 1, 1_000_000)
        lengths, policies = [], []
        for length, policy, line in published.segments(path, text, searched):
            lengths.append(length)
            policies.append(check_policy(f"{path}, line {line}", policy))
    else:
        lengths, policies = _segments(path, parse(path, text))
    total = sum(lengths)
    if total == 0:
        raise ArgumentError(f"{path}: all segments last 0 epochs", "must last at least 1 together")
    epochs = total if epochs is None else epochs
    repeats = [length * epochs // total for length in lengths]
    repeats[-1] += epochs - sum(repeats)
    used = [length for length in lengths if length]
    lost = sum(1 for length, count in zip(lengths, repeats, strict=True) if length and not count)
    return np.repeat(np.stack(policies), repeats, axis=0), (lost, len(used)) if lost else None


def _segments(path: str, content: Any) -> tuple[list[int], list[np.ndarray]]:
    """Returns the epochs and the policy of each segment of a schedule in JSON."""
    check_keys(path, content, ("segments",))
    segments = content["segments"]
    if not isinstance(segments, list) or not segments:
        raise ArgumentError(f"{path} has no segments", "must hold at least one [epochs, policy]")
    lengths, policies = [], []
    for number, segment in enumerate(segments):
        where, steps = f"{path}, segment {number + 1}", (path, "segments", number)
        with with_line(*steps):
            if not isinstance(segment, list) or len(segment) != 2:
                raise ArgumentError(f"{where} is no pair", "must be [epochs, [60 whole numbers]]")
            lengths.append(whole(f"{where}: epochs", segment[0], 0, 1_000_000))
            policies.append(
                check_policy(where, segment[1], functools.partial(with_line, *steps, 1))
            )
    return lengths, policies


def check_policy(
    where: str,
    policy: Any,
    add_line: Callable[[int], AbstractContextManager] = lambda position: nullcontext(),
) -> np.ndarray:
    """Returns a policy as an array, or says which of its numbers is wrong.

    Args:
      where: starts the message.
      policy: 60 whole numbers.
      add_line: returns what adds the line of a number to its error, see `files.with_line`.

    Returns:
      `i32[60]`.

    Raises:
      ArgumentError: what is wrong, with the op, and what to write.
    """
    if not isinstance(policy, list | tuple | np.ndarray) or len(policy) != LENGTH:
        held = len(policy) if isinstance(policy, list | tuple | np.ndarray) else repr(policy)
        raise ArgumentError(f"{where}: the policy is {held}", f"must be {LENGTH} whole numbers")
    for position, value in enumerate(policy):
        slot, kind = divmod(position, 2)
        copy, op = divmod(slot, len(OPS))
        what = ("probability", "magnitude")[kind]
        highest = (HIGHEST_TENTHS, HIGHEST_MAGNITUDE)[kind]
        with add_line(position):
            whole(f"{where}: {what} of {OPS[op]} (copy {copy + 1}, number {position + 1})", value,
                  0, highest)
    return np.array(policy, np.int32)


def _parts(size: tuple[int, int], levels: str) -> tuple[Callable, Source, Rows]:
    """Makes `f(key, policy: i32[60]) -> i32[2]` with its source and rows."""
    known = {name: SOURCES[name] for name in ("released", "released_scaled")}
    source = named("levels", levels, known)
    pairs = [
        [source.levels[name](magnitude, size) for magnitude in range(HIGHEST_MAGNITUDE + 1)]
        for name in OPS
    ]
    remedy = "take levels='released_scaled' or larger images"
    check_squares("magnitude 9 of Cutout", pairs[OPS.index("Cutout")][-1], size, remedy)
    rows = Rows()
    index = rows(pairs)

    def draw(key: jax.Array, policy: jax.Array) -> jax.Array:
        tenths, magnitude = jnp.asarray(policy).reshape(SLOTS, 2).T
        succeeds = below(key, "apply", 10, (SLOTS,)) < tenths
        # Ranks in a random order; the first two to succeed are the two best ranked.
        order = jax.random.bits(rng.fold(key, "order"), (SLOTS,), jnp.uint32) >> 1
        order = jnp.where(succeeds, order.astype(jnp.int32), -1)
        first = jnp.argmax(order)
        second = jnp.argmax(jnp.where(jnp.arange(SLOTS) == first, -1, order))
        slot = jnp.stack([first, second])
        count = jnp.asarray(COUNTS)[below(key, "count", len(COUNTS))]
        taken = jnp.arange(STAGES) < jnp.minimum(count, jnp.sum(succeeds))
        sign = below(key, "sign", 2, (STAGES,))
        row = jnp.asarray(index)[slot % len(OPS), magnitude[slot], sign]
        return jnp.where(taken, row, 0)

    return draw, source, rows


def _policy(rows: Rows, draw: Callable, source: Source, **hparams: HparamSpec) -> Policy:
    return Policy(
        rows.ops, draw, STAGES, hparams, source.variant, source.channels, source.fill,
        source.cutout_fill,
    )
