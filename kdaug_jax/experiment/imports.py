"""Code that a config names: modules of a user's that are imported, and so run, for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from kdaug_jax.data.sources import SOURCES
from kdaug_jax.experiment.named_files import texts
from kdaug_jax.runtime.digest import sha256_file

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_WITH_COLON = re.compile(rf"(?<![\w./:-]){_NAME}:[A-Za-z_]\w*")
# In the expressions of views; not the name of a file in quotes.
_WITH_DOTS = re.compile(rf"(?<![\w.\"'/]){_NAME}\.[A-Za-z_]\w*(?=\s*[(|]|\s*$)")


def imported_names(config: Mapping[str, Any]) -> list[str]:
    """Returns what a config names as `package.module:attribute`, sorted, and with dots in views.

    Args:
      config: complete or not, plain.
    """
    names: set[str] = set()
    for path, text in texts("", config):
        with_colon = _WITH_COLON.findall(text)
        names.update(name for name in with_colon if name.partition(":")[0] not in SOURCES)
        if path.startswith("views."):
            names.update(_WITH_DOTS.findall(text))
    source = config.get("data", {}).get("source", "")
    if source.count(":") and source.partition(":")[0] not in SOURCES:
        names.add(":".join(source.split(":")[:2]))
    return sorted(names)


def imported_code(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of the source of each module that a config names and that is imported.

    Args:
      config: the complete plain config, whose names are resolved.
    """
    modules = {re.split(r"[:.]\w+$", name)[0] for name in imported_names(config)}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)}
    return {name: sha256_file(file) for name, file in files.items() if file}
