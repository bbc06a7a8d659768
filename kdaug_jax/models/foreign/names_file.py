"""Reads lists of class names as people write them: one a line, JSON, or a table with numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.errors import ConfigError
from kdaug_jax.files import parse_json, read_text, reason
from kdaug_jax.models.foreign.safetensors_file import shown
from kdaug_jax.runtime import workdir

_FORM = 'one name a line, a JSON list ["ant", "bee"], or {"0": "ant", "1": "bee"}'
# A number and a name: `3 cat`, `3: cat`, `3,cat`.
_NUMBERED = re.compile(r"\s*(\d+)\s*[\s,;:\t]\s*(\S.*)")


def read_names(where: str, path: Path) -> tuple[str, ...]:
    """Reads class names in the order of the classes.

    A table with numbers is read by number, which must be 0..N-1 or 1..N; a line of headings above
    it is passed over.

    Args:
      where: flag that named the file, for messages.
      path: the file, in UTF-8.

    Returns:
      Distinct names.

    Raises:
      ConfigError: the file cannot be read, or is no such list.
    """
    file = workdir.place(where, path)

    def refuse(what: str) -> ConfigError:
        return ConfigError(where, f"{path} {what}", _FORM)

    try:
        text = read_text(file, "text", "utf-8-sig")
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read ({reason(error)})") from None
    start = text.lstrip()[:1]
    if start in ("[", "{"):
        try:
            listed = parse_json(text)
        except ValueError as error:
            raise refuse(f"begins like JSON, but cannot be read ({error})") from None
    try:
        is_json = start in ("[", "{")
        names = _of_json(listed) if is_json else _of_lines(text.rstrip().split("\n"))
    except ValueError as error:  # of a number of thousands of digits
        raise refuse(f"cannot be read ({error})") from None
    if isinstance(names, str):
        raise refuse(names)
    names = [name.strip() for name in names]
    if not names or not all(names):
        raise refuse(f"has no name for class {names.index('') if names else 0}")
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    for number, name in enumerate(names):
        if first[name] != number:
            raise refuse(
                f"gives classes {first[name]} and {number} the same name '{shown(name)}'"
            )
        if not name.isprintable():
            raise refuse(f"has a name that cannot be printed for class {number}")
    return tuple(names)


def _of_json(listed: Any) -> Sequence[str] | str:
    """Returns the names in a JSON value, or what is wrong with it."""
    if isinstance(listed, Mapping):
        if all(isinstance(name, str) for name in listed.values()):
            pairs = list(listed.items())
        else:
            pairs = [(number, name) for name, number in listed.items()]
        if not all(str(number).isdecimal() and type(number) is not bool for number, _ in pairs):
            return "is a JSON object, but not of names by number"
        return _by_number([(int(number), name) for number, name in pairs])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        return "is JSON, but no list of texts"
    return listed


def _of_lines(lines: Sequence[str]) -> Sequence[str] | str:
    """Returns the names in lines, or what is wrong with them."""
    if empty := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        return f"has nothing in line {empty[0]}"
    if any(line.lstrip()[0] in "[{" for line in lines):
        return "holds JSON in single lines"
    for table in (lines, lines[1:]):  # without headings and below them
        pairs = _pairs(table)
        if len(pairs) > 1 or pairs and table is lines:
            return _by_number(pairs)
    return [line.strip().strip('"') if line.strip()[0] == '"' else line for line in lines]


def _pairs(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Returns (number, name) of each line if all have both, in either order; [] otherwise."""
    for delimiter in (",", "\t", ";"):
        try:
            rows = list(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            continue
        if all(len(row) == 2 for row in rows):
            for number, name in ((0, 1), (1, 0)):
                if all(row[number].strip().isdecimal() for row in rows):
                    return [(int(row[number]), row[name]) for row in rows]
    matches = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    if lines and all(matches):
        return [(int(match[1]), match[2]) for match in matches]
    return []


def _by_number(pairs: Sequence[tuple[int, str]]) -> Sequence[str] | str:
    numbers = sorted(number for number, _ in pairs)
    if numbers not in (list(range(len(pairs))), list(range(1, len(pairs) + 1))):
        return f"numbers its names, but not 0..{len(pairs) - 1}, each once"
    return [name for _, name in sorted(pairs)]
