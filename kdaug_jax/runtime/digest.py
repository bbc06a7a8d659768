"""SHA-256 of files: checkpoints, weights and exported functions are known by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits.

    Raises:
      CheckpointError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror})", "check the path and who may read it"
        ) from None


def require_sha256(where: str, path: Path, expected: str) -> str:
    """Validates that a file has the SHA-256 that is stated for it.

    Args:
      where: flag or config path of what is stated, for messages.
      path: the file.
      expected: 64 hexadecimal digits, or the first 8 or more of them, as file names have them.

    Returns:
      The SHA-256 of the file.

    Raises:
      ConfigError: what is stated is no SHA-256.
      CheckpointError: the file has another one, or cannot be read.
    """
    digits = expected.strip().lower()
    if not 8 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise ConfigError(where, f"is '{expected}'", "64 hexadecimal digits, as sha256sum prints")
    digest = sha256_file(path)
    if not digest.startswith(digits):
        raise CheckpointError(
            str(path), f"has the SHA-256 {digest}, not the stated {digits}", "copy the file again"
        )
    return digest


def sha256_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of arrays with their names, types and shapes, in any order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
