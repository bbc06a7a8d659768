"""`config.optim` as an optax chain whose numbers are traced.

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
from kdaug_jax.experiment.binding import Bound, bind, cast, read_calls
from kdaug_jax.experiment.combine import COMBINE, Combine
from kdaug_jax.experiment.fields import FIELDS
from kdaug_jax.experiment.terms import GROUPS
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
    decoupled: bool


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
    """Everything `config.optim` says, resolved.

    Attributes:
      schedule: the learning rate.
      method: the optimiser's function and its options.
      combine: how gradient groups are combined, and its options.
      groups: `{term group: gradient group}`; equal gradient groups share a backward pass.
      decay: which parameters decay.
      clips: whether gradients are clipped.
      averages: whether averaged weights are kept.
      ramp: whether their decay starts small.
      hparams, ranges: traced numbers by path.
    """

    schedule: schedules.Schedule
    method: tuple[Method, Bound]
    combine: tuple[Combine, Bound]
    groups: dict[str, str]
    decay: Callable[[str, Any], bool]
    clips: bool
    averages: bool
    ramp: bool
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
      The plan from which `transformation` makes the optax chain.

    Raises:
      ConfigError: unknown optimiser, schedule, decay scope or combination, or a bad number.
    """
    name = config["name"]
    if name not in OPTIMIZERS:
        raise ConfigError("optim.name", f"unknown optimiser '{name}'", suggest(name, OPTIMIZERS))
    if config["decay"] not in DECAY:
        raise ConfigError(
            "optim.decay", f"unknown scope '{config['decay']}'", suggest(config["decay"], DECAY)
        )
    options = {
        option: value for option, value in config.items() if f"optim.{option}" not in FIELDS
    }
    method = bind("optim", OPTIMIZERS[name].make, (), options, 2, info)
    calls = read_calls("optim.combine", config["combine"])
    if len(calls) != 1 or calls[0][0] not in COMBINE:
        wrong = config["combine"]
        raise ConfigError("optim.combine", f"unknown combination '{wrong}'", suggest(wrong, COMBINE))
    combine_name, args, kwargs = calls[0]
    combine = COMBINE[combine_name]
    combine_bound = bind(f"optim.{combine_name}", combine.make, args, kwargs, combine.skip, info)
    if combine.momentum and (name != "sgd" or method.static["nesterov"]):
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
    for field, legal in (
        ("clip_norm", FIELDS["optim.clip_norm"].legal),
        ("ema", FIELDS["optim.ema"].legal),
    ):
        if config[field] != 0:
            path = f"optim.{field}"
            hparams[path], ranges[path] = cast(path, config[field], legal), legal
    for prefix, bound in (("optim", method), (f"optim.{combine_name}", combine_bound)):
        for option, value in bound.traced.items():
            hparams[f"{prefix}.{option}"] = value
            ranges[f"{prefix}.{option}"] = bound.ranges[option]
    return Optimizer(
        schedule=schedule,
        method=(OPTIMIZERS[name], method),
        combine=(combine, combine_bound),
        groups={group: group if combine.separate else "all" for group in GROUPS},
        decay=DECAY[config["decay"]],
        clips="optim.clip_norm" in hparams,
        averages="optim.ema" in hparams,
        ramp=config["ema_ramp"],
        hparams=hparams,
        ranges=ranges,
    )


def learning_rate(plan: Optimizer, hparams: Hparams, step: jax.Array) -> jax.Array:
    """Gives the learning rate of a step, `f32[]`."""
    return hparams[plan.schedule.path] * plan.schedule.multiplier(step)


def transformation(
    plan: Optimizer,
    hparams: Hparams,
    step: jax.Array,
    epoch: jax.Array,
    no_decay: Mapping[str, tuple[str, ...]],
) -> optax.GradientTransformation:
    """Makes the optax chain of a step.

    Args:
      plan: the resolved section.
      hparams: traced numbers by path.
      step: `i32[]`, optimiser steps so far.
      epoch: `i32[]`, whole epochs so far.
      no_decay: `{term: top-level names}` of term parameters that must not decay.

    Returns:
      A chain whose `update` takes `{gradient group: tree}`.
    """
    combine, combine_bound = plan.combine
    method, method_bound = plan.method
    name = next(name for name, row in COMBINE.items() if row is combine)
    options = {
        **combine_bound.static,
        **{option: hparams[f"optim.{name}.{option}"] for option in combine_bound.traced},
    }
    own = {option: hparams[f"optim.{option}"] for option in method_bound.traced}
    decay = optax.add_decayed_weights(
        hparams["optim.weight_decay"], lambda params: _decay_mask(params, plan.decay, no_decay)
    )
    if combine.momentum:
        links = [combine.make(decay, own["momentum"], **options)]
        own["momentum"] = jnp.zeros_like(own["momentum"])
    else:
        together = combine.make(epoch, **options)
        links = [optax.stateless(lambda grads, params: together(grads))]
        if not method.decoupled:
            links.append(decay)
    if plan.clips:
        links.append(optax.clip_by_global_norm(hparams["optim.clip_norm"]))
    rate = learning_rate(plan, hparams, step)
    return optax.chain(*links, method.make(rate, decay, **method_bound.static, **own))


def _decay_mask(params, scope: Callable[[str, Any], bool], no_decay):
    def mask(tree, name, parent):
        if isinstance(tree, Mapping):
            return {key: mask(value, key, tree) for key, value in tree.items()}
        return scope(name, parent)

    masks = mask(params, "", None)
    for term, names in no_decay.items():
        for name in names:
            own = masks["terms"][term]
            own[name] = jax.tree.map(lambda _: False, own[name])
    return masks


def average(plan: Optimizer, hparams: Hparams, state: TrainState) -> dict[str, Any]:
    """Moves the averaged weights and running statistics towards the current ones.

    ema = d·ema + (1−d)·current with d = min(decay, (1+t)/(10+t)) when the ramp is on, t being the
    number of steps before this one, as TensorFlow's `ExponentialMovingAverage` does.

    Args:
      plan: the resolved section.
      hparams: traced numbers by path.
      state: the state after the update, its `ema` and `step` still from before it.

    Returns:
      The new `ema`, `{}` when averaging is off.
    """
    if not plan.averages:
        return {}
    decay = hparams["optim.ema"]
    if plan.ramp:
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    current = {"params": state.params, "network_state": state.network_state}
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, current)
