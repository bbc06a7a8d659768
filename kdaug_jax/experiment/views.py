"""The view language: `pad_crop(4)|flip|randaugment(2, 3)` read as one Python expression.

Each call binds to the signature of its stage, so every traced number has a path such as
`views.x.randaugment.m`; the second randaugment of a view is `randaugment_1`. A view may start
from another one: `view("x")|...`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment import STAGES
from kdaug_jax.augment.stage import Stage
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment.binding import Bound, bind, cast, read_calls
from kdaug_jax.types import Batch, Clock, Hparams, Info, Range, View


class Call(NamedTuple):
    """One stage of a view with its bound arguments; `role` names its draws and its path."""

    role: str
    stage: Stage
    bound: Bound


class Plan(NamedTuple):
    """One view: the view it starts from (None = the stored images) and its stages."""

    name: str
    source: str | None
    calls: tuple[Call, ...]


def parse(name: str, text: str, info: Info) -> Plan:
    """Reads one view expression.

    Args:
      name: the view's name.
      text: the expression; empty for the images as they are stored.
      info: facts of the training split, for colours and ranges.

    Returns:
      Its plan.

    Raises:
      ConfigError: not such an expression, an unknown stage, or arguments that do not fit.
    """
    where = f"views.{name}"
    source, calls, seen = None, [], {}
    for position, (stage_name, args, kwargs) in enumerate(read_calls(where, text)):
        if stage_name == "view":
            if position or kwargs or len(args) != 1 or not isinstance(args[0], str):
                raise ConfigError(where, "view(...) is out of place", 'start with view("name")')
            source = args[0]
            continue
        if stage_name not in STAGES:
            known = [*STAGES, "view"]
            raise ConfigError(where, f"unknown stage '{stage_name}'", near(stage_name, known))
        count = seen.get(stage_name, 0)
        seen[stage_name] = count + 1
        role = stage_name if count == 0 else f"{stage_name}_{count}"
        calls.append(_bind_stage(f"{where}.{role}", role, STAGES[stage_name], args, kwargs, info))
    return Plan(name, source, tuple(calls))


def _bind_stage(where, role, stage: Stage, args, kwargs, info: Info) -> Call:
    bound = bind(where, stage.apply, args, kwargs, 2, info)
    values = {**bound.static, **{name: value.item() for name, value in bound.traced.items()}}
    if stage.check is not None:
        try:
            stage.check(values, info.size)
        except ValueError as error:
            raise ConfigError(where, *error.args) from None
    if stage.limits is not None:
        for name, (low, high) in stage.limits(values).items():
            bound.ranges[name] = Range(bound.ranges[name].dtype, low, high)
            cast(f"{where}.{name}", bound.traced[name], bound.ranges[name], info)
    return Call(role, stage, bound)


def ordered(plans: Mapping[str, Plan]) -> tuple[Plan, ...]:
    """Sorts views so that each comes after the view it starts from.

    Raises:
      ConfigError: a view starts from an unknown view or, directly or not, from itself.
    """
    done: dict[str, Plan] = {}

    def visit(name: str, path: tuple[str, ...]):
        if name in path:
            circle = " -> ".join((*path, name))
            raise ConfigError(f"views.{name}", f"starts from itself ({circle})", "break the circle")
        plan = plans[name]
        if plan.source is not None:
            if plan.source not in plans:
                raise ConfigError(
                    f"views.{name}", f"no view '{plan.source}'", near(plan.source, plans)
                )
            visit(plan.source, (*path, name))
        done.setdefault(name, plan)

    for name in plans:
        visit(name, ())
    return tuple(done.values())


def hparams(plans: Sequence[Plan]) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """Collects the traced numbers of views and their ranges, by path."""
    values, ranges = {}, {}
    for plan in plans:
        for call in plan.calls:
            for name, value in call.bound.traced.items():
                path = f"views.{plan.name}.{call.role}.{name}"
                values[path], ranges[path] = value, call.bound.ranges[name]
    return values, ranges


def make(
    plans: Sequence[Plan], clock: Clock, batch: Batch, hparams: Hparams, info: Info, groups: int
) -> dict[str, View]:
    """Makes all views of a batch.

    Args:
      plans: the views, each after the one it starts from.
      clock: position in the run.
      batch: the stored examples.
      hparams: traced numbers by path.
      info: facts of the training split.
      groups: into how many equal groups the batch is split for stages that mix examples.

    Returns:
      `{name: View}`. What is drawn for an example depends on `(seed, view, stage, epoch, index)`
      alone; what is drawn for a group on `(seed, view, stage, epoch, step)` and its number.
    """
    target = jax.nn.one_hot(batch.label, info.num_classes, dtype=jnp.float32)
    stored = View(batch.image, target, batch.label, batch.index, batch.mask)
    views: dict[str, View] = {}
    for plan in plans:
        view = stored if plan.source is None else views[plan.source]
        for call in plan.calls:
            prefix = f"views.{plan.name}.{call.role}."
            traced = {name: hparams[prefix + name] for name in call.bound.traced}
            if call.stage.form == "group":
                key = rng.batch_key(clock, f"view/{plan.name}/{call.role}")
                view = _mix(call, key, view, traced, groups)
            else:
                keys = rng.example_keys(clock, "view/" + plan.name, view.index)
                image = _augment(call, rng.fold(keys, call.role), view.image, traced)
                view = view.replace(image=image)
        views[plan.name] = view
    return views


def _augment(call: Call, keys: jax.Array, image: jax.Array, traced: Mapping[str, Any]):
    apply, static = call.stage.apply, call.bound.static
    if call.stage.form == "batch":
        return apply(keys, image, **static, **traced)
    return jax.vmap(lambda key, one: apply(key, one, **static, **traced))(keys, image)


def _mix(call: Call, key: jax.Array, view: View, traced: Mapping[str, Any], groups: int) -> View:
    size = view.index.shape[0] // groups
    grouped = jax.tree.map(lambda array: array.reshape(groups, size, *array.shape[1:]), view)
    keys = jax.random.split(key, groups)
    mixed = jax.vmap(lambda key, one: call.stage.apply(key, one, **call.bound.static, **traced))(
        keys, grouped
    )
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), mixed)


def build(
    text: str, *, size: tuple[int, int] = (32, 32), mean: tuple[float, ...] = (125.3, 123.0, 113.9)
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds a view expression as a pure function, for notebooks.

    Args:
      text: stages that change one image at a time, such as "pad_crop(4)|flip|randaugment(2, 3)".
      size: height and width of the images in pixels.
      mean: the colour of `fill="mean"`, in pixel units.

    Returns:
      `f(keys: key[B], images: u8[B,H,W,C]) -> u8[B,H,W,C]`; jit and vmap it as you like. With
      `rng.example_keys(clock, "view/x", index)` as keys it gives what a run gives for view x.

    Raises:
      ConfigError: the expression does not fit.
    """
    plan = parse("x", text, Info(0, size, np.zeros(0, np.int32), mean, mean))
    grouped = [call.role for call in plan.calls if call.stage.form == "group"]
    if plan.source is not None or grouped:
        raise ConfigError("views.x", f"{text!r} needs a batch with labels", "use a config")

    def apply(keys: jax.Array, images: jax.Array) -> jax.Array:
        for call in plan.calls:
            traced = {name: jnp.asarray(value) for name, value in call.bound.traced.items()}
            images = _augment(call, rng.fold(keys, call.role), images, traced)
        return images

    return apply
