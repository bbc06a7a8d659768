"""The working directory of a run: its place, the files in it, and writing to its disk.

See `runtime.record` for what describes a run, `runtime.lock` and `runtime.mark`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import files
from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.runtime import processes

# Errors of a disk that is full, broken, gone or not writable.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS,
        errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)
MARK = "kdaug_jax.json"
RESULTS = ("results.json", "results.npz")
OTHER = "name another --workdir, or move it away"
# Folders and files that a run writes into its directory.
FOLDERS = ("checkpoints", "tensorboard", "evaluations", "export")
WRITTEN = ("classes.json", "config.json", "environment.json", "metrics.jsonl", "results.json",
           "results.npz", MARK)
PARTIAL = ".partial"
# Separates a directory from the state of its run that is meant, see `experiment.frozen.places`.
CHOICE = "@"
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


class Streamed(NamedTuple):
    """An array that is written part by part, so that it need not fit into memory.

    Attributes:
      name: within the file.
      count: of its rows.
      parts: at least one, `[n,...]` each; together they have `count` rows.
    """

    name: str
    count: int
    parts: Iterator[np.ndarray]


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], members: Sequence[str],
    streamed: Sequence[Streamed] = (),
) -> None:
    """Writes arrays as a NumPy file all at once; without arrays the file goes.

    Args:
      path: the file.
      arrays: by `<number of the member>/<name>`.
      members: their names by number, stored as `members`.
      streamed: further arrays, written in this order.
    """
    if not arrays and not streamed:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays, members=np.array(members))
        if streamed:
            with zipfile.ZipFile(partial, "a") as archive:
                for array in streamed:
                    _write_parts(archive, array)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_parts(archive: zipfile.ZipFile, array: Streamed) -> None:
    parts = iter(array.parts)
    first = next(parts)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False,
              "shape": (array.count, *first.shape[1:])}
    with archive.open(f"{array.name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in itertools.chain((first,), parts):
            file.write(part.tobytes())


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
        # Without its mark a directory is not known as that of a run.
        delete = "" if path.name == MARK else ", or delete it"
        raise ConfigError(str(path), what, f"restore it from a copy{delete}") from None


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


def run_id(path: Path) -> str:
    """Returns the id of the run in a directory; "" where it is not marked."""
    mark = read_json(path / MARK)
    return str(mark.get("id", "")) if isinstance(mark, dict) else ""
