"""The view language: `pad_crop(4)|flip|randaugment(2, 3)` read as one Python expression.

Each call binds to the signature of its stage, so every traced number has a path such as
`views.x.randaugment.m`; the second randaugment of a view is `randaugment_1`. A view may start
from another one: `view("x")|...`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.augment import STAGES, apply_policy
from kdaug_jax.augment.stage import Stage
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment.binding import Bound, bind, colour, read_calls
from kdaug_jax.types import Batch, Clock, Hparams, Info, Range, View

# The traced number of a policy that is given, not set: the epoch of the run.
EPOCH = "epoch"


class Call(NamedTuple):
    """One stage of a view with its bound arguments; `role` names its draws and its path."""

    role: str
    stage: Stage
    bound: Bound


class Plan(NamedTuple):
    """One view.

    Attributes:
      name: of the view.
      source: the view it starts from, None for the stored images.
      calls: its stages.
      size: height and width of its images in pixels.
      floats: whether its images are float32, in pixel units, instead of bytes.
    """

    name: str
    source: str | None
    calls: tuple[Call, ...]
    size: tuple[int, int]
    floats: bool


def source_of(name: str, text: str) -> str | None:
    """Gives the view that an expression starts from, or None.

    Raises:
      ConfigError: not such an expression, or `view(...)` at another place.
    """
    source = None
    for position, (stage, args, kwargs) in enumerate(read_calls(f"views.{name}", text)):
        if stage == "view":
            if position or kwargs or len(args) != 1 or not isinstance(args[0], str):
                raise ConfigError(
                    f"views.{name}", "view(...) is out of place", 'start with view("name")'
                )
            source = args[0]
    return source


def parse(
    name: str, text: str, info: Info, *, start: Plan | None = None, epochs: int | None = None
) -> Plan:
    """Reads one view expression.

    Args:
      name: the view's name.
      text: the expression; empty for the images as they are stored.
      info: facts of the training split, for colours, ranges and sizes.
      start: the view that it starts from, where it starts from one.
      epochs: of the run, for policies that depend on the epoch; by default their own.

    Returns:
      Its plan.

    Raises:
      ConfigError: not such an expression, an unknown stage, or arguments that do not fit.
    """
    where = f"views.{name}"
    source = source_of(name, text)
    size, floats = (start.size, start.floats) if start else (info.size, False)
    calls, seen = [], {}
    for stage_name, args, kwargs in read_calls(where, text)[source is not None :]:
        if stage_name not in STAGES:
            known = [*STAGES, "view"]
            raise ConfigError(where, f"unknown stage '{stage_name}'", near(stage_name, known))
        stage = STAGES[stage_name]
        if floats and stage.form != "group":
            raise ConfigError(
                f"{where}.{stage_name}", "comes after a stage that gives floats",
                "put it before, on images of bytes",
            )
        count = seen.get(stage_name, 0)
        seen[stage_name] = count + 1
        role = stage_name if count == 0 else f"{stage_name}_{count}"
        bind_it = _bind_policy if stage.form == "policy" else _bind_stage
        try:
            bound = bind_it(f"{where}.{role}", stage, args, kwargs, info, size, epochs)
        except ValueError as error:
            raise ConfigError(f"{where}.{role}", *error.args) from None
        calls.append(Call(role, stage, bound))
        size = stage.size(bound.static, size) if stage.size else size
        floats = floats or stage.floats
    return Plan(name, source, tuple(calls), size, floats)


def _bind_stage(where, stage: Stage, args, kwargs, info: Info, size, epochs) -> Bound:
    del epochs
    bound = bind(where, stage.apply, args, kwargs, 2, info)
    values = {**bound.static, **{name: value.item() for name, value in bound.traced.items()}}
    if stage.check is not None:
        stage.check(values, size)
    return bound


def _bind_policy(where, stage: Stage, args, kwargs, info: Info, size, epochs) -> Bound:
    """Builds the policy; what a user may sweep are its own numbers."""
    context = {"size": size, "epochs": epochs}
    taken = {name: context[name] for name in inspect.signature(stage.apply).parameters
             if name in context}
    own = {name: value for name, value in kwargs.items() if name != "fill"}
    static = bind(where, stage.apply, args, own, tuple(context), info).static
    policy = stage.apply(**static, **taken)
    fill = colour(f"{where}.fill", kwargs.get("fill", policy.fill), info)
    numbers = {name: one for name, one in policy.numbers.items() if name != EPOCH}
    return Bound(
        {"policy": policy, "fill": fill},
        {name: one.default for name, one in numbers.items()},
        {name: one.range for name, one in numbers.items()},
    )


def parse_all(
    texts: Mapping[str, str], info: Info, epochs: int | None = None
) -> tuple[Plan, ...]:
    """Reads view expressions, each after the one it starts from.

    Args:
      texts: expressions by name.
      info: see `parse`.
      epochs: see `parse`.

    Returns:
      Their plans.

    Raises:
      ConfigError: see `parse`; or a view starts from an unknown view or, directly or not, from
        itself.
    """
    done: dict[str, Plan] = {}

    def visit(name: str, path: tuple[str, ...]) -> Plan:
        if name in path:
            circle = " -> ".join((*path, name))
            raise ConfigError(f"views.{name}", f"starts from itself ({circle})", "break the circle")
        if name in done:
            return done[name]
        source = source_of(name, texts[name])
        if source is not None and source not in texts:
            raise ConfigError(f"views.{name}", f"no view '{source}'", near(source, texts))
        start = None if source is None else visit(source, (*path, name))
        done[name] = parse(name, texts[name], info, start=start, epochs=epochs)
        return done[name]

    for name in texts:
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

    Raises:
      ConfigError: a stage mixes inside groups of one example.
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
                _check_group(f"views.{plan.name}.{call.role}", view, groups)
                key = rng.batch_key(clock, f"view/{plan.name}/{call.role}")
                view = _mix(call, key, view, traced, groups)
            else:
                keys = rng.example_keys(clock, "view/" + plan.name, view.index)
                image = _augment(
                    call, rng.fold(keys, call.role), view.image, traced, clock.epoch
                )
                view = view.replace(image=image)
        views[plan.name] = view
    return views


def _check_group(where: str, view: View, groups: int) -> None:
    """Refuses groups in which nobody has a partner."""
    if view.index.shape[0] // groups < 2:
        raise ConfigError(
            where, "mixes inside groups of 1 example",
            "give train.group_size, or data.batch_size without groups, at least 2",
        )


def _augment(
    call: Call, keys: jax.Array, image: jax.Array, traced: Mapping[str, Any], epoch: jax.Array
) -> jax.Array:
    apply, static = call.stage.apply, call.bound.static
    if call.stage.form == "policy":
        policy = static["policy"]
        traced = {**traced, EPOCH: epoch} if EPOCH in policy.numbers else traced
        return apply_policy(policy, keys, image, static["fill"], traced)
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
    text: str, *, mean: tuple[float, ...] = (125.3, 123.0, 113.9), epoch: int = 0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds a view expression as a pure function, for notebooks.

    Args:
      text: stages that change one image at a time, such as "pad_crop(4)|flip|randaugment(2, 9)".
      mean: the colour of `fill="mean"`, in pixel units.
      epoch: for policies that depend on it.

    Returns:
      `f(keys: key[B], images: u8[B,H,W,C]) -> u8[B,H,W,C]`; jit it as you like. With
      `rng.example_keys(clock, "view/x", index)` as keys it gives what a run gives for view x.

    Raises:
      ConfigError: the expression does not fit; what depends on the size of the images is told
        by the function.
    """
    for stage, _, _ in read_calls("views.x", text):
        if stage == "view" or (stage in STAGES and STAGES[stage].form == "group"):
            raise ConfigError("views.x", f"{text!r} needs a batch with labels", "use a config")
        if stage not in STAGES:
            raise ConfigError("views.x", f"unknown stage '{stage}'", near(stage, STAGES))

    def apply(keys: jax.Array, images: jax.Array) -> jax.Array:
        info = Info(0, images.shape[1:3], np.zeros(0, np.int32), mean, mean)
        for call in parse("x", text, info).calls:
            traced = {name: jnp.asarray(value) for name, value in call.bound.traced.items()}
            images = _augment(
                call, rng.fold(keys, call.role), images, traced, jnp.asarray(epoch, jnp.int32)
            )
        return images

    return apply
