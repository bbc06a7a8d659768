"""TensorBoard's files of a run."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.files import read_bytes
from kdaug_jax.runtime.appended import Appended

# The length of a record, and a checksum.
_HEADER, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


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


class Events:
    """TensorBoard's file of one member.

    Written by the thread that calls: tensorboardX's own writer has a thread that dies on a full
    disk, and a queue that then blocks the run for ever.
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
            from tensorboardX.record_writer import masked_crc32c
            from tensorboardX.summary import scalar

        directory.mkdir(parents=True, exist_ok=True)
        known = held(directory, event_pb2) if rows else set()
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{start}"
        self._file = Appended(directory / name)
        self._event, self._scalar, self._checksum = event_pb2.Event, scalar, masked_crc32c
        self._write(0, file_version="brain.Event:2")
        if start:  # what a killed run wrote after that step does not count
            begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(start + 1, session_log=begin)
        for row in rows:
            self.add(row["step"], {
                name: value for name, value in row.items()
                if name not in ("step", "member") and (row["step"], name) not in known
            })

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the points of a step, for the next flush to write."""
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))

    def _write(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content).SerializeToString()
        length = _HEADER.pack(len(event))
        self._file.add(b"".join((
            length, _CHECKSUM.pack(self._checksum(length)),
            event, _CHECKSUM.pack(self._checksum(event)),
        )))

    def flush(self) -> None:
        """Writes the points that wait; see `Appended.flush`."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file; what still waits is dropped."""
        self._file.close()


def held(directory: Path, event_pb2: Any) -> set[tuple[int, str]]:
    """Returns steps and names of the points that TensorBoard shows of a folder's files."""
    points: set[tuple[int, str]] = set()
    for path in sorted(directory.glob("events.out.tfevents.*")):
        content, place = read_bytes(path, "rows"), 0
        while place + _HEADER.size <= len(content):
            (length,) = _HEADER.unpack_from(content, place)
            start = place + _HEADER.size + _CHECKSUM.size  # checksums follow length and content
            place = start + length + _CHECKSUM.size
            if place > len(content):
                break  # a run that was killed leaves half a record
            try:
                event = event_pb2.Event.FromString(content[start : start + length])
            except Exception:  # DecodeError of protobuf, which is not imported here
                break
            if event.session_log.status == event_pb2.SessionLog.START:
                points = {point for point in points if point[0] < event.step}
            points |= {(event.step, value.tag) for value in event.summary.value}
    return points
