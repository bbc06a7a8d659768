"""XLA's persistent cache of compiled programs, shared by all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path

import jax


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
    return path
