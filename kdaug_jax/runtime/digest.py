"""SHA-256 of files: checkpoints, weights and exported functions are known by it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdaug_jax.errors import CheckpointError


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
