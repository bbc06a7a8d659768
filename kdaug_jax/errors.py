"""Errors that a user can cause or mend, and the exit status of each.

`main.py` prints such an error as one line, `error: <where>: <what>; <what would be right>`, and
ends with its status. Any other exception is a programming error and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error with a remedy, told in one line."""

    exit_code = 2

    def __init__(self, where: str, what: str, remedy: str = ""):
        self.where, self.what, self.remedy = where, what, remedy
        super().__init__(f"{where}: {what}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self):
        return type(self), (self.where, self.what, self.remedy)  # they cross processes


class ArgumentError(ValueError):
    """An argument that a pure function refuses, with a remedy.

    Functions that know no config path raise it; whoever called them for a config turns it, and
    nothing but it, into a `ConfigError` with the path. So any other ValueError keeps its traceback.

    Attributes:
      what: what is wrong.
      remedy: what would be right.
    """

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class ConfigError(UserError):
    """The config, a flag or a view expression is wrong."""

    exit_code = 2


class DataError(UserError):
    """A data set is absent or holds what it should not."""

    exit_code = 3


class CheckpointError(UserError):
    """No checkpoint can be read or written, or the disk takes nothing more."""

    exit_code = 4


class NonFiniteError(UserError):
    """A loss term or a gradient became infinite or not a number."""

    exit_code = 5


class Preempted(UserError):
    """The run was asked to end, has saved, and can be taken up again."""

    exit_code = 75


def suggest(name: str, known: Iterable[str]) -> str:
    """Says which of `known` was probably meant by `name`, or lists them all.

    Args:
      name: what was written.
      known: the names that exist.

    Returns:
      A phrase for the remedy of an error.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + (", ".join(sorted(known)) or "none")
