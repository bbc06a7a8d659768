"""Cards inside safetensors files: what the network is, with a checksum of all that stands there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import parse_json
from kdaug_jax.models.foreign.safetensors_file import State
from kdaug_jax.runtime.digest import SEAL, sha256_arrays
from kdaug_jax.runtime.model_card import ModelCard, checked, sealed

# Name of the card among the metadata.
KEY = "kdaug_jax"


def _digest(arrays: State, metadata: Mapping[str, str]) -> str:
    # Metadata have no order in a file.
    texts = json.dumps({name: text for name, text in metadata.items() if name != KEY},
                       sort_keys=True)
    return hashlib.sha256((sha256_arrays(arrays) + texts).encode()).hexdigest()


def with_card(metadata: Mapping[str, str], card: ModelCard, arrays: State) -> dict[str, str]:
    """Returns the metadata of a file with the card of its network among them.

    Args:
      metadata: all others of the file.
      card: of the network.
      arrays: of the file.
    """
    fields = {**dataclasses.asdict(card), "sha256": _digest(arrays, metadata)}
    return {**metadata, KEY: sealed(fields)}


def read_card(path: Path, metadata: Mapping[str, str], arrays: State) -> dict[str, Any]:
    """Reads the card in a file and compares the arrays and the metadata with its checksum.

    Args:
      path: the file.
      metadata: of the file.
      arrays: of the file.

    Returns:
      The fields of a `ModelCard`; `{}` for a file without card.

    Raises:
      CheckpointError: the card or the arrays are not as they were written.
      ConfigError: the card is none of this package.
    """
    if KEY not in metadata:
        if any(f'"{SEAL}"' in text for text in metadata.values()):
            what = "has a card under another name"
            raise CheckpointError(str(path), what, "copy the file again")
        return {}
    try:
        fields = parse_json(metadata[KEY])
    except ValueError:
        what = "has a card that cannot be read"
        raise CheckpointError(str(path), what, "export it again") from None
    is_sealed = isinstance(fields, dict) and SEAL in fields
    fields = checked(str(path), fields)
    if is_sealed and fields["sha256"] != _digest(arrays, metadata):
        raise CheckpointError(
            str(path), "does not hold what its card was written for",
            "copy the file again, or export it again",
        )
    return fields
