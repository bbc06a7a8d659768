"""The members of a population: runs of one experiment that differ in traced numbers only."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError, suggest
from kdaug_jax.experiment import views
from kdaug_jax.experiment.config import flatten, overlay, view_texts
from kdaug_jax.types import Info, Range


class Member(NamedTuple):
    """One run of a population: its name ("" for a plain run) and what sets it apart."""

    name: str
    overrides: dict[str, Any]


class Numbers(Protocol):
    """What is needed of a phase: its config, its traced numbers, and the paths that it set."""

    config: dict[str, Any]
    info: Info
    view_specs: tuple[views.ViewSpec, ...]
    hparams: dict[str, np.ndarray]
    ranges: dict[str, Range]
    overridden: frozenset[str]


def members(grid: Sequence[tuple[Any, Sequence[Any]]]) -> tuple[Member, ...]:
    """Spans the grid of `config.population`.

    Args:
      grid: pairs of (path of a traced number, its values), or of (paths, rows of their values) of
        numbers that change together, a zip.

    Returns:
      One member for each combination, the last entry varying fastest; for an empty grid one member
      named "". A zip is named by as many of its paths as tell its rows apart. A name is the same
      before and after a way through JSON.

    Raises:
      ConfigError: a path without values or given twice, or a row of another length than its paths.
    """
    axes = [_axis(where, values) for where, values in _checked(grid)]
    combinations = list(itertools.product(*axes))
    return tuple(
        Member(
            ",".join(name for name, _ in combination),
            {path: value for _, numbers in combination for path, value in numbers.items()},
        )
        for combination in combinations
    )


def columns(grid: Sequence[tuple[Any, Sequence[Any]]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Returns each swept path with its values, those of a zip one after another.

    Args:
      grid: see `members`.

    Raises:
      ConfigError: see `members`.
    """
    swept: list[tuple[str, tuple[Any, ...]]] = []
    for where, values in _checked(grid):
        if isinstance(where, str):
            swept.append((where, tuple(values)))
        else:
            swept.extend(zip(where, zip(*values, strict=True), strict=True))
    return swept


def largest_counts(grid: Sequence[tuple[Any, Sequence[Any]]]) -> dict[str, int]:
    """Returns the largest value of each swept path of a view whose values are whole numbers.

    Args:
      grid: see `members`.
    """
    return {
        path: max(values) for path, values in columns(grid)
        if path.startswith("views.") and all(type(value) is int for value in values)
    }


def _checked(grid: Sequence[tuple[Any, Sequence[Any]]]) -> Sequence[tuple[Any, Sequence[Any]]]:
    """Returns a grid; raises ConfigError where it is none."""
    known: set[str] = set()
    for where, values in grid:
        paths = (where,) if isinstance(where, str) else where
        named = isinstance(paths, list | tuple) and paths and all(
            isinstance(path, str) for path in paths
        )
        listed = isinstance(values, list | tuple) and len(values) > 0
        plain = [_plain(path) for path in paths] if named else []
        if not named or not listed or known.intersection(plain) or len(set(plain)) < len(plain):
            raise ConfigError(
                "population", f"'{where}' has no values or is there twice", '("path", (values,))'
            )
        known.update(plain)
        for row in values if not isinstance(where, str) else ():
            if not isinstance(row, list | tuple) or len(row) != len(paths):
                raise ConfigError(
                    "population", f"'{', '.join(paths)}' have the row {row!r}",
                    f"write rows of {len(paths)} values, one for each path",
                )
        if len(set(map(repr, values))) < len(values):
            raise ConfigError(
                "population", f"'{where}' repeats a value", "name each value once"
            )
    return grid


def _axis(where: Any, values: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the name and the numbers of each value, or row of a zip, of an entry of a grid."""
    paths = (where,) if isinstance(where, str) else tuple(where)
    rows = [(value,) if isinstance(where, str) else value for value in values]
    rows = [tuple(map(_as_tuple, row)) for row in rows]
    shown = next(
        count for count in range(1, len(paths) + 1)
        if len({repr(row[:count]) for row in rows}) == len(rows)
    )
    pairs = [dict(zip(paths, row, strict=True)) for row in rows]
    return [
        (",".join(f"{path}={numbers[path]}" for path in paths[:shown]), numbers)
        for numbers in pairs
    ]


def _plain(path: str) -> str:
    """Returns the path of a weight or rate, which with a schedule lies at `.base`."""
    return path.removesuffix(".base")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def hparams(
    phases: Sequence[Numbers], population: Sequence[Member]
) -> list[list[dict[str, np.ndarray]]]:
    """Returns each member's traced hparams in each phase.

    The sweep of a number ends with the phase that takes its stage, term or schedule away.

    Args:
      phases: or their programs.
      population: the members.

    Returns:
      For each phase a list of one dict a member.

    Raises:
      ConfigError: a path that is not a traced number of the first phase or that a phase sets too,
        a number out of range, or two values that are one in the program.
    """
    first = phases[0]
    for member in population:
        _check_crops(first, member.overrides)
        _check_traced(first, member.overrides)
        overlay(first.hparams, first.ranges, member.overrides)
    _check_distinct(first, population)
    _check_phases(phases, population)
    by_phase = []
    for phase in phases:
        kept = [
            {path: value for path, value in member.overrides.items() if _has(phase, path)}
            for member in population
        ]
        by_phase.append([overlay(phase.hparams, phase.ranges, changes) for changes in kept])
    return by_phase


def _check_crops(first: Numbers, paths: Iterable[str]) -> None:
    """Raises ConfigError for a number of a crop that the host could vary and the device cannot."""
    unknown = [path for path in paths if path not in first.hparams and path.startswith("views.")]
    if unknown:
        known = views.host_numbers(view_texts(first.config), first.info)
        for path in known.intersection(unknown):
            raise ConfigError(
                path, "is not a traced number where crops run on the device",
                "add --config.data.crop=host",
            )


def _check_traced(first: Numbers, paths: Iterable[str]) -> None:
    """Raises ConfigError for a setting that there is and that is compiled into the program."""
    compiled = {*flatten(first.config)} | {
        f"views.{spec.name}.{call.role}.{name}"
        for spec in first.view_specs for call in spec.calls
        for name in inspect.signature(call.stage.apply).parameters
    }
    for path in paths:
        if path in compiled and not _has(first, path):
            raise ConfigError(
                path, "is no number that a sweep may vary: it is compiled into the program",
                f"train a run for each value; {suggest(path, first.hparams)}",
            )


def ended(phases: Sequence[Numbers], population: Sequence[Member]) -> list[str]:
    """Returns a line for each swept number that a later phase does not have.

    Args:
      phases: or their programs.
      population: the members.
    """
    return [
        f"population: from phases.{number} on there is no {path}, so that members no longer "
        "differ in it"
        for path in population[0].overrides
        for number in [next(
            (number for number, phase in enumerate(phases[1:]) if not _has(phase, path)), None
        )]
        if number is not None
    ]


def _has(phase: Numbers, path: str) -> bool:
    return bool({_plain(path), f"{_plain(path)}.base"} & phase.hparams.keys())


def _check_distinct(first: Numbers, population: Sequence[Member]) -> None:
    """Raises ConfigError for values of a path that are one number in the program."""
    for path in population[0].overrides:
        known: dict[bytes, Any] = {}
        for member in population:
            value = member.overrides[path]
            numbers = overlay(first.hparams, first.ranges, {path: value})
            array = numbers[path if path in numbers else f"{path}.base"]
            other = known.setdefault((array + 0).tobytes(), value)  # -0.0 is 0.0
            if repr(other) != repr(value):
                raise ConfigError(
                    "population", f"'{path}' names {other!r} and {value!r}, which are one "
                    f"{array.dtype}", "name each value once",
                )


def _check_phases(phases: Sequence[Numbers], population: Sequence[Member]) -> None:
    """Raises ConfigError for a path that is swept and set by a phase."""
    for number, phase in enumerate(phases[1:]):
        for path in filter(lambda path: _has(phase, path), population[0].overrides):
            setting = [other for other in sorted(phase.overridden) if _covers(other, path)]
            if setting:
                raise ConfigError(
                    "population", f"'{path}' is swept, but phases.{number} goes on with its value "
                    f"of '{setting[0]}'", "take it out of one of the two",
                )


def _covers(override: str, path: str) -> bool:
    """Returns whether an override of a phase sets a number, or what the number is part of."""
    if override.startswith("views."):
        override = override.removesuffix(".ops")
    return f"{_plain(path)}.".startswith(f"{_plain(override)}.")


def matched(
    population: Sequence[Member], stored: Sequence[str], where: str
) -> tuple[Member, ...]:
    """Returns the members in the order in which a run stored them: they are known by name.

    Args:
      population: the members of the config.
      stored: names of the members of the run.
      where: what stores them, for messages.

    Raises:
      CheckpointError: the names are not the same.
    """
    by_name: Mapping[str, Member] = {member.name: member for member in population}
    new = [name for name in by_name if name not in stored]
    gone = [name for name in stored if name not in by_name]
    if not new and not gone:
        return tuple(by_name[name] for name in stored)
    parts = [f"it has no {_listed(new)}"] * bool(new) + [f"it has {_listed(gone)}"] * bool(gone)
    raise CheckpointError(
        where, "holds other members: " + ", and ".join(parts),
        "resume with the population it was made with, or use another --workdir",
    )


def _listed(names: Sequence[str]) -> str:
    shown = [f"'{name}'" if name else "run without population" for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
