"""How the commands beside `main.py` begin and end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from kdaug_jax import files
from kdaug_jax.errors import UserError, printable
from kdaug_jax.runtime import signals, streams


class Parser(argparse.ArgumentParser):
    """A parser of words whose errors show no codes of a terminal, as names of files may hold."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with the usage and what is wrong."""
        super().error(printable(message))


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends its process with the exit status that it returns.

    Signals end it in one line, and neither a closed pipe nor a terminal ends it at all.

    Args:
      main: the command.
    """
    streams.prepare()
    try:
        with files.refusals(), signals.handled():
            status = main()
        streams.ignore_signals()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_code
    sys.exit(status)
