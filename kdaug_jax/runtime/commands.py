"""How the commands beside `main.py` begin and end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from kdaug_jax.errors import UserError
from kdaug_jax.runtime import signals, streams


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends its process with the exit status that it returns.

    Signals end it in one line, and neither a closed pipe nor a terminal ends it at all.

    Args:
      main: the command.
    """
    streams.prepare()
    try:
        with signals.handled():
            status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.exit_code
    sys.exit(status)
