"""Writes metrics to `metrics.jsonl` and TensorBoard, from process 0 only."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.files import name_of, parse_json, read_text
from kdaug_jax.runtime.appended import Appended
from kdaug_jax.runtime.events import Events
from kdaug_jax.runtime.retries import Retries
from kdaug_jax.runtime.workdir import (
    DISK,
    MARK,
    OTHER,
    RESULTS,
    read_json,
    require_in_place,
    run_id,
    write_whole,
)

METRICS = "metrics.jsonl"
# Between rows in the text of their digest.
_SEPARATOR = "\n"


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """Reads the rows of a run, `[{"step": ..., "member"?: ..., metric: value, ...}, ...]`."""
    path = Path(workdir) / METRICS
    if not path.exists():
        return []
    rows = []
    for line in read_text(path, "rows", errors="replace").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue  # a run that was killed leaves half a line
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def rows_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the SHA-256 of rows, in any spelling of their JSON."""
    return hashlib.sha256(_SEPARATOR.join(map(_spelled, rows)).encode()).hexdigest()


def _spelled(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def require_rows(workdir: Path) -> None:
    """Validates that a finished run still has the rows that it wrote.

    Args:
      workdir: its directory. What is no row in the file, such as half a line, is passed over.

    Raises:
      ConfigError: it has others.
    """
    mark = read_json(workdir / MARK)
    digests = mark.get("files") if isinstance(mark, dict) else None
    wanted = digests.get(METRICS) if isinstance(digests, dict) else None
    # A run that goes on after its end, with another config, has no results any more.
    if wanted and (workdir / RESULTS[0]).exists() and wanted != rows_digest(read_rows(workdir)):
        what = "does not hold the rows that the run of this directory wrote"
        raise ConfigError(str(workdir / METRICS), what, OTHER)


def read_run_id(workdir: Path) -> str | None:
    """Returns the id of the run that wrote the rows; None where they carry none."""
    for line in read_text(Path(workdir) / METRICS, "rows", errors="replace").splitlines():
        try:
            header = parse_json(line)
        except ValueError:
            continue
        if isinstance(header, dict) and isinstance(header.get("run"), str):
            return header["run"]
    return None


class Writer:
    """Writes rows of metrics; use it as a context manager.

    Rows that the disk does not take are kept and written with the next, for some minutes. What a
    checkpoint needs of them goes beside it: those that the file lacks, and the digest of all.
    """

    def __init__(
        self, workdir: Path, members: Sequence[str], start: int, *,
        noted: Mapping[str, Any] | None = None, say: Callable[[str], None] = print,
        retry_minutes: float = 0.0,
    ):
        """Opens the files; rows after step `start` are dropped, the run will write them again.

        Args:
          workdir: absolute path.
          members: names of the runs of a population, `("",)` for a plain run.
          start: the step a run resumes from, 0 for a new one.
          noted: what `notes` returned for the checkpoint of that step, if it did.
          say: prints a line.
          retry_minutes: how long the disk may refuse rows before one raises.

        Raises:
          ConfigError: the file holds other rows than the run wrote up to `start`.
        """
        self._main = jax.process_index() == 0
        self._written: set[tuple[int, str, frozenset[str]]] = set()
        if not self._main:
            return
        path = Path(workdir) / METRICS
        kept = [row for row in read_rows(workdir) if row["step"] <= start] if start else []
        kept = _completed(path, kept, noted or {}, say)
        # A run that was stopped after its last checkpoint writes the rows of that step again.
        self._written = {
            (start, row.get("member", ""), frozenset(row) - {"step", "member"})
            for row in kept
            if row["step"] == start
        }
        run = run_id(Path(workdir))
        header = [{"run": run}] if run else []
        write_whole(path, "".join(json.dumps(row) + "\n" for row in [*header, *kept]))
        self._path, self._rows = path, Appended(path)
        self._lacking: list[dict[str, Any]] = []
        self._count, self._digest = 0, hashlib.sha256()
        for row in kept:
            self._count_in(row)
        self._retries = Retries(say, retry_minutes, "its rows are kept and written with the next")
        board = Path(workdir) / "tensorboard"
        self._events = {
            member: Events(
                board / name_of(member), start,
                [row for row in kept if row.get("member", "") == member],
            )
            for member in members
        }

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._main:
            return
        # While another error propagates, a full disk must not replace it.
        suppressed = () if error[0] is None else (OSError,)
        with contextlib.ExitStack() as stack:
            for file in (self._rows, *self._events.values()):
                stack.callback(file.close)
                with contextlib.suppress(*suppressed):
                    file.flush()

    def wrote(self, step: int, members: Sequence[str], prefix: str) -> bool:
        """Returns whether all members wrote such a metric at the step the run resumes from."""
        wrote = {
            member for row, member, names in self._written
            if row == step and any(name.startswith(prefix) for name in names)
        }
        return wrote >= set(members)

    def row(self, step: int, member: str, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step; flushed, so that a killed run keeps them.

        Args:
          step: optimiser steps taken.
          member: name within the population, "" for a plain run.
          values: by metric name.

        Raises:
          CheckpointError: the working directory was moved or removed meanwhile, or the disk has
            refused rows for too long.
        """
        if not self._main or (step, member, frozenset(values)) in self._written:
            return
        require_in_place(self._path, self._rows.status())
        row = {"step": step, **({"member": member} if member else {}), **values}
        self._rows.add(json.dumps(row).encode() + b"\n")
        self._events[member].add(step, values)
        self._lacking.append(row)
        self._count_in(row)
        if error := self._flush():
            raise error

    def _count_in(self, row: Mapping[str, Any]) -> None:
        self._digest.update((_SEPARATOR if self._count else "").encode() + _spelled(row).encode())
        self._count += 1

    def _flush(self) -> CheckpointError | None:
        """Writes what waits; returns an error where the disk has refused it for too long."""
        try:
            self._rows.flush()
            self._lacking.clear()
            for events in self._events.values():
                events.flush()
        except OSError as error:
            if error.errno not in DISK:
                raise
            failure = CheckpointError(
                str(self._path), f"cannot be written ({error.strerror})",
                "make room or mend the disk, and run again to go on from the last checkpoint",
            )
            return failure if self._retries.failed(failure) else None
        self._retries.worked(f"{self._path}: all rows are written: writing works again")
        return None

    def notes(self) -> dict[str, Any]:
        """Returns what a checkpoint is to keep of the rows so far, JSON values."""
        if not self._main:
            return {}
        return {
            "count": self._count, "sha256": self._digest.hexdigest(),
            "lacking": list(self._lacking),
        }

    def sync(self) -> None:
        """Waits until the rows are on the disk itself, so that no checkpoint is there without."""
        if self._main:
            self._rows.sync()

    def finish(self) -> None:
        """Writes the rows that the disk has refused so far, once more.

        Raises:
          CheckpointError: it refuses them still.
        """
        if self._main and self._retries.failing:
            self._retries.expire()
            if error := self._flush():
                raise error


def _completed(
    path: Path, rows: list[dict[str, Any]], noted: Mapping[str, Any], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Returns the rows of a file with those that only a checkpoint holds; validates them."""
    if not noted:  # at step 0, or of an older version
        return rows
    if not path.exists():
        say(f"warning: {path} is gone: the rows up to here are lost")
        return list(noted["lacking"])
    present = set(map(_spelled, rows))
    rows = [*rows, *(row for row in noted["lacking"] if _spelled(row) not in present)]
    if rows_digest(rows[: noted["count"]]) != noted["sha256"]:
        raise ConfigError(
            str(path), "does not hold the rows that this run wrote up to its checkpoint",
            "restore it from a copy, or move it away to go on without them",
        )
    return rows
