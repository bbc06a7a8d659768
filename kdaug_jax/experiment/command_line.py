"""What is wrong with a command line or a config file, in one line."""

from __future__ import annotations

import os
import runpy
import traceback
from collections.abc import Sequence

from absl import flags

from kdaug_jax.errors import ConfigError, UserError
from kdaug_jax.experiment.config import plain, put

REMEDY = "see --print_config for the fields"


def explain(error: Exception, argv: Sequence[str]) -> UserError:
    """Turns what reading the command line raised into an error for the user.

    A config file is a program of the user's and may fail in any way.

    Args:
      error: whatever was raised.
      argv: the words of the command line.

    Returns:
      The error to raise instead: it names a file and line of the user's, an override, or a flag.
    """
    if isinstance(error, UserError):
        return error
    what = " ".join(str(error).split())
    if isinstance(error, flags.Error):
        return ConfigError("command line", what, REMEDY)
    file, _, arg = _config_word(argv).partition(":")
    if not os.path.isfile(file):
        return ConfigError("--config", f"there is no file '{file}'", "see the folder configs/")
    what = f"{type(error).__name__}: {what}"
    if isinstance(error, SyntaxError):
        return ConfigError(f"{error.filename}:{error.lineno}", what, "mend the file")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.abspath(frame.filename) == os.path.abspath(file)]
    if own:
        return ConfigError(f"{file}:{own[-1].lineno}", what, "mend the file")
    return _override(argv, file, arg) or ConfigError("command line", what, REMEDY)


def _config_word(argv: Sequence[str]) -> str:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if name == "config":
            return value if equals else following
    return ""


def _override(argv: Sequence[str], file: str, arg: str) -> ConfigError | None:
    """Finds the override of a field that the config does not have."""
    try:
        config = plain(runpy.run_path(file)["get_config"](*[arg] if arg else ()))
    except (TypeError, KeyError, AttributeError, ValueError):
        return ConfigError(file, "has no get_config() that returns a ConfigDict", "mend the file")
    for word in argv:
        path, equals, _ = word.lstrip("-").partition("=")
        if path.startswith("config.") and equals:
            try:
                put(config, path.removeprefix("config."), None)
            except ConfigError as error:
                return error
    return None
