"""XLA's persistent cache of compiled programs, shared by all runs of a user."""

from __future__ import annotations

import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

# What JAX warns of an entry that it cannot read, compiles anew, and does not write again.
UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']*)'")


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
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Small programs count too: a test or a short run compiles hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if getattr(warnings.showwarning, "directory", None) != path:
        warnings.showwarning = _Mending(path, warnings.showwarning)
    return path


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
            if path.name.startswith(f"{unreadable[1]}-") and path.name.endswith("-cache")
        ]
        damaged = [path for path in entries if not _is_whole(path)]
        for path in damaged or entries:
            path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        return bool(zlib.decompress(path.read_bytes()))
    except (OSError, zlib.error):
        return False
