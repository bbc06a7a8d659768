"""Policy files of users: reading JSON, with the line of whatever is wrong in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.files import parse_json, read_text

_SPACE = " \t\r\n"


def read(path: str) -> str:
    """Reads a text file.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    try:
        return read_text(path, "policy")
    except FileNotFoundError:
        raise ArgumentError(f"no file {path}", "give the path of a JSON file") from None
    except OSError as error:
        raise ArgumentError(
            f"cannot read {path}: {error.strerror}", "must be a JSON file"
        ) from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{path} is not text", "must be a JSON file") from None


def parse(path: str, text: str) -> Any:
    """Returns the value of JSON.

    Args:
      path: of the file, for messages.
      text: its content.

    Raises:
      ArgumentError: what is wrong, with the line, and what to write.
    """
    try:
        return parse_json(text, object_pairs_hook=_unrepeated)
    except ArgumentError as error:
        raise ArgumentError(f"cannot read {path}: {error.what}", error.remedy) from None
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{path}, line {error.lineno}: {error.msg}", "must be JSON") from None
    except ValueError as error:  # too many digits, or too deep
        raise ArgumentError(f"cannot read {path}: {error}", "must be JSON of its format") from None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"key {twice!r} is given twice", "give it once")
    return mapping


def check_keys(path: str, content: Any, needed: Sequence[str]) -> None:
    """Validates that content is a mapping of the needed keys, and perhaps `source`.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    if not isinstance(content, dict):
        raise ArgumentError(f"{path} holds no object", "must be {" + ", ".join(needed) + "}")
    for key in content:
        if key not in (*needed, "source"):
            raise ArgumentError(f"{path}: unknown key {key!r}", suggest(key, (*needed, "source")))
    for key in needed:
        if key not in content:
            raise ArgumentError(f"{path} has no {key!r}", "must hold " + " and ".join(needed))


@contextlib.contextmanager
def with_line(path: str, *steps: str | int) -> Iterator[None]:
    """Adds the line of one part of a file to errors about that part.

    Args:
      path: of the file, with which the errors begin.
      steps: the way to the part from the whole content: keys and places.

    Raises:
      ArgumentError: the one raised within, with the line after the path.
    """
    try:
        yield
    except ArgumentError as error:
        what, right = error.what, error.remedy
        if what.startswith(f"{path}, line "):  # an inner part has added it
            raise
        line = _line(read_text(path, "policy"), steps)
        raise ArgumentError(what.replace(path, f"{path}, line {line}", 1), right) from None


def _line(text: str, steps: Sequence[str | int]) -> int:
    """Returns the line, from 1, on which a part of JSON begins."""
    decoder = json.JSONDecoder()

    def after(place: int) -> int:
        while text[place] in _SPACE:
            place += 1
        return place

    place = after(0)
    for step in steps:
        place, number = after(place + 1), 0  # past the bracket
        while True:
            key: str | int = number
            if isinstance(step, str):
                key, place = decoder.raw_decode(text, place)
                place = after(after(place) + 1)  # past the colon
            if key == step:
                break
            place = after(after(decoder.raw_decode(text, place)[1]) + 1)  # past the comma
            number += 1
    return text.count("\n", 0, place) + 1
