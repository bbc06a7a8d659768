"""`config.optim` as an optax chain whose numbers are traced.

A user's optimiser, named `package.module:name`, is a function `f(rate, decay, *, ...)` like `adam`
or a row `Method`.

The chain is made anew inside the step from the traced numbers; its state does not depend on them.
Order of the links: combine the gradient groups, add weight decay (unless the optimiser decouples
it), clip by global norm, the optimiser with its learning rate. Decay before clipping is what the
papers' code does, where decay is part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import schedules
from kdaug_jax.experiment.binding import (
    Bound,
    bind,
    cast,
    check_function,
    located,
    read_calls,
    shape_text,
)
from kdaug_jax.experiment.combine import COMBINE, Combine
from kdaug_jax.experiment.fields import FIELDS
from kdaug_jax.experiment.reached import held
from kdaug_jax.experiment.terms import GROUPS
from kdaug_jax.registry import is_import, resolve, short_name
from kdaug_jax.types import Fraction, Hparams, Info, Positive, Range, TrainState


class Method(NamedTuple):
    """One optimiser.

    Attributes:
      make: `make(rate, decay, **options) -> GradientTransformation` from gradients to what is
        added to the parameters. `rate` is the learning rate, `decay` the link that adds weight
        decay, to be used by optimisers that decouple it.
      decoupled: False where weight decay is part of the gradient and is added before `make`.
    """

    make: Callable[..., optax.GradientTransformation]
    decoupled: bool = False


def sgd(rate, decay, *, momentum: Fraction = 0.9, nesterov: bool = False):
    """Momentum as in PyTorch: v = momentum·v + g; the step is v, with Nesterov g + momentum·v."""
    return optax.chain(optax.trace(decay=momentum, nesterov=nesterov), optax.scale(-rate))


def rmsprop(
    rate, decay, *, rho: Fraction = 0.9, momentum: Fraction = 0.9, eps: Positive = 1e-3
):
    """RMSProp as in TensorFlow, which EfficientNet was trained with.

    s = rho·s + (1−rho)·g², starting at 1; m = momentum·m + rate·g / √(s + eps); the step is m.
    """
    return optax.chain(
        optax.scale_by_rms(decay=rho, eps=eps, initial_scale=1.0, eps_in_sqrt=True),
        optax.scale(-rate),
        optax.trace(decay=momentum),
    )


def adam(rate, decay, *, b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-8):
    """Adam with weight decay in the gradient (Kingma and Ba 2015)."""
    return optax.chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), optax.scale(-rate))


def adamw(rate, decay, *, b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-8):
    """Adam with weight decay beside the gradient, times the rate (Loshchilov and Hutter 2019)."""
    return optax.chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), decay, optax.scale(-rate))


def lamb(rate, decay, *, b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-6):
    """Adam's step plus decay, scaled layer by layer to the weights' norm (You et al. 2020)."""
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps), decay, optax.scale_by_trust_ratio(),
        optax.scale(-rate),
    )


OPTIMIZERS: dict[str, Method] = {
    "sgd": Method(sgd, decoupled=False),
    "rmsprop": Method(rmsprop, decoupled=False),
    "adam": Method(adam, decoupled=False),
    "adamw": Method(adamw, decoupled=True),
    "lamb": Method(lamb, decoupled=True),
}


def _is_batchnorm(parent: Any) -> bool:
    return isinstance(parent, Mapping) and "scale" in parent


DECAY: dict[str, Callable[[str, Any], bool]] = {
    "all": lambda name, parent: True,
    "kernels": lambda name, parent: name == "kernel",
    "not_batchnorm": lambda name, parent: not _is_batchnorm(parent),
}


class Optimizer(NamedTuple):
    """`config.optim`, resolved.

    Attributes:
      schedule: the learning rate.
      method: the optimiser's function and its options.
      combine: how gradient groups are combined, and its options.
      combine_path: config path of these options.
      groups: `{term group: gradient group}`; equal gradient groups share a backward pass.
      decay: which parameters decay.
      clips: whether gradients are clipped.
      averages: whether averaged weights are kept.
      ramp: whether their decay starts small.
      restarts: whether a phase begins with a new state of the optimiser.
      hparams, ranges: traced numbers by path.
    """

    schedule: schedules.Schedule
    method: tuple[Method, Bound]
    combine: tuple[Combine, Bound]
    combine_path: str
    groups: dict[str, str]
    decay: Callable[[str, Any], bool]
    clips: bool
    averages: bool
    ramp: bool
    restarts: bool
    hparams: dict[str, np.ndarray]
    ranges: dict[str, Range]


def build_optimizer(
    config: Mapping[str, Any], steps_per_epoch: int, total_steps: int, info: Info
) -> Optimizer:
    """Resolves `config.optim`.

    Args:
      config: the section.
      steps_per_epoch: steps an epoch.
      total_steps: steps of the whole run.
      info: facts of the training split.

    Returns:
      The spec from which `transformation` makes the optax chain.

    Raises:
      ConfigError: unknown optimiser, schedule, decay scope or combination, or a bad number.
    """
    name = str(config["name"])
    method = _row("optim.name", "optimiser", name, OPTIMIZERS, Method)
    check_function("optim.name", method.make, 2, "name a function f(rate, decay, ...) or a Method")
    if config["decay"] not in DECAY:
        raise ConfigError(
            "optim.decay", f"unknown scope '{config['decay']}'", suggest(config["decay"], DECAY)
        )
    options = {
        option: value for option, value in config.items() if f"optim.{option}" not in FIELDS
    }
    method_bound = bind("optim", method.make, (), options, 2, info)
    calls = read_calls("optim.combine", config["combine"])
    if len(calls) != 1:
        raise ConfigError(
            "optim.combine", f"got {len(calls)} calls", "write one, such as 'sum()'"
        )
    combine_name, args, kwargs = calls[0]
    combine = _row("optim.combine", "combination", combine_name, COMBINE, Combine)
    check_function(
        "optim.combine", combine.make, combine.skip, "name a function f(epoch, ...) or a Combine"
    )
    combine_path = f"optim.{short_name(combine_name)}"
    if combine_path in FIELDS:  # options of the two would share their paths
        raise ConfigError(
            "optim.combine", f"'{combine_name}' has the name of the field {combine_path}",
            "rename the function",
        )
    combine_bound = bind(combine_path, combine.make, args, kwargs, combine.skip, info)
    if combine.momentum and (name != "sgd" or method_bound.static["nesterov"]):
        raise ConfigError(
            "optim.combine", f"'{combine_name}' splits the momentum of plain SGD",
            "use name='sgd' with nesterov=False",
        )
    positive = FIELDS["optim.weight_decay"].legal
    schedule = schedules.build_schedule(
        "optim.schedule", config["schedule"], steps_per_epoch, total_steps, positive, info
    )
    ranges = {schedule.path: positive, "optim.weight_decay": positive}
    hparams = {
        schedule.path: schedule.base,
        "optim.weight_decay": cast("optim.weight_decay", config["weight_decay"], positive),
    }
    # 0 switches these two off and is part of the compiled program; any other value is traced.
    for field in ("clip_norm", "ema"):
        if config[field] != 0:
            path = f"optim.{field}"
            ranges[path] = FIELDS[path].legal
            hparams[path] = cast(path, config[field], ranges[path])
    for prefix, bound in (("optim", method_bound), (combine_path, combine_bound)):
        for option, value in bound.traced.items():
            hparams[f"{prefix}.{option}"] = value
            ranges[f"{prefix}.{option}"] = bound.ranges[option]
    spec = Optimizer(
        schedule=schedule,
        method=(method, method_bound),
        combine=(combine, combine_bound),
        combine_path=combine_path,
        groups={group: group if combine.separate else "all" for group in GROUPS},
        decay=DECAY[config["decay"]],
        clips="optim.clip_norm" in hparams,
        averages="optim.ema" in hparams,
        ramp=config["ema_ramp"],
        restarts=config["restart"],
        hparams=hparams,
        ranges=ranges,
    )
    if is_import(name) or is_import(combine_name):
        _check_forms(spec)
    return spec


def _row(where: str, kind: str, name: str, table: Mapping[str, Any], row: type) -> Any:
    """Returns the row that a name stands for, one of its defaults around a user's function."""
    value = resolve(where, kind, name, table)
    return value if isinstance(value, row) else row(value)


def _check_forms(spec: Optimizer) -> None:
    """Traces what a user brought on a small tree, and validates what it returns."""
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    params = {"student": {"kernel": leaf}, "terms": {}}
    scalar = jax.ShapeDtypeStruct((), jnp.int32)

    def update(params, grads, hparams, step):
        chain = transformation(spec, hparams, step, step, {})
        return chain.update(grads, chain.init(params), params)[0]

    grads = {group: params for group in spec.groups.values()}
    _check_tree("optim.name", jax.eval_shape(update, params, grads, spec.hparams, scalar), params)


def _combined(together: Callable[[Any], Any], grads: Mapping[str, Any]) -> Any:
    gradient = together(grads)
    _check_tree("optim.combine", gradient, next(iter(grads.values())))
    return gradient


def _check_tree(where: str, tree: Any, like: Any) -> None:
    """Raises ConfigError unless two trees have equal names, shapes and dtypes."""
    returned, expected = (jax.tree.map(shape_text, each) for each in (tree, like))
    if returned != expected:
        raise ConfigError(
            where, f"returned {returned} for {expected}", "keep names, shapes and dtypes"
        )


def learning_rate(spec: Optimizer, hparams: Hparams, step: jax.Array) -> jax.Array:
    """Returns the learning rate of a step, `f32[]`."""
    return hparams[spec.schedule.path] * spec.schedule.multiplier(step)


def gradient_norms(
    spec: Optimizer, hparams: Hparams, epoch: jax.Array, grads: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Returns norms of the gradient over all parameters, before weight decay and clipping.

    Args:
      spec: the resolved section.
      hparams: traced numbers by path.
      epoch: `i32[]`, whole epochs so far.
      grads: `{gradient group: tree}`.

    Returns:
      `f32[]`: "grad_norm" of the combined gradient, which is the sum of the groups where they have
      momenta of their own; and "grad_norm_<group>" of each where groups are kept apart.
    """
    combine, _ = spec.combine
    if combine.momentum:
        together = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *grads.values())
    else:
        together = combine.make(epoch, **_combine_options(spec, hparams))(grads)
    norms = {"grad_norm": optax.tree.norm(together)}
    if len(grads) > 1:
        norms |= {f"grad_norm_{group}": optax.tree.norm(tree) for group, tree in grads.items()}
    return norms


def _combine_options(spec: Optimizer, hparams: Hparams) -> dict[str, Any]:
    _, bound = spec.combine
    traced = {name: hparams[f"{spec.combine_path}.{name}"] for name in bound.traced}
    return {**bound.static, **traced}


def transformation(
    spec: Optimizer,
    hparams: Hparams,
    step: jax.Array,
    epoch: jax.Array,
    no_decay: Mapping[str, tuple[str, ...]],
    moving: Any = None,
    start_step: int = 0,
) -> optax.GradientTransformation:
    """Makes the optax chain of a step.

    Args:
      spec: the resolved section.
      hparams: traced numbers by path.
      step: `i32[]`, optimiser steps so far.
      epoch: `i32[]`, whole epochs so far.
      no_decay: `{term: top-level names}` of term parameters that must not decay.
      moving: tree like the parameters of whether each moves; None if all do. The others keep their
        values and their momenta, see `experiment.reached`.
      start_step: step at which the phase begins, where `optim.restart` renews the state.

    Returns:
      A chain whose `update` takes `{gradient group: tree}`.

    Raises:
      ConfigError: a user's optimiser or combination returned something of another form.
    """
    combine, _ = spec.combine
    method, method_bound = spec.method
    combine_options = _combine_options(spec, hparams)
    options = {name: hparams[f"optim.{name}"] for name in method_bound.traced}
    decay = optax.add_decayed_weights(
        hparams["optim.weight_decay"],
        lambda params: _decay_mask(params, spec.decay, no_decay, moving),
    )
    with located("optim.combine"):
        if combine.momentum:
            links = [_transform(
                "optim.combine", combine.make(decay, options["momentum"], **combine_options)
            )]
            options["momentum"] = jnp.zeros_like(options["momentum"])
        else:
            together = combine.make(epoch, **combine_options)
            check_function("optim.combine", together, 1, "return a function of the gradients")
            links = [optax.stateless(lambda grads, params: _combined(together, grads))]
            if not method.decoupled:
                links.append(decay)
    if spec.clips:
        links.append(optax.clip_by_global_norm(hparams["optim.clip_norm"]))
    rate = learning_rate(spec, hparams, step)
    with located("optim"):
        update = method.make(rate, decay, **method_bound.static, **options)
    chain = optax.chain(*links, _transform("optim.name", update))
    chain = chain if moving is None else held(chain, moving)
    return _restarted(chain, step == start_step) if spec.restarts and start_step else chain


def _restarted(
    chain: optax.GradientTransformation, now: jax.Array
) -> optax.GradientTransformation:
    """Returns a chain that forgets its state before an update if `now`, a `bool[]`, is True."""

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        fresh = chain.init(params)
        state = jax.tree.map(lambda new, old: jnp.where(now, new, old), fresh, state)
        return chain.update(grads, state, params)

    return optax.GradientTransformation(chain.init, update)


def _transform(where: str, value: Any) -> optax.GradientTransformation:
    if not isinstance(value, optax.GradientTransformation):
        raise ConfigError(
            where, f"returned {type(value).__name__}", "return an optax.GradientTransformation"
        )
    return value


def _decay_mask(params, scope: Callable[[str, Any], bool], no_decay, moving):
    def mask(tree, name, parent):
        if isinstance(tree, Mapping):
            return {key: mask(value, key, tree) for key, value in tree.items()}
        return scope(name, parent)

    masks = mask(params, "", None)
    for term, names in no_decay.items():
        for name in names:
            mask_of_term = masks["terms"][term]
            mask_of_term[name] = jax.tree.map(lambda _: False, mask_of_term[name])
    if moving is not None:
        masks = jax.tree.map(lambda decays, moves: decays and moves, masks, moving)
    return masks


def average(spec: Optimizer, hparams: Hparams, state: TrainState) -> dict[str, Any]:
    """Moves the averaged weights and running statistics towards the current ones.

    ema = d·ema + (1−d)·current with d = min(decay, (1+t)/(10+t)) when the ramp is on, t being the
    number of steps before this one, as TensorFlow's `ExponentialMovingAverage` does.

    Args:
      spec: the resolved section.
      hparams: traced numbers by path.
      state: the state after the update, its `ema` and `step` still from before it.

    Returns:
      The new `ema`, `{}` when averaging is off.
    """
    if not spec.averages:
        return {}
    decay = hparams["optim.ema"]
    if spec.ramp:
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    current = {"params": state.params, "network_state": state.network_state}
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, current)
