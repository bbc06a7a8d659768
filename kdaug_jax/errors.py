"""Errors that a user can cause or correct, and the exit status of each.

`main.py` prints a `UserError` as one line, `error: <where>: <what>; <remedy>`, and exits with its
status. Any other exception is a programming error and keeps its traceback.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

_LINE_ENDS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"


class UserError(Exception):
    """An error that is printed in one line.

    Attributes:
      where: a config path, a flag or a file.
      what: what is wrong.
      remedy: what to type or do instead; may be empty.
    """

    exit_code = 2
    # Of several processes that raise the same error the first one prints it, or all of them.
    printed_by_all = False

    def __init__(self, where: str, what: str, remedy: str = ""):
        self.where, self.what, self.remedy = where, what, remedy
        super().__init__(printable(f"{where}: {what}" + (f"; {remedy}" if remedy else "")))

    def __reduce__(self):
        return type(self), (self.where, self.what, self.remedy)  # they cross processes


class ArgumentError(ValueError):
    """An invalid argument of a function that knows no config path.

    A caller that builds from a config turns it, and no other exception, into a `ConfigError` with
    the path. So any other ValueError keeps its traceback.

    Attributes:
      what: what is wrong.
      remedy: what to write instead; may be empty.
    """

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class ConfigError(UserError):
    """The config, a flag or a view expression is wrong."""

    exit_code = 2


class Disagreement(ConfigError):
    """The processes of a run do not know, or do not see, the same."""

    printed_by_all = True


class InUse(ConfigError):
    """Another run holds the working directory."""


class TeacherInUse(UserError):
    """Another run trains a teacher that this one needs and shares with it."""

    exit_code = 6


class DataError(UserError):
    """A data set is absent, damaged or does not fit together."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint cannot be read or written, or the disk is full."""

    exit_code = 4


class NonFiniteError(UserError):
    """A loss term or a gradient is infinite or NaN."""

    exit_code = 5


class Preempted(UserError):
    """The run received SIGTERM or SIGHUP, has saved, and can be resumed."""

    exit_code = 75


class PeerGone(UserError):
    """Another process of the run is gone; what is saved is whole, and the run can be resumed."""

    exit_code = 76


class Interrupted(Preempted):
    """The same by Ctrl-C."""

    exit_code = 130


def printable(text: str) -> str:
    """Returns a text with escapes for line ends, control characters and bytes that are not UTF-8.

    Names of files may hold them; a terminal would obey or refuse them.
    """
    return text if text.isprintable() else "".join(map(_printable_letter, text))


def _printable_letter(letter: str) -> str:
    if letter.isprintable() or letter.isspace() and letter not in _LINE_ENDS:
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def distinct(first: str, second: str) -> tuple[str, str]:
    """Returns two names as a message shows them: as ASCII where they look alike.

    Names that differ in Unicode form only, such as é in one and in two characters, look the same.
    """
    forms = [unicodedata.normalize("NFC", name).casefold() for name in (first, second)]
    if first != second and forms[0] == forms[1] and not (first.isascii() and second.isascii()):
        return ascii(first)[1:-1], ascii(second)[1:-1]
    return first, second


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns a remedy that names the close matches of a name, or all names if none is close.

    Args:
      name: an unknown name.
      known: the names that exist.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + (", ".join(sorted(known)) or "none")
