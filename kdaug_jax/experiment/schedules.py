"""Schedules as multipliers of height 1, so that their base value stays traced.

A schedule's options are written in epochs or steps (`unit`) and set a table on the host; the step
gathers from it or evaluates one smooth formula. A user's schedule is a function like those here,
`f(span, **options) -> multiplier`, named `package.module:function`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment.binding import bind, cast, check_function, located, shape_text
from kdaug_jax.registry import resolve
from kdaug_jax.types import Info, Range

Multiplier = Callable[[jax.Array], jax.Array]

# Drops of a staircase; by then any factor has become 0, or too large.
MOST_DROPS = 1_000_000


def exact_steps(time: float, steps_per_unit: int) -> Fraction:
    """Returns how many steps a time lasts, exactly.

    Args:
      time: in units, the decimal number that was written: 0.1 is a tenth and not the binary number
        nearest to it, whose products may lie on the other side of a whole number.
      steps_per_unit: steps an epoch, or 1.
    """
    return Fraction(str(time)) * steps_per_unit


def whole_steps(time: float, steps_per_unit: int) -> int:
    """Returns how many steps a time lasts, see `exact_steps`, rounded; a half to the even."""
    return round(exact_steps(time, steps_per_unit))


class Span(NamedTuple):
    """What a schedule's times are measured in: steps a unit, and steps of the whole run."""

    steps_per_unit: int
    total_steps: int


def constant(span: Span) -> Multiplier:
    """Stays at 1."""
    return lambda step: jnp.ones_like(step, jnp.float32)


def milestones(span: Span, at: tuple, factor: float = 0.1) -> Multiplier:
    """Multiplies by `factor` when each of the times in `at` is reached.

    Epochs count from 0, so `at=(150,)` first lowers the 151st epoch, as the public code of paper
    001 does.
    """
    numbers = all(isinstance(time, int | float) and not isinstance(time, bool) for time in at)
    if not numbers or not all(0 <= time <= 1e9 for time in at) or list(at) != sorted(at):
        raise ArgumentError(f"at = {at}", "must be rising times from 0")
    times = np.asarray([whole_steps(time, span.steps_per_unit) for time in at], np.int64)
    times = np.minimum(times, np.iinfo(np.int32).max).astype(np.int32)
    with np.errstate(over="ignore"):
        heights = np.float32(factor) ** np.arange(len(at) + 1, dtype=np.float32)
    if factor < 0 or not np.isfinite(heights).all():
        raise ArgumentError(
            f"factor = {factor}", f"must be at least 0 and its power {len(at)} finite"
        )
    return lambda step: jnp.asarray(heights)[jnp.sum(step >= times, dtype=jnp.int32)]


def step_decay(span: Span, every: float, factor: float = 0.5) -> Multiplier:
    """Multiplies by `factor` after every `every` units, as λ of paper 003 does."""
    return exponential(span, every, factor)


def _check_end(end: float) -> None:
    if end < 0.0:
        raise ArgumentError(f"end = {end}", "must be at least 0")


def cosine(span: Span, end: float = 0.0, until: float = 0.0) -> Multiplier:
    """Falls from 1 to `end` along half a cosine (Loshchilov and Hutter 2017, eq 5).

    It lasts until the time `until` and stays at `end` from then on; 0 for the end of the run.
    """
    _check_end(end)
    if not 0.0 <= until <= 1e9:
        raise ArgumentError(
            f"until = {until}", "must be a time from 0, which is the end of the run"
        )
    end_step = max(whole_steps(until, span.steps_per_unit), 1) if until else span.total_steps
    last = np.float32(end_step)

    def multiplier(step):
        position = jnp.minimum(step.astype(jnp.float32) / last, 1.0)
        return end + (1.0 - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * position))

    return multiplier


def linear(span: Span, end: float = 0.0) -> Multiplier:
    """Goes from 1 to `end` along a line over the run."""
    _check_end(end)

    def multiplier(step):
        position = jnp.minimum(step.astype(jnp.float32) / np.float32(span.total_steps), 1.0)
        return 1.0 + (end - 1.0) * position

    return multiplier


def exponential(
    span: Span, every: float, factor: float = 0.97, staircase: bool = True
) -> Multiplier:
    """Multiplies by `factor` every `every` units, in steps or smoothly, as EfficientNet's rate."""
    if not 0 < every < 1e30 or factor <= 0:
        raise ArgumentError(f"every = {every}, factor = {factor}", "both must be more than 0")
    length = exact_steps(every, span.steps_per_unit)
    drops = span.total_steps / length
    if drops > MOST_DROPS:
        raise ArgumentError(
            f"every = {every}", f"must leave at most {MOST_DROPS:,} drops, these are {drops:,.0f}"
        )
    with np.errstate(over="ignore", under="ignore"):
        last = np.float32(factor) ** np.float32(drops)
    if not np.isfinite(last):
        raise ArgumentError(f"factor = {factor}", f"must stay finite over {span.total_steps} steps")
    # A quotient in float32 rounds to the other side of some whole numbers, one step late or early.
    starts = np.asarray(
        [math.ceil(number * length) for number in range(1, int(drops) + 1)], np.int32
    )

    def multiplier(step):
        if staircase:
            power = jnp.searchsorted(starts, step, side="right").astype(jnp.float32)
        else:
            power = step.astype(jnp.float32) / np.float32(length)
        return jnp.float32(factor) ** power

    return multiplier


SCHEDULES: dict[str, Callable[..., Multiplier]] = {
    "constant": constant,
    "milestones": milestones,
    "step_decay": step_decay,
    "cosine": cosine,
    "linear": linear,
    "exponential": exponential,
}

COMMON = {"name": "constant", "unit": "epoch", "warmup": 0.0, "stairs": "", "offset": 1.0}
# What `stairs` may be, and what `offset`.
STAIRS, OFFSET = ("", "epoch"), Range(np.float32, 0.0, 1.0)


class Schedule(NamedTuple):
    """A traced base value at `path` times a multiplier of the step."""

    path: str
    base: np.ndarray
    range: Range
    multiplier: Multiplier


def build_schedule(
    where: str, spec: Any, steps_per_epoch: int, total_steps: int, legal: Range, info: Info
) -> Schedule:
    """Builds a schedule from a number or from `dict(name=..., base=..., unit=..., warmup=...)`.

    Args:
      where: config path of the number or dict.
      spec: what the config holds there.
      steps_per_epoch: steps an epoch.
      total_steps: steps of the whole run.
      legal: range of the base value.
      info: facts of the training split.

    Returns:
      The schedule. A warm-up rises linearly from 0 and then hands over to the main schedule,
      whose own time starts at step 0, as in EfficientNet's code. With `stairs="epoch"` time stands
      still within an epoch, and the warm-up counts `offset` epochs ahead: in epoch e from 0 it is
      at (e + 1) / warmup, as in mdistiller, or with offset=0 at e / warmup, as in ReviewKD's code.

    Raises:
      ConfigError: unknown schedule or option, or a value out of range.
    """
    if not isinstance(spec, Mapping):
        base = cast(where, spec, legal)
        return Schedule(where, base, legal, constant(Span(1, total_steps)))
    spec = {**COMMON, **spec}
    name, unit, warmup = spec.pop("name"), spec.pop("unit"), spec.pop("warmup")
    stairs, offset = spec.pop("stairs"), spec.pop("offset")
    if "base" not in spec:
        raise ConfigError(where, "has no base value", "give base=...")
    base = cast(f"{where}.base", spec.pop("base"), legal)
    make = resolve(f"{where}.name", "schedule", str(name), SCHEDULES)
    check_function(f"{where}.name", make, 1, "name a function f(span, ...)")
    if unit not in ("epoch", "step"):
        raise ConfigError(f"{where}.unit", f"got {unit!r}", "must be 'epoch' or 'step'")
    span = Span(steps_per_epoch if unit == "epoch" else 1, total_steps)
    bound = bind(where, make, (), spec, 1, info)
    with located(where):
        main = make(span, **bound.static, **bound.traced)
        _check_multiplier(f"{where}.name", main)
    cast(f"{where}.warmup", warmup, Range(np.float32, 0.0))
    warmup_steps = whole_steps(warmup, span.steps_per_unit)
    if warmup_steps > total_steps:
        raise ConfigError(
            f"{where}.warmup", f"lasts {warmup_steps} steps of {total_steps}", "make it shorter"
        )
    if stairs not in STAIRS:
        raise ConfigError(f"{where}.stairs", f"got {stairs!r}", "must be 'epoch' or empty")
    ahead = whole_steps(float(cast(f"{where}.offset", offset, OFFSET)), steps_per_epoch)
    multiplier = _after_warmup(main, warmup_steps, ahead if stairs else 0)
    if stairs:
        multiplier = _standing(multiplier, steps_per_epoch)
    return Schedule(f"{where}.base", base, legal, multiplier)


def _check_multiplier(where: str, multiplier: Any) -> None:
    """Raises ConfigError unless a schedule returned `f(step: i32[]) -> f32[]`."""
    check_function(where, multiplier, 1, "return a function of the step")
    height = jax.eval_shape(multiplier, jax.ShapeDtypeStruct((), jnp.int32))
    if getattr(height, "shape", None) != () or height.dtype != jnp.float32:
        returned = jax.tree.map(shape_text, height)
        raise ConfigError(where, f"its multiplier returned {returned}", "return float32[]")


def _after_warmup(main: Multiplier, steps: int, ahead: int) -> Multiplier:
    if steps == 0:
        return main

    def multiplier(step):
        rise = (step + ahead if ahead else step).astype(jnp.float32) / steps
        rise = jnp.minimum(rise, 1.0) if ahead else rise
        return jnp.where(step < steps, rise, main(step))

    return multiplier


def _standing(multiplier: Multiplier, steps_per_epoch: int) -> Multiplier:
    """Returns a schedule that has in each epoch the value of its first step."""
    return lambda step: multiplier(step - step % steps_per_epoch)
