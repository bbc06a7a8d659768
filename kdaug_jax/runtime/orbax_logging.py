"""Silences tracebacks that Orbax logs for errors which are reported in one line."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any


def silence_orbax() -> None:
    """Silences what Orbax and TensorStore log about a failed save besides raising its error.

    Lasts for the rest of the process, since their threads outlive the save. Warnings, and errors of
    other libraries, are shown as before.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_shown)
    if getattr(sys.unraisablehook, "func", None) is not _unraisable:
        sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def _is_shown(record: logging.LogRecord) -> bool:
    of_orbax = "/orbax/" in record.pathname or "orbax" in record.getMessage()
    return record.levelno < logging.ERROR or not of_orbax


def _unraisable(before: Callable[[Any], None], unraisable: Any) -> None:
    # TensorStore reports to an event loop of Orbax's that the first failure has closed.
    if str(unraisable.exc_value) != "Event loop is closed":
        before(unraisable)
