"""Sub-modules that are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


def submodules(
    package: str, names: tuple[str, ...]
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package that imports its modules on first use.

    Args:
      package: its `__name__`.
      names: the modules.
    """

    def load(name: str) -> ModuleType:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted(names)
