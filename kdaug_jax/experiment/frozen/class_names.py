"""Compares the class names of a teacher with those of the data, and orders one as the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Between letters these only separate words: red_bee, Red bee, red-bee.
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_\-,.'’()/]+(?=[^\W\d_])")


class Difference(NamedTuple):
    """Where two lists of class names differ first.

    Attributes:
      number: the class, or -1 where the lists have other lengths.
      reordered: whether both lists hold the same names.
    """

    number: int
    reordered: bool


def difference(theirs: Sequence[str], ours: Sequence[str]) -> Difference | None:
    """Returns how the classes of a teacher differ from the data's, or None if they do not.

    Case and what separates words are passed over where all names stay distinct without them.
    Where one side only counts its classes, 0, 1, …, names are not compared, unless the other
    holds the same numbers, or numbers too, in another order.

    Args:
      theirs: in the order of the teacher's logits; empty where not known.
      ours: in the order of the data's labels; empty where not known.
    """
    if not theirs or not ours:
        return None
    first, second = _comparable(theirs, ours)
    differing = [number for number, (a, b) in enumerate(zip(first, second, strict=False)) if a != b]
    if len(first) != len(second):
        return Difference(-1, False)
    if not differing:
        return None
    reordered = sorted(first) == sorted(second)
    if not reordered and (_only_counts(first) or _only_counts(second)):
        ranks = _ranks(first), _ranks(second)
        if not all(ranks) or ranks[0] == ranks[1]:
            return None
        pairs = enumerate(zip(*ranks, strict=True))
        return Difference(next(number for number, (a, b) in pairs if a != b), True)
    return Difference(differing[0], reordered)


def order_by_name(theirs: Sequence[str], ours: Sequence[str]) -> tuple[int, ...]:
    """Returns the teacher's number of each class of the data; () if the names are not the same.

    Args:
      theirs: in the order of the teacher's logits.
      ours: in the order of the data's labels.
    """
    first, second = _comparable(theirs, ours)
    if sorted(first) != sorted(second) or len(set(first)) < len(first):
        return ()
    return tuple(map(first.index, second))


def _comparable(theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns both lists without what only spelling differs in, where names stay distinct."""
    for plain in (_words, str):
        first, second = [list(map(plain, names)) for names in (theirs, ours)]
        if all(
            len(set(short)) == len(set(names))
            for short, names in ((first, theirs), (second, ours))
        ):
            return first, second
    return first, second


def _words(name: str) -> str:
    text = unicodedata.normalize("NFC", name).strip().casefold()
    return str(int(text)) if text.isdecimal() else _SEPARATORS.sub("", text)


def _only_counts(names: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(names))


def _ranks(names: Sequence[str]) -> list[int]:
    """Returns the rank of each name among the numbers that all of them are; [] if not all are."""
    if not all(name.isdecimal() for name in names):
        return []
    order = sorted(map(int, names))
    return [order.index(int(name)) for name in names]
