"""The files that a config names, and what they hold: a changed file is a changed experiment."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.runtime.digest import sha256_file

# Data sets and frozen networks are recognised by what is read of them.
ELSEWHERE = re.compile(r"data\.source|eval\.sets|networks\.[^.]*\.checkpoint")
_MODULE = re.compile(r"\b([A-Za-z_][\w.]*)[:.][A-Za-z_]\w*")
_QUOTED = re.compile(r"""["']([^"']+)["']""")


def named_files(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of each file that a config names: policies, schedules, tables.

    A text of the config, or one in quotes inside of it, names a file if it holds a `.` or `/` and
    such a file exists.

    Args:
      config: the complete plain config.

    Raises:
      ConfigError: a file cannot be read.
    """
    names = dict.fromkeys(
        name for text in _texts("", config) for name in (text, *_QUOTED.findall(text))
    )
    digests = {}
    for name in names:
        path = os.path.expanduser(name)
        if not {".", "/"} & set(name) or "\0" in name or not os.path.isfile(path):
            continue
        try:
            digests[name] = sha256_file(path)
        except CheckpointError as error:
            raise ConfigError(error.where, error.what, error.remedy) from None
    return digests


def named_modules(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of the source of each module that a config names and that is imported.

    Args:
      config: the complete plain config, whose names are resolved.
    """
    names = {
        name for text in _texts("", config) for name in _MODULE.findall(text)
        if not name.startswith("kdaug_jax")
    }
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {name: sha256_file(file) for name, file in files.items() if file}


def _texts(path: str, value: Any) -> Iterator[str]:
    """Yields the texts of a config, apart from `ELSEWHERE`."""
    if ELSEWHERE.fullmatch(path):
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(f"{path}.{name}" if path else str(name), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(path, inner)
