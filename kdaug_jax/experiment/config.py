"""Checks of a config, overrides by path, differences, fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment.binding import cast
from kdaug_jax.experiment.sections import check_known, default, network, optimizer, term
from kdaug_jax.types import Range

MODES = ("train", "evaluate", "preview", "export")
SEED = Range(np.uint32, 0, 2**32 - 1)
COUNT = Range(np.int64, 0)
# No interval of time or data is longer, in whatever it is counted.
LONGEST = 1e9
# A run may be resumed with other values of these.
FREE = ("mode", "data.workers", "data.device_gb")


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a config into plain nested dicts, tuples and numbers."""
    return config.to_dict() if isinstance(config, ConfigDict) else copy.deepcopy(dict(config))


def natural_sort(names) -> list[str]:
    """Sorts names by the numbers written in them: a2 before a10, whatever order the config has."""

    def key(name):
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Checks all that can be checked without data and devices.

    Args:
      config: a ConfigDict or nested dicts.

    Returns:
      The config as plain nested dicts with every field filled in.

    Raises:
      ConfigError: an unknown field, a wrong type, or a number out of range.
    """
    given, schema = plain(config), plain(default())
    check_known("config", given, schema)
    full = {**schema, **given}
    for section in ("views", "networks", "terms"):
        full[section] = _section(section, full[section], ())
    for section, fields in schema.items():
        if isinstance(fields, dict) and fields:
            if not isinstance(full[section], dict):
                raise ConfigError(section, f"got {full[section]!r}", "must be a section")
            if section == "optim":  # an optimiser has options of its own
                fields = {name: fields[name] for name in optimizer("", 0.0)}
            else:
                check_known(section, full[section], fields)
            full[section] = {**fields, **full[section]}
            for name, value in fields.items():
                _same_type(f"{section}.{name}", full[section][name], value)
    for name in ("metrics", "views"):
        listed = full["eval"][name]
        if any(not isinstance(one, str) for one in listed) or len(set(listed)) < len(listed):
            raise ConfigError(f"eval.{name}", f"got {listed!r}", "must be names, each once")
    if full["mode"] not in MODES:
        raise ConfigError("mode", f"got '{full['mode']}'", suggest(str(full["mode"]), MODES))
    if full["precision"] not in ("float32", "bfloat16"):
        raise ConfigError("precision", f"got {full['precision']!r}", "must be float32 or bfloat16")
    cast("seed", full["seed"], SEED)
    cast("data.seed", full["data"]["seed"], SEED)
    for path, low in (
        ("data.batch_size", 1), ("data.workers", 0),
        ("train.replica_batch_size", 0), ("train.steps_per_call", 0), ("train.accumulate", 1),
        ("eval.batch_size", 0), ("eval.bins", 1), ("checkpoint.every_steps", 0),
        ("checkpoint.keep", 2), ("log.every_steps", 1), ("mesh.data", -1),
    ):
        section, name = path.split(".")
        cast(path, full[section][name], Range(np.int64, low))
    for path in (
        "data.device_gb", "eval.every_epochs", "checkpoint.every_epochs", "checkpoint.every_minutes"
    ):
        section, name = path.split(".")
        cast(path, full[section][name], Range(np.float64, 0.0, LONGEST))
    cast("train.epochs", full["train"]["epochs"], Range(np.float64, 0.0, LONGEST, open=True))
    group, batch = full["train"]["replica_batch_size"], full["data"]["batch_size"]
    if group and batch % group:
        raise ConfigError(
            "train.replica_batch_size", f"{group} does not divide data.batch_size {batch}",
            f"use a divisor of {batch}",
        )
    parts = full["train"]["accumulate"]
    units, what = (batch // group, "groups") if group else (batch, "data.batch_size")
    if units % parts:
        raise ConfigError(
            "train.accumulate", f"{parts} micro-batches cannot share {what} {units} evenly",
            f"use a divisor of {units}",
        )
    full["views"] = {name: _view(name, value) for name, value in full["views"].items()}
    full["networks"] = {
        name: _network(f"networks.{name}", value) for name, value in full["networks"].items()
    }
    full["terms"] = {name: _term(f"terms.{name}", value) for name, value in full["terms"].items()}
    _whole(full)
    return full


def _same_type(path: str, value: Any, example: Any) -> None:
    kinds = {float: (int, float), int: (int,), bool: (bool,), str: (str,), tuple: (tuple, list)}
    if path == "optim.schedule":
        return
    wanted = kinds.get(type(example), (type(example),))
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(example, bool):
        raise ConfigError(path, f"got {value!r}", f"must be a {type(example).__name__}")


def _section(where: str, value: Any, required: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"got {value!r}", "must be a section")
    for name in required:
        if name not in value:
            raise ConfigError(where, f"has no '{name}'", f"give {name}=...")
    section = dict(value)
    if isinstance(section.get("on"), str):
        section["on"] = (section["on"],)
    return section


def _network(where: str, value: Any) -> dict[str, Any]:
    section = _section(where, value, ("name",))
    check_known(where, section, network(""))
    section = network(**section)
    several = section["checkpoint"]
    if isinstance(several, list | tuple) and several and all(isinstance(s, str) for s in several):
        section["checkpoint"] = tuple(several)
    else:
        _same_type(f"{where}.checkpoint", several, "")
    for name, example in network("").items():
        if name != "checkpoint":
            _same_type(f"{where}.{name}", section[name], example)
    for name, legal in (("mean", Range(np.float32, 0.0, 255.0)),
                        ("std", Range(np.float32, 0.0, open=True))):
        section[name] = tuple(section[name])
        for number in section[name]:
            cast(f"{where}.{name}", number, legal)
    _pairs(f"{where}.recipe", section["recipe"], (str,))
    return section


def _term(where: str, value: Any) -> dict[str, Any]:
    section = _section(where, value, ("loss", "on"))
    if not isinstance(section["loss"], str):
        raise ConfigError(f"{where}.loss", f"got {section['loss']!r}", "must be a str")
    if not isinstance(section["on"], list | tuple):
        raise ConfigError(f"{where}.on", f"got {section['on']!r}", "must be names of views")
    section = term(**section)
    for name in ("gradient_group", "detach"):
        _same_type(f"{where}.{name}", section[name], term("", ())[name])
    for name in ("on", "student", "teacher", "features"):
        if name not in section:
            continue
        listed = section[name] if isinstance(section[name], list | tuple) else (section[name],)
        if any(not isinstance(one, str) for one in listed):
            raise ConfigError(f"{where}.{name}", f"got {section[name]!r}", "must be names")
    return section


def _view(name: str, value: Any) -> dict[str, Any]:
    value = {"ops": value} if isinstance(value, str) else value
    section = _section(f"views.{name}", value, ("ops",))
    check_known(f"views.{name}", section, {"ops": "", "branch": 0})
    section = {"branch": 0, **section}
    _same_type(f"views.{name}.ops", section["ops"], "")
    cast(f"views.{name}.branch", section["branch"], COUNT)
    return section


def _whole(full: Mapping[str, Any]) -> None:
    for section in ("views", "networks", "terms"):
        if not full[section]:
            raise ConfigError(section, "is empty", "an experiment needs at least one entry")
        for name in full[section]:
            if not isinstance(name, str) or not name.replace("_", "a").isalnum() or name == "terms":
                raise ConfigError(
                    f"{section}.{name}", "is not a usable name", "use letters, digits and _"
                )
    if not any(one["trainable"] for one in full["networks"].values()):
        raise ConfigError("networks", "none is trainable", "set trainable=True for the student")
    for name, one in full["networks"].items():
        if one["trainable"] and one["checkpoint"]:
            raise ConfigError(
                f"networks.{name}.checkpoint", "is given for a trained network",
                "leave it empty, or name a frozen network of that checkpoint in `init`",
            )
        frozen = [other for other, its in full["networks"].items() if not its["trainable"]]
        if one["init"] and not one["trainable"]:
            raise ConfigError(f"networks.{name}.init", "is given for a frozen network",
                              "leave it empty")
        if one["init"] and one["init"] not in frozen:
            raise ConfigError(
                f"networks.{name}.init", f"no frozen network '{one['init']}'",
                suggest(one["init"], frozen),
            )
    for field in ("phases", "population"):
        _pairs(field, full[field], (object,))


def _pairs(where: str, entries: Any, first: tuple[type, ...]) -> None:
    if not isinstance(entries, list | tuple) or any(
        not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], first)
        for entry in entries
    ):
        kind = ' ("path", value)' if first == (str,) else ""
        raise ConfigError(where, f"got {entries!r}", f"must be a tuple of pairs{kind}")


def set_path(config: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Gives a copy of a plain config with the value at `path` replaced.

    Raises:
      ConfigError: there is no such path.
    """
    full = copy.deepcopy(dict(config))
    *parents, last = path.split(".")
    section: Any = full
    for position, name in enumerate((*parents, last)):
        if not isinstance(section, dict) or name not in section:
            known = section if isinstance(section, dict) else ()
            where = ".".join((*parents, last)[: position + 1])
            raise ConfigError(where, "there is no such field", suggest(name, known))
        if position < len(parents):
            section = section[name]
    if path.startswith("views.") and isinstance(value, str) and isinstance(section[last], dict):
        value = {**section[last], "ops": value}
    section[last] = value
    return full


def overlay(
    hparams: Mapping[str, np.ndarray],
    ranges: Mapping[str, Range],
    overrides: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Replaces traced numbers by path.

    Args:
      hparams: traced numbers by path.
      ranges: their legal values.
      overrides: new numbers by path.

    Returns:
      A new dict with the same paths, dtypes and shapes, so that nothing compiles again.

    Raises:
      ConfigError: a path that is not traced, or a number out of range.
    """
    result = dict(hparams)
    for path, value in overrides.items():
        # A weight or rate without a schedule lies at its own path, with one at `.base`.
        path = path if path in hparams or f"{path}.base" not in hparams else f"{path}.base"
        if path not in hparams:
            raise ConfigError(path, "is not a traced number", suggest(path, hparams))
        result[path] = _like(path, value, hparams[path], ranges[path])
    return result


def _like(path: str, value: Any, old: np.ndarray, legal: Range) -> np.ndarray:
    """Casts a number, or as many as the old array has."""
    if not np.ndim(old):
        return cast(path, value, legal)
    if not isinstance(value, list | tuple | np.ndarray) or np.shape(value) != np.shape(old):
        raise ConfigError(path, f"got {value!r}", f"must be {np.size(old)} numbers")
    return np.stack([cast(path, one, legal) for one in np.asarray(value)])


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a config as JSON would give it back (tuples become lists)."""
    return json.loads(json.dumps(config, sort_keys=True))


def fingerprint(config: Mapping[str, Any]) -> str:
    """Gives 16 hexadecimal digits that change whenever a field changes."""
    text = json.dumps(config, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists, one line a path, where two configs differ; fields in `FREE` do not count."""

    def flatten(value, prefix=""):
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from flatten(inner, f"{prefix}.{name}" if prefix else name)
        else:
            yield prefix, value

    before, after = dict(flatten(canonical(old))), dict(flatten(canonical(new)))
    lines = []
    for path in sorted({*before, *after} - set(FREE)):
        if before.get(path, "(absent)") != after.get(path, "(absent)"):
            lines.append(
                f"{path}: {before.get(path, '(absent)')!r} -> {after.get(path, '(absent)')!r}"
            )
    return lines
