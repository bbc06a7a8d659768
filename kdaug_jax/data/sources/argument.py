"""The argument of a source: a path, and perhaps options, as in `folder:DIR?order=numeric`."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote

from kdaug_jax.errors import ConfigError, suggest


def split_argument(
    source: str, argument: str, known: Collection[str]
) -> tuple[str, dict[str, str]]:
    """Splits the argument of a source into its path and its options.

    The options follow the first `?` before which a path exists, or the first of all. An argument
    that is itself an existing path has no options.

    Args:
      source: name of the source, for messages.
      argument: PATH or PATH?NAME=VALUE&NAME=VALUE; values may be percent-encoded, which `&` and
        `%` have to be.
      known: names of the options that the source has.

    Returns:
      The path as text and `{name: value}`.

    Raises:
      ConfigError: an option is unknown, repeated, empty or not of the form NAME=VALUE.
    """
    argument = argument.strip()
    if "?" not in argument or exists(argument):
        return argument, {}
    places = [match.start() for match in re.finditer(r"\?", argument)]
    place = next((place for place in places if exists(argument[:place])), places[0])
    options: dict[str, str] = {}
    for part in argument[place + 1 :].split("&"):
        name, equals, value = part.partition("=")
        form = f"{source}:PATH?" + "&".join(f"{name}=…" for name in known)
        if known and (not equals or not value.strip()):
            raise ConfigError("data.source", f"{source} cannot read the option '{part}'", form)
        if name not in known:
            remedy = suggest(name, known) if known else f"write {source}:PATH"
            raise ConfigError("data.source", f"{source} has no option '{name}'", remedy)
        if name in options:
            raise ConfigError("data.source", f"{source} has '{name}' twice", f"keep one {name}=…")
        options[name] = unquote(value.strip())
    return argument[:place], options


def exists(path: str) -> bool:
    """Returns whether something lies at a path; texts that are no paths name nothing."""
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown home, a byte 0
        return False
