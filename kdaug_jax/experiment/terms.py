"""Turns `config.terms` into functions of the networks' outputs.

A plain loss is lifted to a `Term` without parameters or state, so that the step knows one form.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment import schedules
from kdaug_jax.experiment.binding import Bound, bind, options
from kdaug_jax.losses import LOSSES
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.types import Clock, Hparams, Info, Outputs, Range, View

GROUPS = ("task", "distill")
ROLES: dict[str, Callable[[TermInput], Any]] = {
    "student": lambda item: item.student.logits,
    "teacher": lambda item: item.teacher.logits,
    "labels": lambda item: item.view.target,
    "student_taps": lambda item: item.student.taps,
    "teacher_taps": lambda item: item.teacher.taps,
}
FIELDS = ("loss", "on", "student", "teacher", "weight", "group", "detach")


class Plan(NamedTuple):
    """One term of an experiment, everything resolved.

    Attributes:
      name: its name in the config.
      term: its functions.
      bound: its options.
      group: the gradient group it belongs to.
      detach: whether the teacher's outputs are constants.
      student, teachers: for each view it is on, the pair of the learning network, and the pairs
        of its teachers (several are averaged, none for a term without teacher).
      views: the views it is on, whose labels it sees.
      weight: the schedule of its weight.
    """

    name: str
    term: Term
    bound: Bound
    group: str
    detach: bool
    student: tuple[str, ...]
    teachers: tuple[tuple[str, ...], ...]
    views: tuple[str, ...]
    weight: schedules.Schedule


def lift(function: Callable[..., jax.Array]) -> Term:
    """Makes a term of a plain loss: summed over its views, averaged over examples or groups."""
    roles = _roles(function)

    def init(key, inputs, info, **options):
        return {}, {}

    def apply(params, state, inputs, context, **options):
        total = jnp.zeros((), jnp.float32)
        for item in inputs:
            arrays = tuple(ROLES[role](item) for role in roles)
            total += _mean(function, arrays, item.view.mask, context.groups, options)
        return total, state, {}

    return Term(init, apply, roles)


def _mean(function, arrays, mask, groups: int, options) -> jax.Array:
    call = lambda *arrays: function(*arrays, **options)  # noqa: E731
    if groups > 1:
        # Relational losses compare examples, and may do so only inside their group.
        split = lambda array: array.reshape(groups, -1, *array.shape[1:])  # noqa: E731
        value = jax.vmap(call)(*jax.tree.map(split, arrays))
        mask = mask.reshape(groups, -1)
    else:
        value = call(*arrays)
    if value.shape not in (mask.shape, mask.shape[:1] if groups > 1 else ()):
        raise ConfigError(
            f"terms ({getattr(function, '__name__', function)})",
            f"the loss gave an array of shape {value.shape} for a batch of {mask.shape}",
            "it must be one value an example, or a scalar",
        )
    if value.shape != mask.shape:
        return jnp.mean(value)
    kept = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(jnp.sum(kept), 1.0)


def _roles(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.name in ROLES)


def resolve(where: str, loss: str) -> tuple[Term, Callable[..., Any], Sequence[str] | int]:
    """Finds a loss by its name in the table or by `package.module:function`.

    Returns:
      The term, the function whose signature holds the options, and the leading parameters that
      are not options.

    Raises:
      ConfigError: there is no such loss.
    """
    if ":" in loss:
        module, _, attribute = loss.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a user's module does when it is imported
            raise ConfigError(
                where, f"cannot import '{loss}' ({error})", "package.module:function"
            ) from error
    elif loss in LOSSES:
        found = LOSSES[loss]
    else:
        known = [*LOSSES, "package.module:function"]
        raise ConfigError(where, f"unknown loss '{loss}'", near(loss, known))
    if isinstance(found, Term):
        return found, found.apply, 4
    return lift(found), found, tuple(ROLES)


def defaults(loss: str) -> dict[str, Any]:
    """Gives the options of a loss of the table that have defaults, so that a config shows them."""
    if loss not in LOSSES:
        return {}
    _, signature, skip = resolve("terms", loss)
    found = options(signature, skip)
    return {
        name: one.default for name, one in found.items()
        if one.default is not inspect.Parameter.empty
    }


def build(
    name: str,
    config: Mapping[str, Any],
    views: Sequence[str],
    networks: Sequence[str],
    steps_per_epoch: int,
    total_steps: int,
    info: Info,
) -> Plan:
    """Resolves one term of the config.

    Raises:
      ConfigError: unknown loss, view, network, group or option, or a value out of range.
    """
    where = f"terms.{name}"
    term, signature, skip = resolve(f"{where}.loss", config["loss"])
    written = {key: value for key, value in config.items() if key not in FIELDS}
    bound = bind(where, signature, (), written, skip, info)
    on = tuple(config["on"])
    if not on or len(set(on)) < len(on):
        raise ConfigError(f"{where}.on", "names no view, or one twice", near("", views))
    if "@" in config["student"]:
        raise ConfigError(f"{where}.student", "names a view", "write the view in `on`")
    if config["group"] not in GROUPS:
        raise ConfigError(f"{where}.group", f"got {config['group']!r}", near("", GROUPS))
    named = config["teacher"]
    teachers = (named,) if isinstance(named, str) else tuple(named)
    teachers = tuple(teacher for teacher in teachers if teacher)
    needs = any(role.startswith("teacher") for role in term.roles)
    if needs != bool(teachers):
        what = "needs a teacher" if needs else "takes no teacher"
        raise ConfigError(f"{where}.teacher", f"'{config['loss']}' {what}", near("", networks))

    def pair(field: str, text: str, view: str) -> str:
        network, _, own_view = text.partition("@")
        if network not in networks:
            known = near(network, networks)
            raise ConfigError(f"{where}.{field}", f"no network '{network}'", known)
        view = own_view or view
        if view not in views:
            raise ConfigError(f"{where}.on", f"no view '{view}'", near(view, views))
        return f"{network}@{view}"

    weight = schedules.build(
        f"{where}.weight", config["weight"], steps_per_epoch, total_steps,
        Range(np.float32, 0.0), info,
    )
    return Plan(
        name, term, bound, config["group"], config["detach"],
        tuple(pair("student", config["student"], view) for view in on),
        tuple(tuple(pair("teacher", text, view) for text in teachers) for view in on),
        on, weight,
    )


def pairs(plans: Sequence[Plan]) -> tuple[tuple[str, str], ...]:
    """Lists the (network, view) pairs that the terms need, each once, in order of mention."""
    found: dict[str, None] = {}
    for plan in plans:
        for student, teachers in zip(plan.student, plan.teachers, strict=True):
            found.update(dict.fromkeys((student, *teachers)))
    return tuple(tuple(pair.split("@")) for pair in found)


def hparams(plans: Sequence[Plan]) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """Collects the traced numbers of terms and their ranges, by path."""
    values, ranges = {}, {}
    for plan in plans:
        values[plan.weight.path], ranges[plan.weight.path] = plan.weight.base, plan.weight.range
        for name, value in plan.bound.traced.items():
            path = f"terms.{plan.name}.{name}"
            values[path], ranges[path] = value, plan.bound.ranges[name]
    return values, ranges


def _inputs(plan: Plan, outputs: Mapping[str, Outputs], views: Mapping[str, View]):
    items = []
    for view, student, teachers in zip(plan.views, plan.student, plan.teachers, strict=True):
        teacher = _average([outputs[pair] for pair in teachers]) if teachers else None
        if plan.detach:
            teacher = jax.lax.stop_gradient(teacher)
        items.append(TermInput(outputs[student], teacher, views[view]))
    return tuple(items)


def _average(outputs: Sequence[Outputs]) -> Outputs:
    if len(outputs) == 1:
        return outputs[0]
    logs = jnp.stack([jax.nn.log_softmax(output.logits) for output in outputs])
    return Outputs(jax.nn.logsumexp(logs, axis=0) - jnp.log(float(len(outputs))), {})


def _options(plan: Plan, values: Hparams) -> dict[str, Any]:
    traced = {name: values[f"terms.{plan.name}.{name}"] for name in plan.bound.traced}
    return {**plan.bound.static, **traced}


def init(plans: Sequence[Plan], seed, outputs, views, values: Hparams, info: Info):
    """Initialises parameters and state of all terms.

    Args:
      plans: the terms.
      seed: `u32[]`.
      outputs: `{"network@view": Outputs}`; only their shapes are used.
      views: by name; only their shapes are used.
      values: traced numbers by path.
      info: facts of the training split.

    Returns:
      `(params, state)`, each by term name; terms without any are left out.
    """
    params, state = {}, {}
    for plan in plans:
        key = rng.init_key(seed, "terms/" + plan.name)
        own, own_state = plan.term.init(
            key, _inputs(plan, outputs, views), info, **_options(plan, values)
        )
        if jax.tree.leaves(own):
            params[plan.name] = own
        if jax.tree.leaves(own_state):
            state[plan.name] = own_state
    return params, state


def apply(
    plans: Sequence[Plan],
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    outputs: Mapping[str, Outputs],
    views: Mapping[str, View],
    clock: Clock,
    values: Hparams,
    info: Info,
    groups: int,
):
    """Computes all terms.

    Args:
      plans: the terms.
      params: by term name, as `init` gave them.
      state: by term name, as `init` gave it.
      outputs: `{"network@view": Outputs}`.
      views: by name.
      clock: position in the run.
      values: traced numbers by path.
      info: facts of the training split.
      groups: into how many groups the batch is split.

    Returns:
      `{gradient group: f32[]}` weighted sums, `f32[T]` the values without weights, the new state,
      and the terms' own metrics by name.
    """
    sums: dict[str, jax.Array] = {}
    raw, new_state, metrics = [], dict(state), {}
    for plan in plans:
        key = rng.batch_key(clock, "terms/" + plan.name)
        value, own_state, own_metrics = plan.term.apply(
            params.get(plan.name, {}), state.get(plan.name, {}), _inputs(plan, outputs, views),
            Context(clock, key, info, groups), **_options(plan, values),
        )
        weight = values[plan.weight.path] * plan.weight.multiplier(clock.step)
        sums[plan.group] = sums.get(plan.group, jnp.zeros((), jnp.float32)) + weight * value
        raw.append(value)
        if plan.name in state:
            new_state[plan.name] = own_state
        metrics.update({f"{plan.name}/{name}": pair for name, pair in own_metrics.items()})
    return sums, jnp.stack(raw), new_state, metrics
