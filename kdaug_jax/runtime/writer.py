"""Writes metrics to `metrics.jsonl` and TensorBoard, from process 0 only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from kdaug_jax.errors import ConfigError
from kdaug_jax.files import name_of, parse_json, read_text
from kdaug_jax.runtime.workdir import (
    MARK,
    OTHER,
    RESULTS,
    read_json,
    require_in_place,
    run_id,
    write_whole,
)

METRICS = "metrics.jsonl"
# The length of a record of TensorBoard's files.
_HEADER = struct.Struct("<Q")


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
    text = "\n".join(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


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


@contextlib.contextmanager
def _absent(module: str) -> Iterator[None]:
    """Makes the import of a module fail, as if it were not installed, unless it is imported."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None
    try:
        yield
    finally:
        del sys.modules[module]


class _Events:
    """TensorBoard's file of one run.

    Written by the thread that calls: tensorboardX's own writer has a thread that dies on a full
    disk, and a queue that then blocks the run for ever. What is written reaches the system at once,
    so that a killed run loses none.
    """

    def __init__(self, directory: Path, start: int, rows: Sequence[Mapping[str, Any]]):
        """Opens a new file, and writes into it what those before lack.

        Args:
          directory: of the files of this member.
          start: the step the run resumes from, 0 for a new one.
          rows: that the files are to hold up to that step.
        """
        # Where PyTorch is installed, tensorboardX imports it to recognise its tensors, which takes
        # a second and is not needed here.
        with _absent("torch"):
            from tensorboardX.proto import event_pb2
            from tensorboardX.record_writer import RecordWriter
            from tensorboardX.summary import scalar

        directory.mkdir(parents=True, exist_ok=True)
        held = _held(directory, event_pb2) if rows else set()
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{start}"
        self._file = RecordWriter(str(directory / name))
        self._event, self._scalar = event_pb2.Event, scalar
        self._write(0, file_version="brain.Event:2")
        if start:  # what a killed run wrote after that step does not count
            begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(start + 1, session_log=begin)
        for row in rows:
            self.add(row["step"], {
                name: value for name, value in row.items()
                if name not in ("step", "member") and (row["step"], name) not in held
            })

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        # Its own `flush` also waits for the disk, which may take longer than many steps.
        self._file._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        self._file.close()


def _held(directory: Path, event_pb2: Any) -> set[tuple[int, str]]:
    """Returns steps and names of the points that TensorBoard shows of a folder's files."""
    held: set[tuple[int, str]] = set()
    for path in sorted(directory.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place + _HEADER.size <= len(content):
            (length,) = _HEADER.unpack_from(content, place)
            start = place + _HEADER.size + 4  # checksums follow length and content
            place = start + length + 4
            if place > len(content):
                break  # a run that was killed leaves half a record
            try:
                event = event_pb2.Event.FromString(content[start : start + length])
            except Exception:  # DecodeError of protobuf, which is not imported here
                break
            if event.session_log.status == event_pb2.SessionLog.START:
                held = {point for point in held if point[0] < event.step}
            held |= {(event.step, value.tag) for value in event.summary.value}
    return held


class Writer:
    """Writes rows of metrics; use it as a context manager."""

    def __init__(self, workdir: Path, members: Sequence[str], start: int):
        """Opens the files; rows after step `start` are dropped, the run will write them again.

        Args:
          workdir: absolute path.
          members: names of the runs of a population, `("",)` for a plain run.
          start: the step a run resumes from, 0 for a new one.
        """
        self._main = jax.process_index() == 0
        self._written: set[tuple[int, str, frozenset[str]]] = set()
        if not self._main:
            return
        path = Path(workdir) / METRICS
        kept = [row for row in read_rows(workdir) if row["step"] <= start] if start else []
        # A run that was stopped after its last checkpoint writes the rows of that step again.
        self._written = {
            (start, row.get("member", ""), frozenset(row) - {"step", "member"})
            for row in kept
            if row["step"] == start
        }
        run = run_id(Path(workdir))
        header = [{"run": run}] if run else []
        write_whole(path, "".join(json.dumps(row) + "\n" for row in [*header, *kept]))
        self._path, self._rows = path, open(path, "a", encoding="utf-8")
        board = Path(workdir) / "tensorboard"
        self._events = {
            member: _Events(
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
        with contextlib.suppress(*suppressed), contextlib.ExitStack() as files:
            for file in (self._rows, *self._events.values()):
                files.callback(file.close)

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
          CheckpointError: the working directory was moved or removed meanwhile.
        """
        if not self._main or (step, member, frozenset(values)) in self._written:
            return
        require_in_place(self._path, os.fstat(self._rows.fileno()))
        named = {"member": member} if member else {}
        self._rows.write(json.dumps({"step": step, **named, **values}) + "\n")
        self._rows.flush()
        self._events[member].add(step, values)
