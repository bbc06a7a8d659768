"""The mark of a working directory, by which a run knows its files from those of others.

`kdaug_jax.json` holds a random id. `config.json`, `environment.json`, `metrics.jsonl` and the
checkpoints carry it; of `results.json`, `results.npz` and the rows of a finished run the mark holds
the digests.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.files import open_file, parse_json, refusals, unlike_file
from kdaug_jax.runtime import agreement, processes, records, workdir
from kdaug_jax.runtime.digest import sealed, sha256_file, unsealed
from kdaug_jax.runtime.processes import on_first
from kdaug_jax.runtime.workdir import CHOICE, MARK, OTHER, RESULTS, read_json, write_json
from kdaug_jax.runtime.writer import (
    METRICS,
    read_rows,
    read_run_id,
    require_rows,
    rows_digest,
)

# What runs write into their directory; other files in it are left alone.
NAMES = (
    "checkpoints", "classes.json", "config.json", "environment.json", "evaluations",
    "evaluations.json", "export",
    METRICS, "preview.png", *RESULTS, "tensorboard",
)


def make(directory: str | Path) -> Path:
    """Makes a working directory; see `workdir.make` and `check`.

    Returns:
      Its absolute path.
    """
    path = workdir.place("--workdir", directory)
    _require_name(path)
    check(path)
    return workdir.make(path)


def _require_name(path: Path) -> None:
    """Validates that a directory which is to be made is not named like a state of a run."""
    for part in (path, *path.parents):
        if CHOICE in part.name and not part.exists():
            alone = part.with_name(part.name.partition(CHOICE)[0])
            raise ConfigError(
                "--workdir", f"{part} names a state of a run, not a folder to write to",
                f"name the folder alone, {alone}; a teacher is named "
                f"networks.teacher.checkpoint={part}",
            )


@contextlib.contextmanager
def made(directory: str | Path) -> Iterator[Path]:
    """Makes a working directory for the block, see `make`; one that is refused leaves no folder.

    Yields:
      Its absolute path.
    """
    with workdir.unless_refused(workdir.place("--workdir", directory)):
        path = make(directory)
        agreement.require_shared(path, processes.limits().shared)
        yield path


@refusals()
def check(path: Path) -> None:
    """Validates that what lies in a directory is of one run of this package, or none of a run.

    Args:
      path: the directory, absolute; it need not exist.

    Raises:
      ConfigError: files with names that a run writes are there, but no mark and no record of an
        older version, or they carry another id.
      CheckpointError: the checkpoints that the run had are gone.
    """
    workdir.require_folder(path)
    mark = read(path)
    present = [name for name in NAMES if _holds(path / name)]
    for name in present:
        _require_kind(path / name)
    if mark is not None:
        for name in present:
            _check_id(path / name, mark)
    elif present and not _of_older_version(path):
        raise ConfigError(
            "--workdir", f"{path} holds {present[0]}, but not the mark of a run ({MARK})",
            "name another folder: nothing is overwritten",
        )
    elif _is_foreign_lock(path / "lock"):
        raise ConfigError(
            "--workdir", f"{path} holds a file 'lock' that is not of a run", "name another folder"
        )
    finished = present and RESULTS[0] in present and "checkpoints" not in present
    if finished or (mark and mark.get("saved") and "checkpoints" not in present):
        raise CheckpointError(
            str(path / "checkpoints"), "the checkpoints of this run are gone",
            "restore them, or start over in a new --workdir: nothing is overwritten",
        )


def read(path: Path) -> dict[str, Any] | None:
    """Returns the mark of a directory; None where there is none.

    Raises:
      ConfigError: it is not of this package.
    """
    mark = read_json(path / MARK)
    if mark is None:
        return None
    mark = unsealed(str(path / MARK), mark) if isinstance(mark, dict) else {}
    if not isinstance(mark.get("id"), str) or not isinstance(mark.get("files", {}), dict):
        raise ConfigError(str(path / MARK), "is not of this package", "name another --workdir")
    return mark


def _write(path: Path, mark: Mapping[str, Any]) -> None:
    write_json(path / MARK, sealed(mark))


def claim(path: Path, say: Callable[[str], None]) -> None:
    """Marks a directory that has no mark yet; call it while the directory is locked.

    Args:
      path: the directory, which `check` passed.
      say: tells that a directory of an older version is adopted.
    """
    def mark() -> None:
        if read(path) is None:
            older = (path / "config.json").exists()
            if older:
                say(f"{path}: a run of an older version of this package goes on here; "
                    f"its directory is marked ({MARK})")
            _write(path, {"id": uuid.uuid4().hex, "adopted": older})

    on_first(mark)


def note_saved(path: Path) -> None:
    """Notes that a run has checkpoints, so that it is noticed if they are gone later."""
    mark = read(path)
    if mark and not mark.get("saved"):
        _write(path, {**mark, "saved": True})


def write_results(
    path: Path, results: Mapping[str, Any], arrays: Mapping[str, np.ndarray],
    members: Sequence[str],
) -> None:
    """Writes the results of a run, in process 0, and their digests into its mark.

    Args:
      path: the working directory.
      results: final metrics by member.
      arrays: by `<number of the member>/<name>`; without any there is no results.npz.
      members: their names by number.
    """
    if jax.process_index() == 0:
        write_json(path / RESULTS[0], results)
        workdir.write_arrays(path / RESULTS[1], arrays, members)
        digests = {name: sha256_file(path / name) for name in RESULTS if (path / name).exists()}
        digests[METRICS] = rows_digest(read_rows(path))
        if mark := read(path):
            _write(path, {**mark, "files": digests})


def _require_kind(path: Path) -> None:
    """Validates that a name which a run writes is a file, or a folder."""
    if path.name in workdir.FOLDERS:
        workdir.require_folder(path)
    elif what := unlike_file(path):
        raise ConfigError(str(path), what, "delete it, or name another --workdir")


def _holds(path: Path) -> bool:
    """Returns whether something lies at a path: a file, or a folder that is not empty."""
    if path.name in workdir.FOLDERS and path.is_dir():
        return any(path.iterdir())
    return os.path.lexists(path)


def _of_older_version(path: Path) -> bool:
    """Returns whether the directory has the record of a run that was not marked."""
    return records.read_record(path) is not None and "id" not in read_json(path / "config.json")


def _check_id(file: Path, mark: dict[str, Any]) -> None:
    if file.name in RESULTS:
        if file.name == RESULTS[0]:
            records.read_results(file.parent)  # one that is damaged is told as such
        records.require_written(file.parent, file.name)
        return
    if file.name == METRICS:
        require_rows(file.parent)
        other = read_run_id(file.parent)
    elif file.name in ("config.json", "environment.json"):
        stored = read_json(file)
        other = stored.get("id") if isinstance(stored, dict) else None
    else:
        return
    require_same(file.parent, file, other)


def require_same(path: Path, file: Path, run: str | None) -> None:
    """Validates that a file in a working directory carries the id of its run.

    Args:
      path: the directory.
      file: in it.
      run: the id that the file carries; none is right in a directory that an older version wrote,
        and where there is no mark yet.

    Raises:
      ConfigError: it is of another run.
    """
    mark = read(path)
    if mark and run != mark["id"] and (run or not mark.get("adopted")):
        whose = f"is of the run {run[:8]}" if run else "is of no run"
        what = f"{whose}, and the directory of the run {mark['id'][:8]}"
        raise ConfigError(str(file), what, OTHER)


def _is_foreign_lock(file: Path) -> bool:
    """Returns whether a file of the lock's name holds something else than a lock."""
    try:
        with open_file(file, "record") as opened:
            text = opened.read(4096).decode(errors="replace").strip("\0 \n")
        return bool(text) and not isinstance(parse_json(text).get("pid"), int)
    except FileNotFoundError:
        return False
    except OSError as error:  # a named pipe, or one that may not be read
        return not isinstance(error, PermissionError)
    except (ValueError, AttributeError):
        return True
