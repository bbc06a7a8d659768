"""The working directory of a run: the files that describe it, its lock, and writing to its disk.

`config.json` holds the complete config, the facts from which each network is built again and the
version of the package; `environment.json` versions and devices; `classes.json` the class names;
`results.json` the final metrics of a finished run, `results.npz` the arrays among them;
`kdaug_jax.json` the mark of the run, see `runtime.mark`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

import kdaug_jax
from kdaug_jax import files
from kdaug_jax.errors import CheckpointError, ConfigError, suggest
from kdaug_jax.runtime import processes
from kdaug_jax.runtime.digest import sealed, sha256_file, unsealed

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Errors of a disk that is full, broken, gone or not writable.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS,
        errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)
MARK = "kdaug_jax.json"
RESULTS = ("results.json", "results.npz")
OTHER = "name another --workdir, or move it away"
# Of a record; results of other ones are no results of the run.
FIELDS = ("config", "networks", "members", "data")
# The version that wrote files without one.
FIRST_VERSION = "0.1"
# File systems whose locks may hold among the processes of one host alone.
NETWORK = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "nfs",
    "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs", "wekafs",
)
# Folders and files that a run writes into its directory.
FOLDERS = ("checkpoints", "tensorboard", "evaluations", "export")
WRITTEN = ("classes.json", "config.json", "environment.json", "metrics.jsonl", "results.json",
           "results.npz", MARK)
PARTIAL = ".partial"
# Separates a directory from the state of its run that is meant, see `experiment.frozen.places`.
CHOICE = "@"
# Of a lock's content that are read; it holds a host and a process.
LOCK_BYTES = 4096
FULL = (errno.ENOSPC, errno.EDQUOT)


def place(where: str, path: str | Path) -> Path:
    """Returns the absolute path of a text; nothing need exist there.

    Raises:
      ConfigError: the text cannot be a path, see `files.expanded`.
    """
    return files.expanded(where, path).absolute()


def write_whole(path: Path, text: str) -> None:
    """Writes a file all at once: no reader sees half of it, and a full disk leaves the old one."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], members: Sequence[str]) -> None:
    """Writes arrays as a NumPy file all at once; without arrays the file goes.

    Args:
      path: the file.
      arrays: by `<number of the member>/<name>`.
      members: their names by number, stored as `members`.
    """
    if not arrays:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays, members=np.array(members))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON all at once."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Returns the JSON value of a file; None if it is absent."""
    try:
        return files.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        what = f"cannot be read as JSON ({reason})"
        raise ConfigError(str(path), what, "restore it from a copy, or delete it") from None


def require_folder(path: Path) -> None:
    """Validates that a folder lies at a path, or that one can be made there.

    Raises:
      ConfigError: it is something else, or lies below something else.
    """
    there = next(part for part in (path, *path.parents) if os.path.lexists(part))
    if not there.is_dir():
        what = "is a link that leads nowhere" if not there.exists() else "is no folder"
        raise ConfigError(str(there), what, "move it away, or name another folder")


def make(workdir: str | os.PathLike[str]) -> Path:
    """Makes a working directory and checks that it can be written.

    Returns:
      Its absolute path.

    Raises:
      ConfigError: it cannot be made or written.
    """
    path = place("--workdir", workdir)
    _require_utf8(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{socket.gethostname()}-{os.getpid()}"
        try:
            probe.write_text("A full disk takes an empty file, so this one is not.\n")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        what = f"{path} cannot be written ({error.strerror})"
        if error.errno in FULL:
            raise CheckpointError("--workdir", what, "make room or name another folder") from None
        raise ConfigError("--workdir", what, "name another folder") from None
    return path


def _require_utf8(path: Path) -> None:
    """Validates that the library that writes arrays can be given a path."""
    if sys.getfilesystemencoding() != "utf-8" and not str(path).isascii():
        what = "is not ASCII, and this locale knows no other letters"
        raise ConfigError("--workdir", f"{path} {what}", "set PYTHONUTF8=1, or name another folder")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        what = f"{path} has bytes that are not UTF-8, where no arrays can be written"
        raise ConfigError("--workdir", what, "name another folder") from None


def require_in_place(path: Path, status: os.stat_result) -> None:
    """Validates that a file or folder lies where it was opened.

    Args:
      path: where.
      status: of what was opened there.

    Raises:
      CheckpointError: the working directory was moved or removed while the run wrote to it.
    """
    try:
        if os.path.samestat(os.stat(path), status):
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        return  # it is not known; what is written next will tell
    raise CheckpointError(
        str(path.parent), f"was moved or removed while the run wrote to it ({path.name})",
        "move it back, or run again with its new place as --workdir, to go on from the last "
        "checkpoint",
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises CheckpointError for errors of the disk within the block.

    Args:
      path: where files are written.

    Raises:
      CheckpointError: the disk is full or failed; the same exit status whether a checkpoint or a
        row of metrics was being written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK or not _concerns(error, path):
            raise
        raise CheckpointError(
            str(error.filename or path), f"cannot be written ({error.strerror})",
            "make room or mend the disk, and run again to go on from the last checkpoint",
        ) from error


def _concerns(error: OSError, path: Path) -> bool:
    """Returns whether an error is of a file below `path`, or of a disk without a file's name."""
    if not isinstance(error.filename, str | os.PathLike):
        return True
    file, path = Path(error.filename).resolve(), path.resolve()
    # A file that is only read, such as one that a loss of the user's opens, is not ours to explain.
    return file.is_relative_to(path) or path.is_relative_to(file)


def require_room(directory: Path, state: Any) -> None:
    """Validates that the disk has room for a checkpoint.

    Args:
      directory: of the checkpoints; it need not exist yet.
      state: the contents of one checkpoint, arrays or their shapes. Orbax compresses it, but
        weights hardly shrink.

    Raises:
      CheckpointError: less is free than one checkpoint needs.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def look() -> None:
        place = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise CheckpointError(
                str(directory), f"{free:,} bytes are free, a checkpoint needs {needed:,}",
                "make room or name another --workdir",
            )

    processes.on_first(look)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a working directory against a second run; within the block, see `writing` too.

    The kernel's lock on the file `lock` ends with the process that holds it, and decides. The file
    names host and process for messages, and for hosts that share the directory over a network,
    where the kernel's lock may be of one host alone.

    Args:
      path: the working directory.

    Raises:
      ConfigError: another run holds it, or the file system has no locks.
      CheckpointError: within the block the disk was full or failed.
    """
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(_lock(path)))
        yield


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    this = {"host": socket.gethostname(), "pid": os.getpid()}
    with writing(path), contextlib.ExitStack() as stack:
        while True:
            if (path / "lock").exists() and not (path / "lock").is_file():
                raise ConfigError(str(path / "lock"), "is no file", "delete it")
            file = stack.enter_context(open(path / "lock", "a+", errors="replace"))
            free = _flock(path, file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path / "lock")):
                    break  # and not the one that a run removed as it was refused
        file.seek(0)
        holder = _holder(file.read(LOCK_BYTES))
        elsewhere = holder.get("host", this["host"]) != this["host"]
        if not free or elsewhere and file_system(path) in NETWORK:
            raise ConfigError(
                "--workdir",
                f"{path} is in use by process {holder.get('pid', '(unknown)')} "
                f"on {holder.get('host', this['host'])}",
                f"if that run is gone, delete {path / 'lock'}" if elsewhere
                else "use another --workdir, or wait",
            )
        file.truncate(0)
        file.write(json.dumps(this))
        file.flush()
        for name in WRITTEN:  # a run that was killed may have left them
            path.joinpath(name + PARTIAL).unlink(missing_ok=True)
        try:
            yield
        finally:
            file.truncate(0)
            _leave_no_trace(path)


def _flock(path: Path, file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigError(
            "--workdir", f"{path} cannot be locked ({error.strerror})", "name another folder"
        ) from None
    return True


def file_system(path: Path) -> str:
    """Returns the type of the file system that a path lies on, such as "ext4"; "" if unknown."""
    best, kind = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    resolved = path.resolve()
    for line in lines:
        fields, _, more = line.partition(" - ")
        place = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
        # Of two mounts at one place the later covers the other.
        if resolved.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), more.split()[0]
    return "fuse" if kind.startswith("fuse.") else kind


def _leave_no_trace(path: Path) -> None:
    """Removes what a run left that was refused: empty folders, and the lock if it is alone."""
    for folder in (*path.glob("tensorboard/*"), *(path / name for name in FOLDERS)):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty
    with contextlib.suppress(OSError):
        if [file.name for file in path.iterdir()] == ["lock"]:
            (path / "lock").unlink()


@contextlib.contextmanager
def unless_refused(path: Path) -> Iterator[None]:
    """Removes the folders on the way to a working directory that are new and stay empty.

    Args:
      path: the working directory, absolute; it is made within the block.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in new:
                folder.rmdir()
        raise


def _holder(held: str) -> dict[str, Any]:
    """Returns the host and process that a lock file names; {} if it names none."""
    try:
        holder = files.parse_json(held)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


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


def run_id(path: Path) -> str:
    """Returns the id of the run in a directory; "" where it is not marked."""
    mark = read_json(path / MARK)
    return str(mark.get("id", "")) if isinstance(mark, dict) else ""


def environment() -> dict[str, Any]:
    """Returns versions, devices and the command of this process."""
    return {
        "version": kdaug_jax.__version__,
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
