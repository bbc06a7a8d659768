"""Validation of a config, overrides by path, differences, fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment.binding import cast
from kdaug_jax.experiment.effects import FREE, is_among
from kdaug_jax.experiment.fields import (
    FIELDS,
    REQUIRED,
    Field,
    check_known,
    defaults,
    section_fields,
    value_at,
)
from kdaug_jax.experiment.sections import default, network, optimizer, term
from kdaug_jax.types import Range

__all__ = [
    "MODES", "batch_norm_groups", "canonical", "check_field", "default", "difference",
    "fingerprint", "flatten", "natural_sort", "network", "optimizer", "overlay", "plain",
    "set_path", "term", "validate", "view_texts",
]

MODES = FIELDS["mode"].legal
# What a value of each type may be in Python; a field of another type is checked by who reads it.
TYPES = {"float": (int, float), "int": int, "bool": bool, "str": str, "tuple": (tuple, list),
         "dict": dict}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as plain nested dicts, tuples and numbers; arrays become tuples."""
    return _in_python(config.to_dict() if isinstance(config, ConfigDict) else dict(config))


def _in_python(value: Any) -> Any:
    """Returns a value without NumPy's types, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _in_python(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = map(_in_python, value)
        return list(parts) if isinstance(value, list) else tuple(parts)
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        return tuple(map(_in_python, np.asarray(value)))
    if isinstance(value, np.ndarray | jax.Array):
        value = np.asarray(value)[()]
    if isinstance(value, np.floating):  # float32's 0.1 was written as 0.1
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def natural_sort(names) -> list[str]:
    """Sorts names by the numbers written in them: a2 before a10, whatever order the config has."""

    def key(name):
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def view_texts(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the view expressions of a complete config by name, in natural order."""
    return {name: config["views"][name]["ops"] for name in natural_sort(config["views"])}


def batch_norm_groups(config: Mapping[str, Any]) -> dict[str, int]:
    """Returns over how many images BatchNorm is computed where the recipe has another number.

    Args:
      config: a complete one; of an older run it may lack the recipe's number.

    Returns:
      `{"images", "recipe"}`, {} where they are equal.
    """
    train = config["train"]
    images = train.get("replica_batch_size") or config["data"]["batch_size"]
    recipe = train.get("recipe_replica_batch_size")
    return {"images": images, "recipe": recipe} if recipe and recipe != images else {}


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Validates all of a config that needs neither data nor devices.

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
    for section, values in schema.items():
        if isinstance(values, dict) and values:
            if not isinstance(full[section], dict):
                raise ConfigError(section, f"got {full[section]!r}", "must be a section")
            if section == "optim":  # an optimiser has further options
                values = defaults("optim")
            else:
                check_known(section, full[section], values)
            full[section] = {**values, **full[section]}
    for path, field in FIELDS.items():
        if "*" not in path:
            check_field(path, value_at(full, path), field)
    for name in ("metrics", "views"):
        names = full["eval"][name]
        if any(not isinstance(item, str) for item in names) or len(set(names)) < len(names):
            raise ConfigError(f"eval.{name}", f"got {names!r}", "must be names, each once")
    profile = full["train"]["profile"]
    if profile and not (len(profile) == 2 and profile[0] < profile[1]):
        raise ConfigError("train.profile", f"got {profile!r}", "write (first, last), as (100, 110)")
    if full["mode"] != "evaluate":  # which takes the batch of the run
        _check_batch(full)
    for section, complete in (("views", _view), ("networks", _network), ("terms", _term)):
        full[section] = {
            name: complete(f"{section}.{name}", value) for name, value in full[section].items()
        }
    _check_sections(full)
    return full


def _check_batch(full: Mapping[str, Any]) -> None:
    """Validates that groups and micro-batches share a batch evenly."""
    replica_batch, batch = full["train"]["replica_batch_size"], full["data"]["batch_size"]
    if replica_batch and batch % replica_batch:
        raise ConfigError(
            "train.replica_batch_size", f"{replica_batch} does not divide data.batch_size {batch}",
            f"use a divisor of {batch}",
        )
    parts = full["train"]["accumulate"]
    units = batch // replica_batch if replica_batch else batch
    if units % parts:
        what = "groups" if replica_batch else "data.batch_size"
        raise ConfigError(
            "train.accumulate", f"{parts} micro-batches cannot share {what} {units} evenly",
            f"use a divisor of {units}",
        )


def check_field(path: str, value: Any, field: Field) -> None:
    """Validates the type and the range of one value.

    Args:
      path: its config path, for messages.
      value: what the config holds there.
      field: its row of the table.

    Raises:
      ConfigError: another type, or not a legal value.
    """
    kind = field.type or type(field.default).__name__
    if kind not in TYPES:
        return
    if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "bool"):
        raise ConfigError(path, f"got {value!r}", f"must be a {kind}")
    if isinstance(field.legal, Range):
        if field.off is None or value != field.off:
            for number in value if kind == "tuple" else (value,):
                cast(path, number, field.legal)
    elif field.legal and value not in field.legal:
        listed = "must be " + " or ".join(field.legal) if len(field.legal) == 2 else ""
        raise ConfigError(path, f"got {value!r}", listed or suggest(
            value, [name or '""' for name in field.legal]
        ))


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


def _complete(where: str, kind: str, value: Any) -> dict[str, Any]:
    """Returns a checked section such as `networks.student` with all its fields."""
    fields = section_fields(kind)
    required = tuple(name for name, field in fields.items() if field.default is REQUIRED)
    section = _section(where, value, required)
    check_known(where, section, fields)
    section = defaults(kind, **section)
    for name, field in fields.items():
        check_field(f"{where}.{name}", section[name], field)
    return section


def _network(where: str, value: Any) -> dict[str, Any]:
    section = _complete(where, "networks.*", value)
    checkpoint = section["checkpoint"]
    if not isinstance(checkpoint, str):
        if not checkpoint or not _is_names(checkpoint):
            raise ConfigError(
                f"{where}.checkpoint", f"got {checkpoint!r}", "must be a str or a tuple of str"
            )
        section["checkpoint"] = tuple(checkpoint)
    section.update(mean=tuple(section["mean"]), std=tuple(section["std"]))
    _check_pairs(f"{where}.recipe", section["recipe"], (str,), ' ("path", value)')
    return section


def _term(where: str, value: Any) -> dict[str, Any]:
    fields = section_fields("terms.*")
    section = _section(where, value, ("loss", "on"))
    check_field(f"{where}.loss", section["loss"], fields["loss"])
    if not isinstance(section["on"], list | tuple):
        raise ConfigError(f"{where}.on", f"got {section['on']!r}", "must be names of views")
    section = term(**section)
    for name, field in fields.items():
        if name not in section:
            continue
        check_field(f"{where}.{name}", section[name], field)
        if "tuple" in field.type and not isinstance(section[name], str):
            if not _is_names(section[name]):
                raise ConfigError(f"{where}.{name}", f"got {section[name]!r}", "must be names")
    return section


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _view(where: str, value: Any) -> dict[str, Any]:
    return _complete(where, "views.*", {"ops": value} if isinstance(value, str) else value)


def _check_sections(full: Mapping[str, Any]) -> None:
    for section in ("views", "networks", "terms"):
        if not full[section]:
            raise ConfigError(section, "is empty", "an experiment needs at least one entry")
        for name in full[section]:
            if not isinstance(name, str) or not name.replace("_", "a").isalnum() or name == "terms":
                raise ConfigError(
                    f"{section}.{name}", "is not a usable name", "use letters, digits and _"
                )
    networks = full["networks"]
    frozen = [name for name, section in networks.items() if not section["trainable"]]
    if len(frozen) == len(networks):
        raise ConfigError("networks", "none is trainable", "set trainable=True for the student")
    for name, section in networks.items():
        if section["trainable"] and section["checkpoint"]:
            raise ConfigError(
                f"networks.{name}.checkpoint", "is given for a trained network",
                "leave it empty, or name a frozen network of that checkpoint in `init`",
            )
        if section["init"] and not section["trainable"]:
            raise ConfigError(
                f"networks.{name}.init", "is given for a frozen network", "leave it empty"
            )
        if section["init"] and section["init"] not in frozen:
            raise ConfigError(
                f"networks.{name}.init", f"no frozen network '{section['init']}'",
                suggest(section["init"], frozen),
            )
    for field in ("phases", "population"):
        _check_pairs(field, full[field], (object,))
    _check_sets(full["eval"]["sets"])


def _check_sets(sets: Any) -> None:
    _check_pairs("eval.sets", sets, (str,), ' ("name", "source")')
    names = [name for name, _ in sets]
    for name, source in sets:
        usable = name.replace("_", "a").isalnum() and name not in ("train", "validation", "test")
        if not usable or names.count(name) > 1:
            raise ConfigError(
                "eval.sets", f"'{name}' is not a usable name",
                "give each set a name of its own, of letters, digits and _",
            )
        if not isinstance(source, str):
            raise ConfigError("eval.sets", f"got {source!r} for '{name}'", "must be a source")


def _check_pairs(
    where: str, entries: Any, first: tuple[type, ...], pair: str = ""
) -> None:
    if not isinstance(entries, list | tuple) or any(
        not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], first)
        for entry in entries
    ):
        raise ConfigError(where, f"got {entries!r}", f"must be a tuple of pairs{pair}")


def set_path(config: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Returns a copy of a plain config with the value at `path` replaced.

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
    """Returns traced numbers with some of them replaced.

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
    """Returns a number as array, or as many numbers as the old array has."""
    if not np.ndim(old):
        return cast(path, value, legal)
    if not isinstance(value, list | tuple | np.ndarray) or np.shape(value) != np.shape(old):
        raise ConfigError(path, f"got {value!r}", f"must be {np.size(old)} numbers")
    return np.stack([cast(path, number, legal) for number in np.asarray(value)])


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as it is after a way through JSON: tuples are lists."""
    return json.loads(json.dumps(config, sort_keys=True))


def fingerprint(config: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that change whenever a field changes."""
    text = json.dumps(config, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line for each path where two configs differ, apart from those in `effects.FREE`."""
    before, after = flatten(canonical(old)), flatten(canonical(new))
    lines = []
    for path in sorted({*before, *after}):
        if is_among(path, FREE):
            continue
        if before.get(path, "(absent)") != after.get(path, "(absent)"):
            lines.append(
                f"{path}: {before.get(path, '(absent)')!r} -> {after.get(path, '(absent)')!r}"
            )
    return lines


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{"train.epochs": 1.0, ...}` of a plain config; empty sections are values."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{path}": inner for path, inner in flatten(value).items()}
        else:
            flat[name] = value
    return flat
