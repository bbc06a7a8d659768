"""Every file that a user or a run left is opened here: regular, and of bounded size.

Opening a named pipe waits for its writer and reading a device never ends, so neither is opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kdaug_jax.errors import ConfigError, UserError, printable

# Bytes that a file of a kind may have, far more than any has; None for shards and arrays, which
# are read in parts or mapped into memory.
BOUNDS: dict[str, int | None] = {
    "program": 16 << 20,  # configs, which are Python
    "policy": 16 << 20,  # policies and schedules in JSON, whose lines are searched again
    "record": 256 << 20,  # JSON of a run: config, card, mark, manifest, results
    "text": 1 << 30,  # class names, labels, descriptions of data sets
    "rows": 4 << 30,  # metrics.jsonl
    "image": 1 << 30,  # the largest image that is decoded has 512 MiB as RGBA
    "weights": 16 << 30,  # checkpoints from elsewhere, functions, pickles: held in memory
    "array": None,
    "shard": None,
}
# What a path leads to that is no regular file.
_OTHERS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
# Errors of paths, which name what the user can mend.
_PATHS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)
# `gs://bucket/x`; also as `Path` writes it, with a single slash.
# What makes a bucket or a disk of another machine a folder, see docs/launch.md.
MOUNTS = "NFS, Filestore or gcsfuse"
_ADDRESS = re.compile(r"(gs|s3|az|hdfs|https?|ftp|file):/")
# Bytes of a file's name: most file systems have 255, and suffixes must find room.
LONGEST_NAME = 200
# Bytes in which the record at the end of an archive lies, with the longest comment.
_END_BYTES = 22 + (1 << 16)


class NotAFileError(OSError):
    """A pipe, a socket or a device, or more bytes than files of a kind have."""


def open_file(path: str | os.PathLike[str], kind: str) -> BinaryIO:
    """Opens a file for reading.

    Args:
      path: the file.
      kind: a key of `BOUNDS`.

    Returns:
      The open file, buffered.

    Raises:
      OSError: it cannot be read, is no regular file, or is larger than files of its kind are; its
        `strerror` says which, and which right is missing where.
    """
    try:
        # Devices may act when they are opened, so none is; the second look is at what was opened.
        _require_file(os.stat(path), path, kind)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_file(os.fstat(descriptor), path, kind)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise explained(error, path) from None
    except ValueError as error:  # a byte 0 in the path
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None


def _require_file(status: os.stat_result, path: str | os.PathLike[str], kind: str) -> None:
    for holds, what in _OTHERS:
        if holds(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, what, os.fspath(path))
            raise NotAFileError(errno.EINVAL, what, os.fspath(path))
    _require_bound(status.st_size, path, kind)


def unlike_file(path: str | os.PathLike[str]) -> str:
    """Returns what lies at a path where something does that is no regular file; "" for a file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link that leads nowhere"
    return next((what for holds, what in _OTHERS if holds(mode)), "")


def _require_bound(size: int, path: str | os.PathLike[str], kind: str) -> None:
    bound = BOUNDS[kind]
    if bound is not None and size > bound:
        what = f"has more than {bound:,} bytes, which no file of its kind has"
        raise NotAFileError(errno.EINVAL, what, os.fspath(path))


def require_file(path: str | os.PathLike[str], kind: str) -> None:
    """Validates that a file can be read, for libraries that open it themselves.

    Raises:
      OSError: see `open_file`.
    """
    open_file(path, kind).close()


def read_bytes(path: str | os.PathLike[str], kind: str) -> bytes:
    """Returns the content of a file; see `open_file`."""
    with open_file(path, kind) as file:
        content = file.read(os.fstat(file.fileno()).st_size + 1)
        parts, count = [content], len(content)
        # Files of /proc have no size and may have no end.
        while more := file.read(1 << 20):
            parts.append(more)
            count += len(more)
            _require_bound(count, path, kind)
    return content if len(parts) == 1 else b"".join(parts)


def read_text(
    path: str | os.PathLike[str], kind: str, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """Returns a text, with line ends as Python has them.

    Raises:
      OSError: see `open_file`.
      UnicodeDecodeError: it is not in that encoding.
    """
    text = read_bytes(path, kind).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike[str], kind: str = "record") -> Any:
    """Returns the JSON value of a file.

    Raises:
      OSError: see `open_file`.
      ValueError: it is not JSON, or nested too deeply.
    """
    return parse_json(read_text(path, kind))


def parse_json(text: str, **options: Any) -> Any:
    """Returns a JSON value; `json.loads` whose every error is a ValueError."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def explained(error: OSError, path: str | os.PathLike[str] | None = None) -> OSError:
    """Returns an error whose `strerror` says what is wrong with the path.

    Args:
      error: of the system.
      path: that was used; by default the one that the error names.
    """
    path = error.filename if path is None else path
    if isinstance(error, NotAFileError) or not isinstance(path, str | bytes | os.PathLike):
        return error
    what = error.strerror
    if error.errno == errno.EACCES:
        what = _missing_right(os.fsdecode(path)) or what
    elif error.errno == errno.ELOOP:
        what = "its links lead back to themselves"
    elif error.errno == errno.ENAMETOOLONG:
        what = "it is too long for a path"
    return OSError(error.errno, what, path)


def reason(error: BaseException) -> str:
    """Returns what an error says, without the number and the path that those of the system add."""
    return getattr(error, "strerror", None) or str(error)


def _missing_right(path: str) -> str:
    """Returns which right is missing on which part of a path; "" if none is."""
    path = os.path.abspath(path)
    parts = path.split(os.sep)
    for count in range(1, len(parts)):
        folder = os.sep.join(parts[:count]) or os.sep
        if not os.access(folder, os.X_OK, effective_ids=True):
            return f"no right to enter (x) the folder {printable(folder)}"
    if not os.access(path, os.R_OK, effective_ids=True):
        return f"no right to read (r) {printable(path)}"
    if os.path.isdir(path) and not os.access(path, os.X_OK, effective_ids=True):
        return f"no right to enter (x) the folder {printable(path)}"
    return ""


@contextlib.contextmanager
def refusals(kind: type[UserError] = ConfigError) -> Iterator[None]:
    """Turns errors of rights, names, links and kinds of paths within the block into one line.

    Args:
      kind: of the error.

    Raises:
      UserError: of that kind; any other exception is passed on.
    """
    try:
        yield
    except OSError as error:
        mendable = isinstance(error, NotAFileError) or error.errno in _PATHS
        if not mendable or error.filename is None:
            raise
        place = os.fsdecode(error.filename)
        place = place if len(place) <= LONGEST_NAME else f"{place[:40]}…"
        what = f"cannot be used ({explained(error).strerror})"
        raise kind(place, what, "check the path and who may read it") from error


def expanded(
    where: str, text: str | os.PathLike[str], kind: type[UserError] = ConfigError
) -> Path:
    """Returns the path that a text of a user means, with `~` for the home folder.

    Args:
      where: flag or config path of the text, for messages.
      text: the path; nothing need lie there.
      kind: of the error.

    Raises:
      UserError: of that kind; no home folder is known, the text cannot be a path or is the address
        of another machine (`gs://`), its links lead back to themselves, a folder on the way may not
        be entered, or a name on the way is there in another Unicode form only.
    """
    if _ADDRESS.match(str(text)):
        what = f"'{text}' is an address, not a path"
        raise kind(where, what, f"name a folder where it is mounted by {MOUNTS}")
    try:
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        if other := _alike(path):
            what = f"{ascii(str(text))} is not there, but {ascii(other)} of another Unicode form is"
            raise kind(where, what, "write the name as it is stored, or rename it") from None
    except RuntimeError:
        what = f"'{text}' begins with a home folder, which is not known"
        raise kind(where, what, "set HOME, or write the path out") from None
    except ValueError as error:  # a byte 0
        raise kind(where, f"{str(text)!r} is no path ({error})", "name another") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            what = f"'{str(text)[:40]}…' is too long for a path"
            raise kind(where, what, "name another") from None
        if error.errno in _PATHS:
            what = f"{text} cannot be used ({explained(error, path).strerror})"
            raise kind(where, what, "check the path and who may read it") from None
    return path


def _alike(path: Path) -> str:
    """Returns the name beside the first part that is absent which looks like it; "" for none."""
    for part in (*reversed(path.absolute().parents), path.absolute()):
        if part.exists() or os.path.lexists(part):
            continue
        if part.name.isascii():
            return ""
        form = unicodedata.normalize("NFC", part.name)
        beside = os.listdir(part.parent) if part.parent.is_dir() else []
        return next((name for name in beside if unicodedata.normalize("NFC", name) == form), "")
    return ""


def read_npz(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns arrays of an .npz file, each compared with its checksum.

    NumPy's own reader compares none where a damaged header asks for fewer bytes than there are.

    Args:
      path: the file.
      names: of the arrays; by default all. Those that are not there are left out.

    Raises:
      OSError: see `open_file`.
      Exception: of any type, as zipfile, its codecs and NumPy raise them at damaged bytes.
    """
    arrays = {}
    with open_file(path, "array") as file, zipfile.ZipFile(file) as archive:
        _require_all(file, archive)
        for entry in archive.namelist():
            name = entry.removesuffix(".npy")
            with archive.open(entry) as member:  # which compares the two places of the name
                if names is not None and name not in names:
                    continue
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
                if member.read(1):
                    raise ValueError(f"{name} has more bytes than its header says")
    return arrays


def _require_all(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Validates that an archive names as many files as its end says; zipfile compares them not."""
    file.seek(max(os.fstat(file.fileno()).st_size - _END_BYTES, 0))
    end = file.read()
    place = end.rfind(b"PK\5\6") + 10
    count = int.from_bytes(end[place : place + 2], "little")
    if count not in (len(archive.infolist()), 0xFFFF):
        raise zipfile.BadZipFile(f"it names {len(archive.infolist())} of {count} files")


def npz_names(path: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the arrays of an .npz file; raises as `read_npz` does."""
    with open_file(path, "array") as file, zipfile.ZipFile(file) as archive:
        _require_all(file, archive)
        for entry in archive.namelist():
            archive.open(entry).close()
        return [entry.removesuffix(".npy") for entry in archive.namelist()]


def cache_folder(*parts: str) -> Path | None:
    """Returns a folder below the user's cache, `$XDG_CACHE_HOME` or `~/.cache`.

    Args:
      parts: of the path below it; nothing need lie there.

    Returns:
      The folder; None where no home folder is known.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # The standard ignores relative paths.
        base = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    return base.joinpath(*parts)


def name_of(label: str) -> str:
    """Returns a name of a file or folder for a label of any length, such as that of a member.

    Slashes become `_`; a longer label than `LONGEST_NAME` bytes is cut and a digest of it added.
    """
    name = printable(label).replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(label.encode()).hexdigest()[:16]
    return name.encode()[: LONGEST_NAME - 17].decode(errors="ignore") + "-" + digest
