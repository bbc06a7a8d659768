"""Turns `config.terms` into functions of the networks' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment import schedules
from kdaug_jax.experiment.binding import Bound, bind
from kdaug_jax.experiment.lifting import resolve
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.types import Clock, Hparams, Info, Outputs, Range, View

GROUPS = ("task", "distill")
FIELDS = ("loss", "on", "student", "teacher", "weight", "group", "detach", "taps")
# The tap that every network has.
LOGITS = "logits"


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
      taps: the activations that it works on, as names of (student, teacher).
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
    taps: tuple[tuple[str, str], ...]
    weight: schedules.Schedule


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
    learning = config["student"]
    students = (learning,) * len(on) if isinstance(learning, str) else tuple(learning)
    if any("@" in student for student in students):
        raise ConfigError(f"{where}.student", "names a view", "write the view in `on`")
    if len(students) != len(on):
        raise ConfigError(
            f"{where}.student", f"names {len(students)} networks for {len(on)} views",
            "name one, or one for each view in `on`",
        )
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
        tuple(pair("student", *both) for both in zip(students, on, strict=True)),
        tuple(tuple(pair("teacher", text, view) for text in teachers) for view in on),
        on, _taps(where, config, term.taps), weight,
    )


def _taps(where: str, config: Mapping[str, Any], wanted: bool) -> tuple[tuple[str, str], ...]:
    """Reads `taps=("f1", "f2:g2")` as pairs of the student's and the teacher's names."""
    named = config.get("taps", ())
    named = (named,) if isinstance(named, str) else tuple(named)
    if wanted != bool(named):
        what = "works on activations" if wanted else "takes no taps"
        raise ConfigError(
            f"{where}.taps", f"'{config['loss']}' {what}",
            'name them as taps=("f1", ...)' if wanted else "leave them out",
        )
    pairs = (text.partition(":") for text in named)
    return tuple((student, teacher or student) for student, _, teacher in pairs)


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
        own, others = zip(*plan.taps, strict=True) if plan.taps else ((), ())
        features = [_features(plan.name, (student,), outputs[student], own)]
        if teachers:
            features.append(_features(plan.name, teachers, teacher, others))
        items.append(TermInput(outputs[student], teacher, views[view], *features))
    return tuple(items)


def _features(name: str, pairs: Sequence[str], outputs: Outputs, taps: Sequence[str]):
    found = {LOGITS: outputs.logits, **outputs.taps}
    it, has = ("it", "has") if len(pairs) == 1 else ("they", "have")
    for tap in taps:
        if tap not in found:
            raise ConfigError(
                f"terms.{name}.taps", f"{' and '.join(pairs)} {has} no tap '{tap}'",
                f"{it} {has} " + ", ".join(found),
            )
    return tuple(found[tap] for tap in taps)


@contextlib.contextmanager
def _named(plan: Plan) -> Iterator[None]:
    """Says which term refuses the shapes it is given."""
    try:
        yield
    except ValueError as error:
        if [type(part) for part in error.args] != [str, str]:  # a programming error
            raise
        raise ConfigError(f"terms.{plan.name}", *error.args) from None


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
        inputs = jax.eval_shape(lambda *given, plan=plan: _inputs(plan, *given), outputs, views)
        with _named(plan):
            own, own_state = plan.term.init(key, inputs, info, **_options(plan, values))
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
        with _named(plan):
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
