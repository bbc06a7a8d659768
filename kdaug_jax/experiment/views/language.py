"""The view language: `pad_crop(4)|flip|randaugment(2, 3)` read as one Python expression.

Each call binds to the signature of its stage, so every traced number has a path such as
`views.x.randaugment.m`; the second randaugment of a view is `randaugment_1`. A user's stage is
written `package.module.function(3)` and has the path `views.x.function`, see `stages`. A view may
start from another one: `view("x")|...`. Pools are made by `repeat(n)` and thinned out by
`pick(...)`, see `pools`.
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.augment.stage import Stage
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment.binding import Bound, bind, call_texts, colour, located, read_calls
from kdaug_jax.experiment.views.leading import Leading, LeadingReader, Prefix
from kdaug_jax.experiment.views.pools import Rows, draws_of
from kdaug_jax.experiment.views.stages import check_outputs, check_policy, find_stage
from kdaug_jax.registry import is_import, short_name
from kdaug_jax.types import Info, Range

# The traced number of a policy that is given, not set: the epoch of the run.
EPOCH = "epoch"
NO_COLOUR = (0.0, 0.0, 0.0)  # mean of images that are not known yet
LARGEST = 11585  # side of a square image in pixels, see `images.boxes.LARGEST_IMAGE`


class Call(NamedTuple):
    """One stage of a view.

    Attributes:
      role: names its path.
      stage: its row of the stage table.
      bound: its arguments.
      size: height and width of the images that it takes, in pixels; None where they differ.
      draws: names its draws; its role but for stages that share the draws of another.
    """

    role: str
    stage: Stage
    bound: Bound
    size: tuple[int, int] | None
    draws: str


class ViewSpec(NamedTuple):
    """One view.

    Attributes:
      name: of the view.
      source: the view it starts from, None for the stored images.
      calls: its stages.
      size: height and width of its images in pixels.
      floats: whether its images are float32, in pixel units, instead of bytes.
      rows: what made its rows more or fewer than the batch's, in order; views of equal `rows`
        have the same example of the batch in each row.
      mixes: whether labels are mixed.
      leading: its part that is carried out while images are decoded, None where there is none.
      hosted: the stages that the host carries out where it goes on after the leading part, which
        is among them, see `placing`; None where it does not.
    """

    name: str
    source: str | None
    calls: tuple[Call, ...]
    size: tuple[int, int]
    floats: bool
    rows: tuple[Rows, ...] = ()
    mixes: bool = False
    leading: Leading | None = None
    hosted: Prefix | None = None

    @property
    def prefix(self) -> Prefix | None:
        """The stages whose result the host sends; None where it sends images as stored."""
        return self.hosted or (self.leading.prefix if self.leading else None)

    @property
    def picks(self) -> bool:
        """Whether networks score its rows."""
        return any(change.pick for change in self.rows)

    @property
    def draws(self) -> int:
        """How many draws of each example lie side by side, see `pools.repeat`."""
        return draws_of(self.rows)


def source_of(name: str, text: str) -> str | None:
    """Returns the name of the view that an expression starts from, or None.

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
    name: str, text: str, info: Info, *, start: ViewSpec | None = None, epochs: int | None = None,
    trace: bool = True, where: str = "", counts: Mapping[str, int] | None = None,
) -> ViewSpec:
    """Reads one view expression.

    Args:
      name: the view's name.
      text: the expression; empty for the images as they are stored.
      info: facts of the training split, for colours, ranges and sizes.
      start: the view that it starts from, where it starts from one.
      epochs: of the run, for policies that depend on the epoch; by default their own.
      trace: whether a user's stages are traced to validate what they return.
      where: config path of the expression, for messages; by default `views.<name>`.
      counts: the largest value of each whole number that a sweep varies, by path; policies that
        can pad such a count trace it.

    Returns:
      Its spec.

    Raises:
      ConfigError: not such an expression, an unknown stage, or arguments that do not fit.
    """
    where = where or f"views.{name}"
    source = source_of(name, text)
    size, floats = (start.size, start.floats) if start else (info.size, False)
    rows, mixes = (start.rows, start.mixes) if start else ((), False)
    leading = None
    beginning = LeadingReader(where, info.mixed) if info.host_crops and source is None else None
    calls, uses, drawn = [], collections.Counter(), collections.Counter()
    for stage_name, args, kwargs in read_calls(where, text)[source is not None :]:
        stage = find_stage(where, stage_name)
        role = _numbered(short_name(stage_name), uses)
        draws = _numbered(stage.drawn_as or short_name(stage_name), drawn)
        path = f"{where}.{role}"
        if floats and stage.form not in ("group", "repeat", "pick"):
            raise ConfigError(
                path, "comes after a stage that returns floats", "put it before, on images of bytes"
            )
        if beginning is not None:
            beginning.admit(stage)
            if beginning.open and info.mixed:
                size = None  # the images have no common size yet
        before = size, floats
        with located(path):
            if stage.form == "policy":
                context = {"size": size, "epochs": epochs, "counts": {
                    name: counts[f"{path}.{name}"] for name in stage.counts
                    if f"{path}.{name}" in (counts or {})
                }}
                bound = _bind_policy(path, stage, args, kwargs, info, context)
            else:
                bound = _bind_stage(path, stage, args, kwargs, info, size)
            size = stage.size(bound.static, size) if stage.size else size
            floats = floats or stage.floats
            if beginning is not None and beginning.open:
                leading = beginning.add(role, stage, bound.static)
            if trace and is_import(stage_name) and stage.form != "policy":
                check_outputs(path, stage, bound, before, (size, floats), info)
        calls.append(Call(role, stage, bound, before[0], draws))
        mixes = mixes or stage.form == "group"
        if stage.form == "pick":
            rows = (*rows, Rows(bound.static["keep"], path))
        elif stage.form == "repeat" and bound.static["n"] > 1:
            rows = (*rows, Rows(bound.static["n"]))
    if beginning is not None:
        beginning.end()
    return ViewSpec(name, source, tuple(calls), size, floats, rows, mixes, leading)


def _numbered(name: str, counts: collections.Counter[str]) -> str:
    """Counts a name; returns it, from the second time on with a number: `name_1`."""
    counts[name] += 1
    return name if counts[name] == 1 else f"{name}_{counts[name] - 1}"


def _bind_stage(where, stage: Stage, args, kwargs, info: Info, size) -> Bound:
    leading = 0 if stage.form in ("repeat", "pick") else 2
    bound = bind(where, stage.apply, args, kwargs, leading, info)
    values = {**bound.static, **{name: value.item() for name, value in bound.traced.items()}}
    if stage.check is not None:
        stage.check(values, size)
    return bound


def _bind_policy(
    where, stage: Stage, args, kwargs, info: Info, context: Mapping[str, Any]
) -> Bound:
    """Builds the policy; only its own numbers are traced, so only they may be swept."""
    parameters = inspect.signature(stage.apply).parameters
    given = {name: value for name, value in context.items() if name in parameters}
    options = {name: value for name, value in kwargs.items() if name != "fill"}
    static = bind(where, stage.apply, args, options, tuple(context), info).static
    policy = stage.apply(**static, **given)
    check_policy(where, policy)
    fill = colour(f"{where}.fill", kwargs.get("fill", policy.fill), info)
    hparams = {name: spec for name, spec in policy.hparams.items() if name != EPOCH}
    return Bound(
        {"policy": policy, "fill": fill},
        {name: spec.default for name, spec in hparams.items()},
        {name: spec.range for name, spec in hparams.items()},
    )


def parse_all(
    texts: Mapping[str, str], info: Info, epochs: int | None = None,
    counts: Mapping[str, int] | None = None,
) -> tuple[ViewSpec, ...]:
    """Reads view expressions, each after the one it starts from.

    Args:
      texts: expressions by name.
      info: see `parse`.
      epochs: see `parse`.
      counts: see `parse`.

    Returns:
      Their specs.

    Raises:
      ConfigError: see `parse`; or a view starts from an unknown view or, directly or not, from
        itself.
    """
    done: dict[str, ViewSpec] = {}

    def visit(name: str, path: tuple[str, ...]) -> ViewSpec:
        if name in path:
            circle = " -> ".join((*path, name))
            raise ConfigError(f"views.{name}", f"starts from itself ({circle})", "break the circle")
        if name in done:
            return done[name]
        source = source_of(name, texts[name])
        if source is not None and source not in texts:
            raise ConfigError(f"views.{name}", f"no view '{source}'", suggest(source, texts))
        start = None if source is None else visit(source, (*path, name))
        done[name] = parse(
            name, texts[name], info, start=start, epochs=epochs, counts=counts
        )
        return done[name]

    for name in texts:
        visit(name, ())
    return tuple(done.values())


def split_leading(text: str, where: str) -> tuple[Leading | None, str, str]:
    """Splits a view expression into its leading part and the rest.

    Args:
      text: the expression.
      where: its config path, for messages.

    Returns:
      The leading part, its text and that of the rest; None, "" and `text` where there is none.

    Raises:
      ConfigError: not such an expression.
    """
    anywhere = Info(
        0, (LARGEST, LARGEST), np.zeros(0, np.int32), NO_COLOUR, NO_COLOUR, host_crops=True
    )
    leading = parse("eval", text, anywhere, trace=False, where=where).leading
    if leading is None:
        return None, "", text
    parts = call_texts(text)
    return leading, "|".join(parts[: leading.calls]), "|".join(parts[leading.calls :])


def hparams(specs: Sequence[ViewSpec]) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """Returns the traced numbers of views and their ranges, by path."""
    values, ranges = {}, {}
    for spec in specs:
        for call in spec.calls:
            for name, value in call.bound.traced.items():
                path = f"views.{spec.name}.{call.role}.{name}"
                values[path], ranges[path] = value, call.bound.ranges[name]
        for name, number in spec.leading.numbers().items() if spec.leading else ():
            path = f"views.{spec.name}.{name}"
            values[path], ranges[path] = number
    return values, ranges


def host_numbers(texts: Mapping[str, str], info: Info) -> set[str]:
    """Returns the paths of numbers that would be traced if crops ran on the host.

    Args:
      texts: view expressions by name.
      info: facts of the training split; its `host_crops` says where crops run.
    """
    on_host, here = (
        hparams(parse_all(texts, info._replace(host_crops=host)))[0]
        for host in (True, info.host_crops)
    )
    return on_host.keys() - here.keys()


def views_to_make(
    specs: Sequence[ViewSpec], pairs: Sequence[tuple[str, str]]
) -> tuple[ViewSpec, ...]:
    """Returns the views to make: all but those that networks pick and that no term uses.

    Args:
      specs: the views, each after the one it starts from.
      pairs: the (network, view) pairs of the terms.
    """
    needed = {view for _, view in pairs}
    chosen: list[ViewSpec] = []
    for spec in reversed(specs):
        if spec.name in needed or not spec.picks:
            chosen.append(spec)
            needed.add(spec.source)
    return tuple(reversed(chosen))
