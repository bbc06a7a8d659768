"""The lock of a working directory: one run at a time writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax import files
from kdaug_jax.errors import ConfigError, InUse
from kdaug_jax.runtime import processes
from kdaug_jax.runtime.workdir import FOLDERS, PARTIAL, WRITTEN, writing

# File systems whose locks may hold among the processes of one host alone.
NETWORK = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre", "nfs",
    "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs", "wekafs",
)
# Of a lock's content that are read; it holds a host and a process.
LOCK_BYTES = 4096


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a working directory against a second run; within the block, see `writing` too.

    The kernel's lock on the file `lock` ends with the process that holds it, and decides. The file
    names host and process for messages, and for hosts that share the directory over a network,
    where the kernel's lock may be of one host alone.

    Args:
      path: the working directory.

    Raises:
      InUse: another run holds it.
      ConfigError: the file system has no locks.
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
            raise InUse(
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


def _holder(held: str) -> dict[str, Any]:
    """Returns the host and process that a lock file names; {} if it names none."""
    try:
        holder = files.parse_json(held)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
