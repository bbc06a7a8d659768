"""SHA-256 of files, arrays and JSON: checkpoints, weights and records are known by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.files import open_file

# Entry of a JSON file that holds the checksum of the others.
SEAL = "seal"


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits.

    Raises:
      CheckpointError: the file cannot be read.
    """
    try:
        with open_file(path, "shard") as file:
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


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields as JSON has them, with a checksum of them that `unsealed` compares."""
    plain = json.loads(json.dumps(fields))
    return {**plain, SEAL: _checksum(plain)}


def unsealed(
    where: str, stored: Mapping[str, Any], kind: type[UserError] = ConfigError,
    what: str = "is not as it was written", remedy: str = "restore it from a copy",
) -> dict[str, Any]:
    """Returns the fields that were sealed; files without a checksum pass as they are.

    Args:
      where: the file, for messages.
      stored: its JSON value.
      kind: of the error.
      what: of the error.
      remedy: of the error.

    Raises:
      UserError: of that kind; the fields are not those that were sealed.
    """
    fields = dict(stored)
    if SEAL in fields and fields.pop(SEAL) != _checksum(fields):
        on_purpose = f"after a change on purpose delete its entry '{SEAL}'"
        raise kind(where, what, f"{remedy}; {on_purpose}")
    return fields


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def sha256_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of arrays with their names, types and shapes, in any order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
