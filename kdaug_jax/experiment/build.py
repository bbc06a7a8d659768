"""`build_phase(phase)`: the program of one phase of an experiment, resolved by `resolve_phase`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import optim, terms, views
from kdaug_jax.experiment.checks import (
    check_picks,
    check_pools,
    check_shared_teacher,
    check_term,
)
from kdaug_jax.experiment.config import natural_sort
from kdaug_jax.experiment.fields import FIELDS
from kdaug_jax.experiment.frozen import compatibility
from kdaug_jax.experiment.members import columns, largest_counts
from kdaug_jax.experiment.networks import Network, build_network, check_init
from kdaug_jax.experiment.program import Program
from kdaug_jax.experiment.schedules import whole_steps
from kdaug_jax.runtime import platform
from kdaug_jax.types import Info, Range


class Phase(NamedTuple):
    """One phase of an experiment before its networks are built.

    Attributes:
      config: the complete plain config of the phase.
      info: facts of the training split.
      steps_per_epoch, total_steps, start_step: steps of the whole run, and where the phase begins.
      view_specs, branches: the views in order, and the BatchNorm branch of each.
      term_specs: the terms in order.
      optimizer: the resolved optimiser.
      hparams, ranges: every traced number and its legal values, by config path.
      left_out: names of the terms that are not computed, see `terms.left_out`.
      overridden: config paths that this phase or an earlier one has set.
    """

    config: dict[str, Any]
    info: Info
    steps_per_epoch: int
    total_steps: int
    start_step: int
    view_specs: tuple[views.ViewSpec, ...]
    branches: dict[str, int]
    term_specs: tuple[terms.TermSpec, ...]
    optimizer: optim.Optimizer
    hparams: dict[str, np.ndarray]
    ranges: dict[str, Range]
    left_out: frozenset[str] = frozenset()
    overridden: frozenset[str] = frozenset()


def resolve_phase(full: dict[str, Any], info: Info, start_step: int) -> Phase:
    """Resolves all of a phase that needs no networks.

    Args:
      full: the complete plain config of the phase.
      info: facts of the training split.
      start_step: the step at which the phase begins.

    Raises:
      ConfigError: the first thing that does not fit, named by its config path.
    """
    steps_per_epoch, total_steps = _steps(full, len(info.labels))
    view_names = natural_sort(full["views"])
    view_specs = views.parse_all(
        {name: full["views"][name]["ops"] for name in view_names}, info,
        max(math.ceil(full["train"]["epochs"]), 1), largest_counts(full["population"]),
    )
    for spec in view_specs:
        views.check_place(
            spec, full["views"][spec.name]["place"], platform.requested_platforms(),
            has_cpu=platform.has_cpu(),
        )
    branches = {name: full["views"][name]["branch"] for name in view_names}
    network_names = natural_sort(full["networks"])
    term_specs = tuple(
        terms.build_term(
            name, full["terms"][name], view_names, network_names, steps_per_epoch, total_steps,
            info,
        )
        for name in natural_sort(full["terms"])
    )
    left_out = terms.left_out(full["terms"], columns(full["population"]))
    made = views.views_to_make(view_specs, terms.pairs(term_specs))
    check_picks(made, network_names)
    check_pools(made, full)
    check_shared_teacher(made, terms.pairs(term_specs), full)
    optimizer = optim.build_optimizer(full["optim"], steps_per_epoch, total_steps, info)
    hparams, ranges = _traced(
        full, views.hparams(view_specs), terms.hparams(term_specs),
        (optimizer.hparams, optimizer.ranges),
    )
    return Phase(
        full, info, steps_per_epoch, total_steps, start_step, view_specs, branches, term_specs,
        optimizer, hparams, ranges, left_out,
    )


def build_phase(phase: Phase) -> Program:
    """Returns the program of one phase of an experiment.

    Args:
      phase: what `resolve_phase` returned.

    Raises:
      ConfigError: the first thing that does not fit, named by its config path.
    """
    full, info, view_specs, term_specs = (
        phase.config, phase.info, phase.view_specs, phase.term_specs
    )
    made = views.views_to_make(view_specs, terms.pairs(term_specs))
    scored = tuple(
        (name, spec.name) for spec, call in views.picks(made)
        for name in views.networks_of(call)
    )
    pairs = (*terms.pairs(term_specs), *scored)
    networks = _networks(full, info, pairs, phase.branches)
    compatibility.check_views(networks, pairs, view_specs, full)
    for term in term_specs:
        _check_students(term, networks)
        check_term(term, {spec.name: spec for spec in view_specs}, phase.branches, full)
    # With mean and std filled in, the networks can be built again without the data.
    resolved = {**full, "networks": {
        name: full["networks"][name] | {part: network.facts[part] for part in ("mean", "std")}
        for name, network in networks.items()
    }}
    program = Program(
        groups=_groups(full),
        accumulate=full["train"]["accumulate"],
        networks=networks,
        **{**phase._asdict(), "config": resolved},
    )
    if not all(spec.term.plain for spec in term_specs):
        program.check_terms()
    return program


def _steps(full: Mapping[str, Any], size: int) -> tuple[int, int]:
    """Returns the steps of an epoch of `size` examples, and of the whole run."""
    batch_size = full["data"]["batch_size"]
    if batch_size > size:
        raise ConfigError(
            "data.batch_size", f"{batch_size} is more than the {size} training examples",
            f"at most {size}",
        )
    steps_per_epoch = size // batch_size
    total_steps = max(whole_steps(full["train"]["epochs"], steps_per_epoch), 1)
    if total_steps > np.iinfo(np.int32).max:
        raise ConfigError(
            "train.epochs", f"are {total_steps:,} steps", f"at most {np.iinfo(np.int32).max:,}"
        )
    return steps_per_epoch, total_steps


def _groups(full: Mapping[str, Any]) -> int:
    replica_batch_size = full["train"]["replica_batch_size"]
    return full["data"]["batch_size"] // replica_batch_size if replica_batch_size else 1


def _traced(
    full: Mapping[str, Any], *parts: tuple[Mapping[str, np.ndarray], Mapping[str, Range]]
) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """Returns all traced numbers and their ranges, both by path."""
    hparams: dict[str, np.ndarray] = {"seed": np.asarray(full["seed"], np.uint32)}
    ranges: dict[str, Range] = {"seed": FIELDS["seed"].legal}
    for values, legal in parts:
        hparams |= values
        ranges |= legal
    return hparams, ranges


def _networks(
    full: Mapping[str, Any], info: Info, pairs: Sequence[tuple[str, str]],
    branches: Mapping[str, int],
) -> dict[str, Network]:
    """Builds the networks, each with the BatchNorm branches that its views use."""
    networks, sources = {}, {section["init"] for section in full["networks"].values()}
    for name in natural_sort(full["networks"]):
        section = full["networks"][name]
        used = [branches[view] for network, view in pairs if network == name]
        if not used and name in sources:
            used = [0]
        if not used:
            raise ConfigError(f"networks.{name}", "no term uses it", "remove it or add a term")
        if section["trainable"] and 0 not in used:
            raise ConfigError(
                f"networks.{name}", "no view of it uses BatchNorm branch 0, which is evaluated",
                "number branches from 0",
            )
        unused = set(range(max(used))) - set(used)
        if section["trainable"] and unused:
            raise ConfigError(
                f"networks.{name}", f"no view of it trains BatchNorm branch {min(unused)} of the "
                f"{1 + max(used)} that would be evaluated", "number branches without gaps",
            )
        networks[name] = build_network(
            name, section, info, 1 + max(used), full["train"]["replica_batch_size"],
            full["precision"],
        )
    check_init(networks, info.size)
    return networks


def _check_students(spec: terms.TermSpec, networks: Mapping[str, Network]) -> None:
    """Raises ConfigError if a term trains a frozen network."""
    for network in {pair.split("@")[0] for pair in spec.student}:
        if not networks[network].trainable:
            raise ConfigError(
                f"terms.{spec.name}.student", f"'{network}' is frozen",
                suggest("", [name for name in networks if networks[name].trainable]),
            )
