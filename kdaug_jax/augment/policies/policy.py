"""What a policy is: ops at fixed strengths as the rows of a table, and a draw of row numbers.

Strengths are computed on the host in double precision when a policy is built; on the device an
image only draws whole numbers and looks rows up, so it draws the same rows on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment.ops.table import IDENTITY, SQUARES, Op
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.types import Range

Pair = tuple[Op, Op]  # an op with a positive and with a negative sign; twice itself if unsigned
Levels = Mapping[str, Callable[[float, tuple[int, int]], Pair]]  # f(level, (height, width))


class HparamSpec(NamedTuple):
    """A traced hyper-parameter of a policy: its default, and the range of each of its entries."""

    default: np.ndarray
    range: Range


class Policy(NamedTuple):
    """A distribution over short sequences of ops.

    Attributes:
      ops: the rows of the table; row 0 is `IDENTITY`.
      draw: `draw(key, hparams) -> i32[stages]`, the rows that one image takes, in order; 0
        where nothing is applied. `hparams` holds an array for each entry of the field below.
      stages: how many ops an image takes at most.
      hparams: what `draw` takes, by name.
      variant: whose arithmetic the ops follow, one of `ops.table.VARIANTS`.
      channels: 3, or 4 where the ops see a transparent channel as AutoAugment's and PBA's CIFAR
        code has it: geometric ops bring in transparent black, squares are painted in transparent
        `cutout_fill`; invert, auto_contrast, equalize, posterize and solarize make all pixels
        opaque; pixels that are transparent after the last op become `fill`.
      fill: colour name or level of what geometric ops bring in (of what is transparent in the
        end, where `channels` is 4).
      cutout_fill: colour of squares; None for `fill`.
      note: what a user should know of it, a line; "" for nothing.
    """

    ops: tuple[Op, ...]
    draw: Callable[[jax.Array, Mapping[str, jax.Array]], jax.Array]
    stages: int
    hparams: Mapping[str, HparamSpec] = {}
    variant: str = "pillow"
    channels: int = 3
    fill: str | int | tuple[int, ...] = "mean"
    cutout_fill: tuple[int, ...] | None = None
    note: str = ""


def plain(name: str, value: float | int | None = None) -> Pair:
    """Returns an op whose sign is not drawn."""
    return Op(name, value), Op(name, value)


def signed(name: str, value: float | int, resample: str = "nearest") -> Pair:
    """Returns an op with its value and with its negative."""
    return Op(name, value, resample), Op(name, -value, resample)


class Rows:
    """Numbers the different ops of a policy; the identity is row 0."""

    def __init__(self):
        self._numbers = {IDENTITY: 0}

    def __call__(self, nested: Any) -> np.ndarray:
        """Returns the row numbers, `i32[...]`, of nested sequences of ops."""
        return np.array(self._visit(nested), np.int32)

    def _visit(self, node):
        if isinstance(node, Op):
            return self._numbers.setdefault(node, len(self._numbers))
        return [self._visit(child) for child in node]

    @property
    def ops(self) -> tuple[Op, ...]:
        """All rows so far."""
        return tuple(self._numbers)


def count_hparam(most: int) -> HparamSpec:
    """Returns the traced hyper-parameter of a count of ops that is padded to `most` stages."""
    return HparamSpec(np.asarray(most, np.int32), Range(np.int32, 0, most))


def padded(rows: jax.Array, count: jax.Array | int) -> jax.Array:
    """Returns the first `count` rows, then the identity.

    A draw of several numbers begins with those of a draw of fewer, so these are the rows that a
    policy of `count` stages draws.

    Args:
      rows: `i32[most]`, row numbers.
      count: `i32[]`, 0..most, may be traced.

    Returns:
      `i32[most]`.
    """
    return jnp.where(jnp.arange(len(rows)) < count, rows, 0)


def below(key: jax.Array, role: str, limit: Any, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draws whole numbers uniform over 0..limit-1; 0 where the limit is below 1.

    The remainder of 32 random bits is uneven by less than limit / 2^32; `jax.random.randint`
    would make a draw compile several times as long.

    Args:
      key: `key[]`.
      role: what is drawn; different roles are independent.
      limit: `i32[]` or `i32[shape]`, how many numbers, may be traced.
      shape: of the result.

    Returns:
      `i32[shape]`.
    """
    bits = jax.random.bits(rng.fold(key, role), shape, jnp.uint32)
    return (bits % jnp.maximum(limit, 1).astype(jnp.uint32)).astype(jnp.int32)


def named(what: str, name: Any, known: Any, where: str = "") -> Any:
    """Returns `known[name]`, or says which name was probably meant.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if not isinstance(name, str) or name not in known:
        where = f"{where}: " if where else ""
        raise ArgumentError(f"{where}unknown {what} {name!r}", suggest(str(name), known))
    return known[name]


def whole(what: str, value: Any, low: int, high: int) -> int:
    """Returns `value` if it is a whole number in low..high.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    fits = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        raise ArgumentError(f"{what} is {value!r}", f"must be a whole number, {low}..{high}")
    return int(value)


def check_squares(where: str, pair: Pair, size: tuple[int, int], remedy: str) -> None:
    """Validates that a square is not larger than the image.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    side = pair[0].value if pair[0].name in SQUARES else 0
    if side > max(size):
        raise ArgumentError(
            f"{where}: a square of {side:g} pixels is larger than the {size[1]}×{size[0]} image",
            remedy,
        )
