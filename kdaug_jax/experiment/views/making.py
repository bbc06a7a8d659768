"""Makes the views of a batch as the view language (see `language`) describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from kdaug_jax import rng
from kdaug_jax.augment import apply_policy
from kdaug_jax.augment.ops.checks import check_batch, check_keys
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment.binding import located
from kdaug_jax.experiment.views.language import EPOCH, LARGEST, Call, ViewSpec, parse
from kdaug_jax.experiment.views.picking import Pair, Picked, Pool, Scorer, choose, take
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Batch, Clock, Hparams, Info, Outputs, View


class Made(NamedTuple):
    """The views of a batch, and the outputs of networks that scored them.

    Attributes:
      views: by name.
      given: outputs of frozen networks for a view's rows, as `{"network@view": Outputs}`.
      metrics: `(sum, count)` by name, such as "mixed/ratio".
    """

    views: dict[str, View]
    given: dict[str, Outputs]
    metrics: dict[str, Pair]


def make(
    specs: Sequence[ViewSpec], clock: Clock, batch: Batch, hparams: Hparams, info: Info, groups: int
) -> dict[str, View]:
    """Makes views that no network scores, see `make_all`."""
    return make_all(specs, clock, batch, hparams, info, groups, None).views


def make_all(
    specs: Sequence[ViewSpec], clock: Clock, batch: Batch, hparams: Hparams, info: Info,
    groups: int, scorer: Scorer | None,
) -> Made:
    """Makes all views of a batch.

    Args:
      specs: the views, each after the one it starts from.
      clock: position in the run.
      batch: the stored examples.
      hparams: traced numbers by path.
      info: facts of the training split.
      groups: into how many equal groups the batch is split for stages that mix or pick examples.
      scorer: the networks that score pools; None where no view picks.

    Returns:
      The views. What is drawn for an example depends on `(seed, view, stage, draw, epoch, index)`
      alone; what is drawn for a group on `(seed, view, stage, draw, epoch, step)` and its number.

    Raises:
      ConfigError: a stage mixes inside groups of one example.
    """
    target = jax.nn.one_hot(batch.label, info.num_classes, dtype=jnp.float32)
    stored = View(batch.image, target, batch.label, batch.index, batch.mask)
    made, states = Made({}, {}, {}), {None: _PartialView(stored, None, 1)}
    # Networks score after every view that needs none is made.
    for spec in sorted(specs, key=lambda spec: spec.picks):
        state, calls = states[spec.source], spec.calls
        if spec.prefix is not None:
            state = _led(stored, batch.crops[spec.name], spec.prefix.draws)
            calls = calls[spec.prefix.calls :]
        for call in calls:
            path, traced = _traced(spec, call, hparams)
            with located(path):
                if call.stage.form != "pick":
                    state = _apply(call, clock, spec.name, state, traced, groups)
                    continue
                state, picked = _pick(call, clock, spec.name, state, traced, groups, made, scorer)
            if call is spec.calls[-1]:  # a later stage changes the images
                made.given.update({
                    f"{name}@{spec.name}": outputs for name, outputs in picked.outputs.items()
                })
            made.metrics.update({
                f"{spec.name}/{name}": pair for name, pair in picked.metrics.items()
            })
        made.views[spec.name], states[spec.name] = state.view, state
    return made


def make_in_pairs(
    specs: Sequence[ViewSpec], clock: Clock, batch: Batch, partners: Batch, hparams: Hparams,
    info: Info,
) -> View:
    """Makes a view that mixes, with given partners: it depends on no other example of the batch.

    Args:
      specs: the view, after those that it is made from; one stage of them mixes, see `mixes_pairs`.
      clock: its seed and epoch are used.
      batch: B stored examples.
      partners: B stored examples, with whom those are mixed.
      hparams: traced numbers by path.
      info: facts of the training split.

    Returns:
      The view of the B examples. What is drawn for an example, the coefficient of its mixture
      included, depends on `(seed, view, stage, epoch, index)` alone.
    """
    both = jax.tree.map(_side_by_side, batch, partners)
    target = jax.nn.one_hot(both.label, info.num_classes, dtype=jnp.float32)
    stored = View(both.image, target, both.label, both.index, both.mask)
    state = _PartialView(stored, None, 1)
    for spec in specs:
        calls = spec.calls
        if spec.leading is not None:
            state = _led(stored, both.crops[spec.name], spec.leading.draws)
            calls = calls[spec.leading.calls :]
        for call in calls:
            path, traced = _traced(spec, call, hparams)
            with located(path):
                if call.stage.form == "group":
                    mixed = _mix_pairs(call, clock, spec.name, state.view, traced)
                    state = _PartialView(mixed, None, 1)
                else:
                    state = _apply(call, clock, spec.name, state, traced, 1)
    return state.view


def mixes_pairs(call: Call) -> bool:
    """Returns whether a mixing stage can be told its partners, as those of `STAGES` can."""
    return {"per", "partner"} <= call.bound.static.keys()


def _side_by_side(array: jax.Array, other: jax.Array) -> jax.Array:
    """Puts each row before the row of another array: rows stay on their devices."""
    return jnp.stack([array, other], axis=1).reshape(-1, *array.shape[1:])


def _mix_pairs(
    call: Call, clock: Clock, name: str, view: View, traced: Mapping[str, Any]
) -> View:
    """Mixes the first of each pair of rows with the second; returns the first ones."""
    pairs = jax.tree.map(lambda array: rearrange(array, "(b p) ... -> b p ...", p=2), view)
    keys = rng.example_keys(clock, "view/" + name, pairs.index[:, 0])
    # In a group of two in reverse order, each is the other's partner.
    static = {**call.bound.static, "partner": "flip"}
    mixed = jax.vmap(lambda key, pair: call.stage.apply(key, pair, **static, **traced))(
        rng.fold(keys, call.draws), pairs
    )
    return jax.tree.map(lambda array: array[:, 0], mixed)


def make_hosted(
    spec: ViewSpec, clock: Clock, image: jax.Array, index: jax.Array, hparams: Hparams
) -> jax.Array:
    """Makes of some examples what the host sends of a view, after its leading part.

    Args:
      spec: the view, with stages that are `hosted`.
      clock: position in the run; its seed and epoch are used.
      image: `[n*draws,H,W,3]`, the crops of its leading part, draw d of example b in row b*draws+d;
        `u8[n,H,W,3]` as stored where it has none.
      index: `i32[n]`, position of each example in its base split.
      hparams: traced numbers by path.

    Returns:
      `[n*draws,H,W,3]`, see `ViewSpec.prefix`; each row depends on its own example alone.
    """
    rows, done = View(None, None, None, index, None), 0
    if spec.leading is None:
        state = _PartialView(rows.replace(image=image), None, 1)
    else:
        state, done = _led(rows, image, spec.leading.draws), spec.leading.calls
    for call in spec.calls[done : spec.hosted.calls]:
        path, traced = _traced(spec, call, hparams)
        with located(path):
            state = _apply(call, clock, spec.name, state, traced, 1)
    return state.view.image


def _traced(spec: ViewSpec, call: Call, hparams: Hparams) -> tuple[str, dict[str, jax.Array]]:
    """Returns the path of a call and its traced numbers by name."""
    path = f"views.{spec.name}.{call.role}"
    return path, {name: hparams[f"{path}.{name}"] for name in call.bound.traced}


def _led(stored: View, image: jax.Array, draws: int) -> _PartialView:
    """Returns a view after its first stages, whose images come from the host."""
    view, draw = _repeat(stored.replace(image=None), None, draws)
    return _PartialView(view.replace(image=image), draw, draws)


class _PartialView(NamedTuple):
    """A view after some of its stages.

    Attributes:
      view: its rows so far.
      draw: `i32[rows]`, which draw of its example each row is, or None where there is one.
      draws: how many draws of an example lie side by side.
    """

    view: View
    draw: jax.Array | None
    draws: int


def _apply(
    call: Call, clock: Clock, name: str, state: _PartialView, traced: Mapping[str, Any],
    groups: int,
) -> _PartialView:
    """Applies a stage that needs no network."""
    view, draw, draws = state
    if call.stage.form == "repeat":
        n = call.bound.static["n"]
        return _PartialView(*_repeat(view, draw, n), draws * n)
    if call.stage.form == "group":
        _check_group(view, groups * draws)
        return _PartialView(_mix(call, clock, name, view, traced, groups, draws), draw, draws)
    keys = rng.fold(rng.example_keys(clock, "view/" + name, view.index), call.draws)
    keys = keys if draw is None else rng.redraw(keys, draw)
    image = _augment(call, keys, view.image, traced, clock.epoch)
    return _PartialView(view.replace(image=image), draw, draws)


def _pick(
    call: Call, clock: Clock, name: str, state: _PartialView, traced: Mapping[str, Any],
    groups: int, made: Made, scorer: Scorer | None,
) -> tuple[_PartialView, Picked]:
    """Keeps the rows that networks score highest."""
    order = Ordering(clock.step, (other.target for other in made.views.values()))
    image = order.after(state.view.image)
    pool = Pool(name, state.view.replace(image=image), state.draws, groups)
    picked = choose(scorer, call, pool, traced)
    return _PartialView(*take((pool.view, state.draw), picked.kept), 1), picked


def _repeat(view: View, draw: jax.Array | None, n: int) -> tuple[View, jax.Array | None]:
    """Puts n copies of each row side by side and numbers them."""
    if n == 1:
        return view, draw

    def copies(array: jax.Array) -> jax.Array:
        shape = (array.shape[0], n, *array.shape[1:])
        return jnp.broadcast_to(array[:, None], shape).reshape(-1, *array.shape[1:])

    rows = view.index.shape[0]
    before = jnp.zeros(rows, jnp.int32) if draw is None else draw
    numbers = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (rows, n)).reshape(-1)
    return jax.tree.map(copies, view), copies(before) * n + numbers


def _check_group(view: View, groups: int) -> None:
    """Raises ArgumentError for groups of one example, which has no partner."""
    if view.index.shape[0] // groups < 2:
        raise ArgumentError(
            "mixes inside groups of 1 example",
            "set train.replica_batch_size, or data.batch_size without groups, to at least 2",
        )


def _augment(
    call: Call, keys: jax.Array, image: jax.Array, traced: Mapping[str, Any], epoch: jax.Array
) -> jax.Array:
    apply, static = call.stage.apply, call.bound.static
    if call.stage.form == "policy":
        policy = static["policy"]
        traced = {**traced, EPOCH: epoch} if EPOCH in policy.hparams else traced
        return apply_policy(policy, keys, image, static["fill"], traced)
    if call.stage.form == "batch":
        return apply(keys, image, **static, **traced)
    return jax.vmap(lambda key, each: apply(key, each, **static, **traced))(keys, image)


def _mix(
    call: Call, clock: Clock, name: str, view: View, traced: Mapping[str, Any], groups: int,
    draws: int,
) -> View:
    """Mixes within each group and draw; rows `[groups,size,draws]` keep their places."""

    def apart(array: jax.Array) -> jax.Array:
        return rearrange(array, "(g s d) ... -> g d s ...", g=groups, d=draws)

    def together(array: jax.Array) -> jax.Array:
        return rearrange(array, "g d s ... -> (g s d) ...")

    keys = jax.random.split(rng.batch_key(clock, f"view/{name}/{call.draws}"), groups)
    number = jax.lax.broadcasted_iota(jnp.int32, (draws, groups), 0)
    keys = jax.vmap(rng.redraw, (None, 0), 1)(keys, number)
    mix = jax.vmap(lambda key, group: call.stage.apply(key, group, **call.bound.static, **traced))
    return jax.tree.map(together, jax.vmap(mix)(keys, jax.tree.map(apart, view)))


def batch_shapes(specs: Sequence[ViewSpec], size: int, info: Info) -> Batch:
    """Returns the shapes of a batch that views are made from.

    Args:
      specs: the views to make.
      size: B, examples of the batch.
      info: facts of the training split.

    Returns:
      A `Batch` of shapes and dtypes.
    """
    channels = len(info.mean)
    image = jax.ShapeDtypeStruct((size, *info.size, channels), jnp.uint8)
    prefixes = {spec.name: spec.prefix for spec in specs if spec.source is None}
    crops = {
        name: jax.ShapeDtypeStruct((size * prefix.draws, *prefix.size, channels), prefix.dtype)
        for name, prefix in prefixes.items() if prefix is not None
    }
    numbers = jax.ShapeDtypeStruct((size,), jnp.int32)
    mask = jax.ShapeDtypeStruct((size,), jnp.bool_)
    return Batch(image if None in prefixes.values() else None, numbers, numbers, mask, crops)


def build_augment(
    text: str, *, mean: tuple[float, ...] = (125.3, 123.0, 113.9), epoch: int = 0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds a view expression as a pure function, for notebooks.

    Args:
      text: stages that change one image at a time, such as "pad_crop(4)|flip|randaugment(2, 9)".
      mean: the colour of `fill="mean"`, in pixel units, a number for each channel of the images:
        `(128.0,)` for images of one channel.
      epoch: for policies that depend on it.

    Returns:
      `f(keys: key[B], images: u8[B,H,W,C]) -> u8[B,H,W,C]`; jit it as you like. With
      `rng.example_keys(clock, "view/x", index)` as keys it returns what a run makes of view x.

    Raises:
      ConfigError: the expression does not fit. The function raises it for what depends on the size
        of the images, and TypeError and ValueError for arrays that do not fit.
    """
    # Errors that no size of images would mend are raised now.
    anywhere = Info(0, (LARGEST, LARGEST), np.zeros(0, np.int32), mean, mean)
    spec = parse("x", text, anywhere, trace=False)
    forms = {call.stage.form for call in spec.calls}
    if spec.source is not None or forms & {"group", "repeat", "pick"}:
        raise ConfigError("views.x", f"{text!r} needs a batch with labels", "use a config")
    for call in spec.calls if len(mean) == 1 else ():
        if call.stage.form == "policy":
            raise ConfigError(
                f"views.x.{call.role}", "takes images of 3 channels, and `mean` is that of 1",
                "repeat the channel three times, or leave the stage out",
            )
    coloured = any("fill" in call.bound.static for call in spec.calls)

    def apply(keys: jax.Array, images: jax.Array) -> jax.Array:
        check_batch(images, (1, 3, 4))
        check_keys(keys, images)
        channels = images.shape[3]
        if coloured and len(mean) != channels and 1 in (len(mean), channels):
            raise ConfigError(
                "views.x", f"images have {channels} channel{'s' * (channels > 1)}, and `mean` is "
                f"that of {len(mean)}", "build it with a mean of the images, such as mean="
                + ("(128.0,)" if channels == 1 else "(125.3, 123.0, 113.9)"),
            )
        info = Info(0, images.shape[1:3], np.zeros(0, np.int32), mean, mean)
        for call in parse("x", text, info).calls:
            traced = {name: jnp.asarray(value) for name, value in call.bound.traced.items()}
            with located(f"views.x.{call.role}"):
                images = _augment(
                    call, rng.fold(keys, call.draws), images, traced, jnp.asarray(epoch, jnp.int32)
                )
        return images

    return apply
