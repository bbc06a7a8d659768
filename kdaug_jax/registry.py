"""Resolves every name that a config may hold: a row of a table, or something of the user's own.

What a user brings is named `package.module:attribute`, and `package.module.attribute` inside
Python expressions, where a colon cannot stand. The folder of the config file and the current
directory are importable while a config runs, see `importable`. To import a module is to run it, so
a command may limit what is imported to what its own config names, see `trust_only`.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kdaug_jax.errors import ConfigError, suggest

FORM = "package.module:attribute"
# Folders of Python and of installed packages, in which users' mistakes are not.
_LIBRARIES = tuple({*sysconfig.get_paths().values(), sys.prefix + os.sep + "lib"})


class _Trust:
    """What may be imported.

    Attributes:
      texts: of configs that are trusted; None while every name is.
    """

    texts: str | None = None


def trust_only(texts: str) -> None:
    """Refuses from here on, until `importable` ends, to import what trusted texts do not name.

    Args:
      texts: of configs, in which the names of trusted modules stand; "" trusts none.
    """
    _Trust.texts = texts.replace(":", ".")


@contextlib.contextmanager
def importing(allowed: bool, texts: str = "") -> Iterator[None]:
    """Refuses to import within the block what trusted texts do not name, unless that is allowed.

    Args:
      allowed: whether modules that somebody's record names may be imported, and so run.
      texts: such as the words of a command line.
    """
    trusted = _Trust.texts
    if not allowed:
        trust_only(texts)
    try:
        yield
    finally:
        _Trust.texts = trusted


def _require_trusted(where: str, name: str) -> None:
    if _Trust.texts is None:
        return
    if not re.search(rf"(?<![\w.]){re.escape(name.replace(':', '.'))}(?!\w)", _Trust.texts):
        raise ConfigError(
            where, f"'{name}' would import, and so run, code that no config of yours names",
            "read that module, then --allow_imports",
        )


def is_import(name: str) -> bool:
    """Returns whether a name is of the form `package.module:attribute`, or has dots for colons."""
    return ":" in name or "." in name


def short_name(name: str) -> str:
    """Returns the attribute of `package.module:attribute`; any other name as it is."""
    return name.replace(":", ".").rpartition(".")[2]


def resolve(where: str, kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Returns what a name stands for.

    Args:
      where: config path of the name, for messages.
      kind: what is named, such as "loss", for messages.
      name: a key of the table, `package.module:attribute` or `package.module.attribute`.
      table: what this package has by name.

    Returns:
      The row of the table, or the attribute of the module.

    Raises:
      ConfigError: the table has no such row; the module cannot be imported, with the reason and
        where it was looked for; or the module has no such attribute.
    """
    if name in table:
        return table[name]
    if not is_import(name):
        raise ConfigError(where, f"unknown {kind} '{name}'", suggest(name, [*table, FORM]))
    separator = ":" if ":" in name else "."
    module_name, _, attribute = name.rpartition(separator)
    parts = [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(where, f"'{name}' is no name of a {kind}", f"write {FORM}")
    _require_trusted(where, name)
    module = _import_module(where, name, module_name)
    if not hasattr(module, attribute):
        public = [other for other in vars(module) if not other.startswith("_")]
        raise ConfigError(
            where, f"module {module_name} has no '{attribute}'", suggest(attribute, public)
        )
    return getattr(module, attribute)


def _import_module(where: str, name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that is there but imports another one which is not is reported below.
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            folders = dict.fromkeys(path or os.getcwd() for path in sys.path)
            searched = ", ".join(itertools.islice(folders, 3))
            raise ConfigError(
                where, f"cannot import '{name}': there is no module '{error.name}'",
                f"put it beside the config file or into the current directory; searched {searched}"
                f" and {len(folders) - 3} more folders",
            ) from None
        raise _broken(where, name, error) from error
    except Exception as error:  # a user's module may fail in any way
        raise _broken(where, name, error) from error


def _broken(where: str, name: str, error: Exception) -> ConfigError:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isabs(frame.filename) and not frame.filename.startswith(_LIBRARIES)
    ]
    # The first frames are those of this module; the last one that is no library's is the user's.
    file, line, cause, remedy = frames[-1].filename, frames[-1].lineno, str(error), "correct it"
    if isinstance(error, SyntaxError):
        file, line, cause = error.filename, error.lineno, error.msg
    elif isinstance(error, ModuleNotFoundError):
        remedy = f"install {error.name}, or correct the import"
    cause = " ".join(f"{type(error).__name__}: {cause}".split())
    return ConfigError(where, f"cannot import '{name}': {cause} ({file}, line {line})", remedy)


@contextlib.contextmanager
def importable(config_file: str | Path | None = None) -> Iterator[None]:
    """Makes the folder of a config file and the current directory importable within the block.

    Args:
      config_file: path of the config file, or None for the current directory alone. Behind a link,
        the folders of the link and of the file are both importable.
    """
    folders = [os.getcwd()]
    if config_file is not None:
        file = Path(config_file)
        folders[:0] = [str(file.absolute().parent), str(file.resolve().parent)]
    added = [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    sys.path[:0] = added
    trusted = _Trust.texts
    try:
        yield
    finally:
        _Trust.texts = trusted
        for folder in added:
            sys.path.remove(folder)
