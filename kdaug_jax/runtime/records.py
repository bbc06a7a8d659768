"""The record of a run: what it was made with, and where; written for, and read by, others.

`config.json` holds the complete config, the facts from which each network is built again and the
version of the package; `environment.json` versions and devices; `classes.json` the class names;
`results.json` the final metrics of a finished run.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import kdaug_jax
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.runtime.commit import commit
from kdaug_jax.runtime.digest import sealed, sha256_file, unsealed
from kdaug_jax.runtime.workdir import (
    CHOICE,
    MARK,
    OTHER,
    RESULTS,
    place,
    read_json,
    require_folder,
    run_id,
    write_json,
)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Of a record; results of other ones are no results of the run.
FIELDS = ("config", "networks", "members", "data")
# The version that wrote files without one.
FIRST_VERSION = "0.1"


def record(path: Path, made_with: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """Writes the files that describe a run; removes results of another config.

    Args:
      path: the working directory.
      made_with: `{"config", "networks", "members", "data"}`: the complete plain config, the facts
        from which each network is built again, the names of the runs of the population, and what
        the data set is recognised by; perhaps "contents" of its images, "frozen" inputs, and
        "changes" of the run on its way.
      class_names: in the order of their numbers.
    """
    if jax.process_index() != 0:
        return
    made_with = json.loads(json.dumps(made_with))
    stored = read_record(path)
    if stored and any(stored.get(name) != made_with.get(name) for name in FIELDS):
        for name in RESULTS:
            (path / name).unlink(missing_ok=True)
    run = {"id": run_id(path)} if run_id(path) else {}
    write_json(path / "classes.json", list(class_names))
    write_json(path / "environment.json", sealed({**run, **environment()}))
    # Written last: if it exists, the others do.
    write_json(
        path / "config.json", {"version": kdaug_jax.__version__, **sealed({**run, **made_with})}
    )


def environment() -> dict[str, Any]:
    """Returns versions, devices and the command of this process."""
    return {
        "version": kdaug_jax.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "command": sys.argv,
    }


def environment_change(path: Path) -> str:
    """Returns a line if this environment computes other bits than the one that a run stored.

    Args:
      path: the working directory; nothing is said where it stores no environment.

    Raises:
      ConfigError: what it stores is damaged.
    """
    file, now = path / "environment.json", environment()
    stored = read_json(file)
    if stored is None:
        return ""
    stored = _fields(file, stored)
    texts = stored.get("packages", {}), stored.get("devices", [])
    if not isinstance(texts[0], dict) or not isinstance(texts[1], list):
        raise ConfigError(str(file), "is not of this package", "delete it")

    def versions(of: Mapping[str, Any]) -> dict[str, str]:
        devices = f"{len(of.get('devices', ()))} × {of.get('device_kind', '?')}"
        return {
            **of.get("packages", {}), "devices": devices, "processes": str(of.get("processes")),
            "kdaug_jax": str(of.get("version")),
        }

    before, after = versions(stored), versions(now)
    if "version" not in stored:  # written by an older version of this package
        before |= {"devices": after["devices"]}
    lines = [
        f"{name} {before.get(name, 'none')} -> {version}" for name, version in after.items()
        if before.get(name) != version
    ]
    if not lines:
        return ""
    return (f"warning: {', '.join(lines)} since the run was last started: it is no longer bitwise "
            "equal to a run without a stop")


def read_results(path: Path) -> dict[str, dict[str, float]] | None:
    """Returns the final metrics of a run by member; None if it has not finished.

    Raises:
      ConfigError: results.json is not one of this package, or is damaged.
    """
    file = path / RESULTS[0]
    stored = read_json(file)
    if stored is None:
        return None
    if not isinstance(stored, dict) or not all(map(_is_result, stored.values())):
        raise ConfigError(str(file), "is not of this package", "delete it")
    require_written(path, file.name)
    return stored


def _is_result(metrics: Any) -> bool:
    """Returns whether a JSON value is the metrics of a member."""
    if not isinstance(metrics, dict):
        return False
    fault = metrics.get("failed", {"step": 0, "where": ""})
    return isinstance(fault, dict) and {"step", "where"} <= set(fault) and all(
        isinstance(value, int | float | str | None) for name, value in metrics.items()
        if name != "failed"
    )


def require_written(path: Path, name: str) -> None:
    """Validates that a file of results is the one that the run of a directory wrote.

    Args:
      path: the working directory.
      name: of the file, whose digest the mark has. Directories without a mark, and those that an
        older version wrote, have none.

    Raises:
      ConfigError: it is another one.
    """
    mark = read_json(path / MARK)
    if not isinstance(mark, dict):
        return
    files_of_run = mark.get("files")
    wanted = files_of_run.get(name) if isinstance(files_of_run, dict) else None
    if wanted != sha256_file(path / name) and not (wanted is None and mark.get("adopted")):
        raise ConfigError(
            str(path / name), "is not what the run of this directory wrote", OTHER
        )


def class_names(path: Path, stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the class names of a run in the order of their numbers; () where it has none.

    Args:
      path: the working directory.
      stored: its record, which classes.json repeats for people.

    Raises:
      ConfigError: classes.json holds other names than the record, or no list of names.
    """
    file = path / "classes.json"
    names = read_json(file)
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ConfigError(str(file), "is no list of class names", "restore it from a copy")
    recorded = stored["data"].get("class_names")
    if names and recorded and names != recorded:
        raise ConfigError(
            str(file), "names other classes than the record of the run", "restore it from a copy"
        )
    return tuple(recorded or names or ())


def read_record(path: Path) -> dict[str, Any] | None:
    """Returns the `made_with` that `record` wrote; None if there is no run.

    Raises:
      ConfigError: config.json is not of this package, or was written by another minor version.
    """
    stored = read_fields(path, require=True)
    if stored is None:
        return None
    more = {name: stored[name] for name in ("contents", "frozen", "changes") if name in stored}
    return {**{name: stored[name] for name in FIELDS[:3]}, "data": stored.get("data", {}), **more}


def read_fields(path: Path, *, require: bool = False) -> dict[str, Any] | None:
    """Returns what config.json holds, without its version; None if there is no run.

    Args:
      path: the working directory.
      require: whether it must be complete and of this minor version.

    Raises:
      ConfigError: it is not of this package, or is damaged.
    """
    file = path / "config.json"
    stored = read_json(file)
    if stored is None:
        return None
    if isinstance(stored, dict):
        version = stored.pop("version", FIRST_VERSION)
        if require and "config" in stored:
            require_version(file, version, "train again in a new --workdir")
    fields = _fields(file, stored)
    needed = [name for name in _RECORD if require or name == "config" or name in fields]
    if wrong := next((name for name in needed if not _RECORD[name](fields.get(name))), ""):
        raise ConfigError(
            str(file), f"is not of this package (it has no '{wrong}' of a run)",
            "name the directory of a run",
        )
    return fields


def _fields(file: Path, stored: Any) -> dict[str, Any]:
    if not isinstance(stored, dict):
        raise ConfigError(str(file), "is not of this package", "name the directory of a run")
    return unsealed(str(file), stored)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())


def _is_changes(changes: Any) -> bool:
    return isinstance(changes, list) and all(
        isinstance(change, dict) and isinstance(change.get("step"), int)
        and isinstance(change.get("changed"), list) for change in changes
    )


def _is_network(facts: Mapping[str, Any]) -> bool:
    """Returns whether a table describes a network, as far as any kind of them is described."""
    kinds = {"name": str, "num_classes": int, "options": dict, "trainable": bool}
    lists = [facts.get(name, []) for name in ("mean", "std")]
    return all(isinstance(facts.get(name, kind()), kind) for name, kind in kinds.items()) and all(
        isinstance(numbers, list) and all(isinstance(number, int | float) for number in numbers)
        for numbers in lists
    ) and "trainable" in facts


def _is_config(config: Any) -> bool:
    return isinstance(config, dict) and all(
        isinstance(config.get(section, {}), dict)
        for section in ("data", "eval", "train", "mesh", "checkpoint", "networks", "terms", "views")
    )


def _is_data(data: Any) -> bool:
    data = {} if data is None else data
    return isinstance(data, dict) and all(
        isinstance(data.get(part, {}), dict) for part in ("facts", "splits", "sets", "files")
    ) and _is_names(data.get("class_names", [])) and all(
        _is_table(data.get(part, {})) for part in ("splits", "sets")
    )


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


# What a record must hold, whoever wrote it; the checksum finds what was damaged within.
_RECORD: dict[str, Callable[[Any], bool]] = {
    "config": _is_config,
    "networks": lambda facts: _is_table(facts) and all(map(_is_network, facts.values())),
    "members": lambda names: _is_names(names) and bool(names),
    "data": _is_data,
    "contents": lambda digests: digests is None or isinstance(digests, dict),
    "frozen": lambda inputs: inputs is None or _is_table(inputs),
    "changes": lambda changes: changes is None or _is_changes(changes),
}


def require_version(file: Path, version: Any, again: str) -> None:
    """Validates that a file was written by this minor version of the package.

    Args:
      file: the file, for the message.
      version: version of the package that wrote it.
      again: how to make the file again, for the message.

    Raises:
      ConfigError: major or minor number differ from those of this version.
    """
    series = ".".join(str(version).split(".")[:2])
    if series != ".".join(kdaug_jax.__version__.split(".")[:2]):
        raise ConfigError(
            str(file), f"was written by kdaug_jax {version}, this is kdaug_jax "
            f"{kdaug_jax.__version__}", f"use kdaug_jax {series} to go on with it, or {again}",
        )


def read_run(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """Returns the absolute path of a run's working directory, and its record.

    Raises:
      ConfigError: there is no run.
    """
    path = place("--workdir", directory)
    if os.path.lexists(path):
        require_folder(path)
    stored = read_record(path)
    if stored is None:
        alone = path.with_name(path.name.partition(CHOICE)[0])
        raise ConfigError(
            "--workdir", f"{path} holds no run",
            f"name its folder alone, {alone}, whose newest checkpoint is taken"
            if CHOICE in path.name else "train it first",
        )
    return path, stored


def read_network(where: str, checkpoint: str, name: str = "") -> dict[str, Any]:
    """Returns the facts of a network that a working directory provides as a teacher.

    Args:
      where: config path of the network, for messages.
      checkpoint: the working directory of a finished or running run.
      name: which of its networks; by default the student, or the only one.

    Returns:
      `{"name", "num_classes", "num_branches", "mean", "std", "network", "averaged"}`: how to
      build the network, its name inside that run, and whether averaged weights are kept.

    Raises:
      ConfigError: there is no such directory, or it holds no single student.
    """
    path = place(f"{where}.checkpoint", checkpoint)
    stored = read_record(path)
    if stored is None:
        raise ConfigError(
            f"{where}.checkpoint", f"'{checkpoint}' is not a working directory of a run",
            "train or import that network first, or leave it empty to have it trained",
        )
    trained = {key: facts for key, facts in stored["networks"].items() if facts["trainable"]}
    name = name or ("student" if len(trained) > 1 else next(iter(trained)))
    if name not in trained:
        raise ConfigError(
            f"{where}.checkpoint", f"{checkpoint} trained no '{name}'", suggest(name, trained)
        )
    return {**trained[name], "network": name}
