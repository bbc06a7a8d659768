"""XLA's persistent cache of compiled programs, shared by all runs of a user."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

# What JAX warns of an entry that it cannot read, compiles anew, and does not write again.
UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']*)'")

# Ends the names of entries.
_END = "-cache"


def use(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Switches the cache on.

    Args:
      directory: where it lies; by default `$JAX_COMPILATION_CACHE_DIR`, else
        `~/.cache/kdaug_jax/xla`. A directory that cannot be written only costs compile time.

    Returns:
      The directory; None, without a cache, where no home folder is known.
    """
    chosen = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        path = Path(chosen or "~/.cache/kdaug_jax/xla").expanduser().absolute()
    except RuntimeError:  # no home folder is known
        return None
    _remove_others(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Small programs count too: a test or a short run compiles hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if getattr(warnings.showwarning, "directory", None) != path:
        warnings.showwarning = _Mending(path, warnings.showwarning)
    return path


def _remove_others(directory: Path) -> None:
    """Removes what has the name of an entry and is no file: JAX would wait for it, or read on."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(_END) and not _is_file(entry):
                _remove(Path(entry.path))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # its links lead back to themselves
        return False


def _remove(path: Path) -> None:
    """Removes an entry, where that is allowed, and a folder only if it is empty."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


class _Mending:
    """Shows warnings as before, but for those of damaged entries: it removes these.

    A run that was killed, or a full disk, leaves half of an entry.
    """

    def __init__(self, directory: Path, before: Any):
        self.directory, self._before = directory, before

    def __call__(self, message: Any, *args: Any, **named: Any) -> None:
        unreadable = UNREADABLE.match(str(message))
        if unreadable is None:
            self._before(message, *args, **named)
            return
        entries = [
            path for path in self.directory.iterdir()
            if path.name.startswith(f"{unreadable[1]}-") and path.name.endswith(_END)
        ]
        damaged = [path for path in entries if not _is_whole(path)]
        for path in damaged or entries:
            _remove(path)


def _is_whole(path: Path) -> bool:
    try:
        return bool(zlib.decompress(path.read_bytes()))
    except (OSError, zlib.error):
        return False
