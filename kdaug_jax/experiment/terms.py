"""Turns `config.terms` into functions of the networks' outputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import schedules
from kdaug_jax.experiment.binding import Bound, bind, located, options
from kdaug_jax.experiment.context import StepContext
from kdaug_jax.experiment.fields import FIELDS, check_known, section_fields
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.losses.response import average_teachers
from kdaug_jax.losses.term import Context, Term, TermInput, is_update
from kdaug_jax.models.norms import norm_before
from kdaug_jax.types import Hparams, Info, Outputs, Range, View, select_features

GROUPS = FIELDS["terms.*.gradient_group"].legal


class TermSpec(NamedTuple):
    """One loss term of an experiment, all names resolved.

    Attributes:
      name: its name in the config.
      term: its functions.
      bound: its options.
      gradient_group: the gradient group that it belongs to.
      detach: whether the teacher's outputs are constants.
      softened: whether several teachers are averaged at the loss's temperature instead of 1.
      student, teachers: for each view it is on, the pair of the learning network, and the pairs
        of its teachers (several are averaged, none for a term without teacher).
      views: the views it is on, whose labels it sees.
      features: names of the activations that it compares, pairs of (student's, teacher's).
      weight: the schedule of its weight.
    """

    name: str
    term: Term
    bound: Bound
    gradient_group: str
    detach: bool
    softened: bool
    student: tuple[str, ...]
    teachers: tuple[tuple[str, ...], ...]
    views: tuple[str, ...]
    features: tuple[tuple[str, str], ...]
    weight: schedules.Schedule


def build_term(
    name: str,
    config: Mapping[str, Any],
    views: Sequence[str],
    networks: Sequence[str],
    steps_per_epoch: int,
    total_steps: int,
    info: Info,
) -> TermSpec:
    """Resolves one term of the config.

    Raises:
      ConfigError: unknown loss, view, network, group or option, or a value out of range.
    """
    where = f"terms.{name}"
    term, signature, skip = resolve(f"{where}.loss", config["loss"])
    fields = section_fields("terms.*")
    check_known(where, config, [*fields, *options(signature, skip)])
    written = {key: value for key, value in config.items() if key not in fields}
    bound = bind(where, signature, (), written, skip, info)
    on = tuple(config["on"])
    if not on or len(set(on)) < len(on):
        raise ConfigError(f"{where}.on", "names no view, or one twice", suggest("", views))
    students = config["student"]
    students = (students,) * len(on) if isinstance(students, str) else tuple(students)
    if any("@" in student for student in students):
        raise ConfigError(f"{where}.student", "names a view", "write the view in `on`")
    if len(students) != len(on):
        raise ConfigError(
            f"{where}.student", f"names {len(students)} networks for {len(on)} views",
            "name one, or one for each view in `on`",
        )
    teachers = tuple(filter(None, _listed(config["teacher"])))
    needs = any(role.startswith("teacher") for role in term.roles)
    if needs != bool(teachers):
        what = "needs a teacher" if needs else "takes no teacher"
        raise ConfigError(f"{where}.teacher", f"'{config['loss']}' {what}", suggest("", networks))

    def pair(field: str, text: str, view: str) -> str:
        network, _, named_view = text.partition("@")
        if network not in networks:
            known = suggest(network, networks)
            raise ConfigError(f"{where}.{field}", f"no network '{network}'", known)
        view = named_view or view
        if view not in views:
            raise ConfigError(f"{where}.on", f"no view '{view}'", suggest(view, views))
        return f"{network}@{view}"

    softened = config["teacher_average"] == "softened"
    if softened and (len(teachers) < 2 or "temperature" not in bound.traced):
        what = "has no temperature" if len(teachers) > 1 else "has one teacher at most"
        raise ConfigError(f"{where}.teacher_average", f"'{config['loss']}' {what}", "leave it out")
    weight = schedules.build_schedule(
        f"{where}.weight", config["weight"], steps_per_epoch, total_steps,
        fields["weight"].legal, info,
    )
    return TermSpec(
        name, term, bound, config["gradient_group"], config["detach"],
        softened,
        tuple(pair("student", *both) for both in zip(students, on, strict=True)),
        tuple(tuple(pair("teacher", text, view) for text in teachers) for view in on),
        on, _feature_names(where, config, term.features), weight,
    )


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _feature_names(
    where: str, config: Mapping[str, Any], required: bool
) -> tuple[tuple[str, str], ...]:
    """Reads `features=("f1", "f2:g2")` as pairs of the student's and the teacher's names."""
    names = _listed(config.get("features", ()))
    if required != bool(names):
        what = "works on activations" if required else "takes no features"
        raise ConfigError(
            f"{where}.features", f"'{config['loss']}' {what}",
            'name them as features=("f1", ...)' if required else "leave them out",
        )
    pairs = (text.partition(":") for text in names)
    return tuple((student, teacher or student) for student, _, teacher in pairs)


def pairs(specs: Sequence[TermSpec]) -> tuple[tuple[str, str], ...]:
    """Returns the (network, view) pairs that the terms need, each once, in order of mention."""
    names: dict[str, None] = {}
    for spec in specs:
        for student, teachers in zip(spec.student, spec.teachers, strict=True):
            names.update(dict.fromkeys((student, *teachers)))
    return tuple(tuple(name.split("@")) for name in names)


def left_out(
    config: Mapping[str, Any], population: Sequence[tuple[str, Any]]
) -> frozenset[str]:
    """Returns the names of the terms that a program need not compute: their weight is always 0.

    It is, where `weight` is the number 0 and is not swept. If all terms are such, none is left out.

    Args:
      config: the complete section `terms`.
      population: the swept paths and their values.
    """
    swept = {str(path).removesuffix(".base") for path, _ in population}
    zero = frozenset(
        name for name, section in config.items()
        if not isinstance(section["weight"], Mapping) and section["weight"] == 0
        and f"terms.{name}.weight" not in swept
    )
    return zero if len(zero) < len(config) else frozenset()


def hparams(specs: Sequence[TermSpec]) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """Returns the traced numbers of terms and their ranges, both by path."""
    values, ranges = {}, {}
    for spec in specs:
        values[spec.weight.path], ranges[spec.weight.path] = spec.weight.base, spec.weight.range
        for name, value in spec.bound.traced.items():
            path = f"terms.{spec.name}.{name}"
            values[path], ranges[path] = value, spec.bound.ranges[name]
    return values, ranges


def _inputs(
    spec: TermSpec, outputs: Mapping[str, Outputs], views: Mapping[str, View],
    settings: Mapping[str, Any],
):
    inputs, temperature = [], settings["temperature"] if spec.softened else 1.0
    for view, student, teachers in zip(spec.views, spec.student, spec.teachers, strict=True):
        teacher = None
        if teachers:
            teacher = _average([outputs[pair] for pair in teachers], temperature)
        if spec.detach:
            teacher = jax.lax.stop_gradient(teacher)
        names = zip(*spec.features, strict=True) if spec.features else ((), ())
        student_names, teacher_names = names
        features = [_features(spec.name, (student,), outputs[student], student_names)]
        if teachers:
            features.append(_features(spec.name, teachers, teacher, teacher_names))
        inputs.append(TermInput(outputs[student], teacher, views[view], *features))
    return tuple(inputs)


def _features(term: str, pairs: Sequence[str], outputs: Outputs, names: Sequence[str]):
    with located(f"terms.{term}.features"):
        return select_features(outputs, names, pairs)


def _average(outputs: Sequence[Outputs], temperature: ArrayLike) -> Outputs:
    if len(outputs) == 1:
        return outputs[0]
    return Outputs(average_teachers([output.logits for output in outputs], temperature), {})


def _options(spec: TermSpec, hparams: Hparams) -> dict[str, Any]:
    traced = {name: hparams[f"terms.{spec.name}.{name}"] for name in spec.bound.traced}
    return {**spec.bound.static, **traced}


def teachers_read(specs: Sequence[TermSpec]) -> tuple[str, ...]:
    """Returns the networks of which terms need more than shapes in `init`."""
    names = (
        pair.partition("@")[0] for spec in specs if spec.term.reads_norms
        for pairs in spec.teachers for pair in pairs
    )
    return tuple(dict.fromkeys(names))


def _norms(spec: TermSpec, frozen: Mapping[str, Any]) -> tuple[dict[str, jax.Array] | None, ...]:
    """Returns the teacher's BatchNorm before each feature of a term's first view."""
    teacher = spec.teachers[0][0].partition("@")[0]
    params = frozen.get(teacher, {}).get("params", {})
    norms = [norm_before(params, name) for _, name in spec.features]
    return tuple(
        None if norm is None or "scale" not in norm
        else {part: norm[part][0] for part in ("scale", "bias")}
        for norm in norms
    )


def init(
    specs: Sequence[TermSpec], seed, outputs, views, hparams: Hparams, info: Info,
    frozen: Mapping[str, Any],
):
    """Returns the initial parameters and state of all terms.

    Args:
      specs: the terms.
      seed: `u32[]`.
      outputs: `{"network@view": Outputs}`; only their shapes are used.
      views: by name; only their shapes are used.
      hparams: traced numbers by path.
      info: facts of the training split.
      frozen: `{network: variables}`; values are used only of `teachers_read`.

    Returns:
      `(params, state)`, each by term name; terms without any are left out.
    """
    params, state = {}, {}
    for spec in specs:
        key = rng.init_key(seed, "terms/" + spec.name)
        settings = _options(spec, hparams)
        inputs = jax.eval_shape(
            functools.partial(_inputs, spec, settings=settings), outputs, views
        )
        if spec.term.reads_norms:
            norms = _norms(spec, frozen)
            inputs = tuple(item._replace(teacher_norms=norms) for item in inputs)
        with located(f"terms.{spec.name}"):
            term_params, term_state = spec.term.init(key, inputs, info, **settings)
        if jax.tree.leaves(term_params):
            params[spec.name] = term_params
        if jax.tree.leaves(term_state):
            state[spec.name] = term_state
    return params, state


def apply(
    specs: Sequence[TermSpec],
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    outputs: Mapping[str, Outputs],
    context: StepContext,
):
    """Computes all terms.

    Args:
      specs: the terms.
      params: by term name, see `init`.
      state: by term name, see `init`.
      outputs: `{"network@view": Outputs}`.
      context: the views, the position in the run and the traced numbers.

    Returns:
      `{gradient group: f32[]}` weighted sums, `f32[T]` the values without weights, the new state,
      and the terms' own metrics by name.
    """
    sums: dict[str, jax.Array] = {}
    raw, new_state, metrics = [], dict(state), {}
    views, clock, hparams = context.views, context.clock, context.hparams
    for spec in specs:
        key, settings = rng.batch_key(clock, "terms/" + spec.name), _options(spec, hparams)
        inputs = _inputs(spec, outputs, views, settings)
        with located(f"terms.{spec.name}"):
            value, term_state, term_metrics = spec.term.apply(
                params.get(spec.name, {}), state.get(spec.name, {}), inputs,
                Context(clock, key, context.info, context.groups), **settings,
            )
        weight = hparams[spec.weight.path] * spec.weight.multiplier(clock.step)
        group_sum = sums.get(spec.gradient_group, jnp.zeros((), jnp.float32))
        sums[spec.gradient_group] = group_sum + weight * value
        raw.append(value)
        if spec.name in state:
            if context.parts > 1:
                _check_rows(spec.name, state[spec.name], term_state)
            new_state[spec.name] = term_state
        metrics.update({f"{spec.name}/{name}": pair for name, pair in term_metrics.items()})
    return sums, jnp.stack(raw), new_state, metrics


def _check_rows(name: str, before: Any, after: Any) -> None:
    """Raises ConfigError unless new rows are of the arrays that the term was given."""
    updates = jax.tree.leaves(after, is_leaf=is_update)
    for array, update in zip(jax.tree.leaves(before), updates, strict=True):
        if is_update(update) and update.array is not array:
            raise ConfigError(
                f"terms.{name}", "returned rows of another array than it was given",
                "return one RowUpdate of the given array, see kdaug_jax.losses.term.merged, or use "
                "train.accumulate=1",
            )
