"""The programs of a config: one for each phase, all with the same state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.binding import cast
from kdaug_jax.experiment.build import Phase, build_phase, resolve_phase
from kdaug_jax.experiment.config import overlay, set_path, validate
from kdaug_jax.experiment.fields import INTERVAL
from kdaug_jax.experiment.program import Program
from kdaug_jax.experiment.schedules import whole_steps
from kdaug_jax.types import Info

# Sections that phases may change, and fields of them that they may not.
PHASED = ("views", "terms", "optim")
NOT_PHASED = ("optim.name", "optim.ema_ramp")


def resolve_phases(config: Mapping[str, Any], info: Info) -> tuple[Phase, ...]:
    """Resolves all phases of a config, without building networks.

    Args:
      config: a ConfigDict or nested dicts.
      info: facts of the training split.

    Returns:
      The phases in order of their `start_step`; the first starts at 0.

    Raises:
      ConfigError: the first thing that does not fit, named by its config path.
    """
    full = validate(config)
    _check_classes(full, info)
    phases = [resolve_phase(full, info, 0)]
    current, traced = full, {}
    for number, (epoch, overrides) in enumerate(full["phases"]):
        where = f"phases.{number}"
        start = _phase_start(where, epoch, overrides, phases[-1])
        with _in_phase(number):
            for path, value in overrides.items():
                current, traced = _override(path, value, current, traced, phases[-1])
            phase = resolve_phase(validate(current), info, start)
            phases.append(phase._replace(
                hparams=overlay(phase.hparams, phase.ranges, traced),
                overridden=phases[-1].overridden | set(overrides),
            ))
    return tuple(phases)


def build_programs(config: Mapping[str, Any], info: Info) -> tuple[Program, ...]:
    """Returns one program for each phase of a config, all with the same state tree.

    Args:
      config: a ConfigDict or nested dicts.
      info: facts of the training split.

    Returns:
      The programs in order of their `start_step`; the first starts at 0.

    Raises:
      ConfigError: the first thing that does not fit, named by its config path.
    """
    first, *later = resolve_phases(config, info)
    programs = [build_phase(first)]
    for number, phase in enumerate(later):
        with _in_phase(number):
            programs.append(build_phase(phase))
        _same_state(f"phases.{number}", programs[0], programs[-1])
    return tuple(programs)


def _check_classes(full: Mapping[str, Any], info: Info) -> None:
    expected = full["data"]["classes"]
    if expected not in (0, info.num_classes):
        raise ConfigError(
            "data.classes", f"the experiment is of {expected:,} classes, "
            f"'{full['data']['source']}' has {info.num_classes:,}",
            "take its options for these data, or --config.data.classes=0 to keep its recipe",
        )


@contextlib.contextmanager
def _in_phase(number: int) -> Iterator[None]:
    """Says which phase an error concerns."""
    try:
        yield
    except ConfigError as error:
        where = f"phases.{number} ({error.where})"
        raise ConfigError(where, error.what, error.remedy) from None


def _phase_start(where: str, epoch, overrides, before: Phase) -> int:
    cast(f"{where}.epoch", epoch, INTERVAL)
    start = whole_steps(epoch, before.steps_per_epoch)
    if not before.start_step < start < before.total_steps:
        epochs = before.config["train"]["epochs"]
        raise ConfigError(
            where, f"starts at epoch {epoch:g}",
            f"phases follow each other inside the run of {epochs:g} epochs",
        )
    if not isinstance(overrides, Mapping) or not overrides:
        raise ConfigError(where, f"overrides are {overrides!r}", 'write {"path": value, ...}')
    return start


def _override(path: str, value, current, traced, before: Phase):
    """Returns config and traced numbers after one override of a phase."""
    parts = path.split(".") if isinstance(path, str) else [""]
    if parts[0] not in PHASED or path.startswith(NOT_PHASED):
        raise ConfigError(str(path), "cannot be changed", "phases change " + ", ".join(PHASED))
    # A later override replaces what an earlier one set at the path or below it.
    traced = {
        earlier: number for earlier, number in traced.items()
        if not f"{earlier}.".startswith(f"{path}.")
    }
    if path in before.hparams and parts[0] == "views":
        return current, {**traced, path: value}
    if parts[0] == "terms" and len(parts) == 3 and parts[1] in current["terms"]:
        terms_now = {**current["terms"], parts[1]: {**current["terms"][parts[1]], parts[2]: value}}
        return {**current, "terms": terms_now}, traced
    return set_path(current, path, value), traced


def _same_state(where: str, first: Program, program: Program) -> None:
    """Raises ConfigError if the state of a phase has another tree than the run's."""
    before, after = (
        {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}
        for leaves in (
            jax.tree.leaves_with_path(phase.state_shapes()) for phase in (first, program)
        )
    )
    differing = sorted(
        path for path in {*before, *after} if before.get(path) != after.get(path)
    )
    if differing:
        raise ConfigError(
            where, f"changes what the run stores (at {differing[0]})",
            "phases keep networks, branches, clipping and averaging",
        )
