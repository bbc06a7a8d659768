"""What finished runs were made with, member by member, and in what two of them differ."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdaug_jax.data.recorded import data_changes
from kdaug_jax.experiment.config import flatten
from kdaug_jax.experiment.effects import ON_NO_METRIC, is_among
from kdaug_jax.experiment.frozen.places import WORKDIR
from kdaug_jax.experiment.members import members as members_of

# Settings in which repetitions of a run differ.
SEEDS = ("seed", "data.seed")


def is_without_effect(path: str) -> bool:
    """Returns whether a setting changes no final metric."""
    return is_among(path, ON_NO_METRIC)


def settings_of(stored: Mapping[str, Any], member: str) -> dict[str, Any]:
    """Returns the flat config of a member of a run: that of the run, with the member's numbers.

    Args:
      stored: the record of the run, see `runtime.records.read_fields`.
      member: its name, "" for a plain run.
    """
    config = flatten(_with_automatic_teachers(stored["config"]))
    grid = stored["config"].get("population") or ()
    # By name: a resumed run may list the values in another order than the one they are stored in.
    by_name = {known.name: known.overrides for known in members_of(grid)}
    overrides = by_name.get(member)
    if overrides is None:
        parts = (part.split("=", 1) for part in re.split(r",(?=[\w.]+=)", member) if part)
        overrides = {path: _value(text) for path, text in parts}
    return config | {
        path if path in config or f"{path}.base" not in config else f"{path}.base": value
        for path, value in overrides.items()
    }


def followers(stored: Mapping[str, Any]) -> set[str]:
    """Returns the paths of a sweep that change together with a seed, which repetitions differ in.

    Args:
      stored: see `settings_of`.
    """
    return {
        path for paths, _ in stored["config"].get("population") or ()
        if not isinstance(paths, str) and set(SEEDS).intersection(paths)
        for path in paths if path not in SEEDS
    }


def _with_automatic_teachers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config in which teachers that runs share read as those that a run trains itself.

    Their directories are named by what they were trained with, a seed for one. Whether a recipe is
    another one shows in the recipe.
    """
    networks = dict(config.get("networks", {}))
    for name, section in networks.items():
        place = section.get("checkpoint", "")
        shared = config.get("teachers") and isinstance(place, str) and (
            Path(place).parent == Path(config["teachers"])
            and re.fullmatch(r"\w+-[0-9a-f]{16}", Path(place).name)
        )
        if shared:
            networks[name] = {**section, "checkpoint": WORKDIR + name}
    return {**config, "networks": networks} if networks else dict(config)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def comparable(value: Any) -> Any:
    """Returns what two settings share if they are of one value: 1 and 1.0, (1, 2) and [1, 2]."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, comparable(inner)) for name, inner in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(comparable, value))
    return (isinstance(value, bool), value)


def input_changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns a line for each input of two runs that differs though its name is the same.

    Args:
      first: the record of a run.
      second: that of another one.
    """
    return _changed_data(first, second) + _changed_teachers(first, second)


def _changed_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    sections = [
        {path: value for path, value in flatten(run["config"].get("data", {})).items()
         if f"data.{path}" not in SEEDS and not is_without_effect(f"data.{path}")}
        for run in (first, second)
    ]
    if comparable(sections[0]) != comparable(sections[1]):
        return []
    if not (first.get("data") and second.get("data")):
        return []
    return data_changes(first, second["data"], second.get("contents", {}))


def _changed_teachers(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, record in first.get("frozen", {}).items():
        places = [run["config"].get("networks", {}).get(name, {}).get("checkpoint")
                  for run in (first, second)]
        other = second.get("frozen", {}).get(name)
        trained = str(places[0]).startswith(WORKDIR)  # by each run for itself
        if trained or not other or comparable(places[0]) != comparable(places[1]):
            continue
        if other.get("digest") != record.get("digest"):
            lines.append(f"networks.{name}: steps {record.get('steps')} -> {other.get('steps')}, "
                         f"other weights in {places[0]}")
    return lines
