"""Explains errors of the command line and of config files in one line."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from kdaug_jax import registry
from kdaug_jax.errors import ConfigError, UserError
from kdaug_jax.experiment.config import MODES, plain, set_path
from kdaug_jax.experiment.imports import imported_names
from kdaug_jax.files import expanded, read_json, reason, require_file
from kdaug_jax.runtime import processes, signals

REMEDY = "see --print_config for the fields"


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of `main.py` beside `--config`."""
    texts = {
        "workdir": "Folder of this run's files.",
        "config_json": "Config as data, in place of --config: config.json of a run, or what "
        "--print_config printed. Nothing in it is run.",
        "eval_data": "With --mode=evaluate: other data of the same classes, as SOURCE,SPLIT.",
        "checkpoint": "With --mode=evaluate: best, or a step; the last where it is left out.",
        "topology": "With --mode=compile: devices to compile for, such as v5e:16x16 or h200:8.",
        "assume": "With --mode=compile: data that are not there, as "
        "examples=1281167,classes=1000,size=mixed or size=WxH.",
        "compilers": "With --mode=compile: folder of libtpu or the CUDA wheels.",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, "", text, flag_values=values)
    _define_limits(values)
    flags.DEFINE_enum("mode", None, MODES, "Overrides config.mode.", flag_values=values)
    flags.DEFINE_bool("print_config", False, "Print the config and stop.", flag_values=values)
    flags.DEFINE_bool("allow_config_change", False, "Resume with this config.", flag_values=values)
    flags.DEFINE_bool(
        "allow_imports", False, "Import modules that --config_json, or a record in another folder, "
        "names as package.module:attribute.", flag_values=values,
    )
    flags.DEFINE_bool("verify_data", False, "Compare what all images hold.", flag_values=values)


def configured(values: flags.FlagValues) -> ConfigDict | None:
    """Returns the config that the flags give, and limits what is imported to what it names.

    A `--config` is a program of the user's, which is trusted, and so is the record of the run in
    `--workdir`; a `--config_json` is data and trusts nothing.

    Args:
      values: the flags.

    Returns:
      None if they give none.

    Raises:
      ConfigError: the file of `--config_json` cannot be read, or names code.
    """
    if values.config_json:
        values["config"].value = ConfigDict(_read_json(values))
    if values.config is None:
        return None
    given = values.config.copy_and_resolve_references()
    if not values.allow_imports:
        trusted = [] if values.config_json else [plain(given), _record(values.workdir)]
        registry.trust_only("\n".join(map(repr, trusted)))
    return given


def _read_json(values: flags.FlagValues) -> dict[str, Any]:
    name = values.config_json
    if values["config"].present:
        raise ConfigError("--config_json", "stands beside --config", "give one of them")
    try:
        config = read_json(expanded("--config_json", name))
    except (OSError, ValueError) as error:
        what = f"'{name}' cannot be read ({reason(error) if isinstance(error, OSError) else error})"
        raise ConfigError("--config_json", what, "name config.json of a run") from None
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        config = config["config"]  # the record of a run
    if not isinstance(config, dict) or not config:
        raise ConfigError(name, "holds no config", "name config.json of a run")
    if not values.allow_imports and (names := imported_names(config)):
        raise ConfigError(
            name, f"names code that would be imported, and so run: {', '.join(names)}",
            "read these modules, then --allow_imports",
        )
    return config


def _record(folder: str) -> Any:
    """Returns what the run in a folder recorded; None without one, or if it cannot be read."""
    try:
        return folder and read_json(Path(folder).expanduser() / "config.json")
    except (OSError, ValueError, RuntimeError):
        return None  # whoever needs it says why


def _define_limits(values: flags.FlagValues) -> None:
    flags.DEFINE_string("distributed", "", processes.FORM, flag_values=values)
    texts = {
        "join": "How long the processes of a run wait for all to come.",
        "heartbeat": "After how long a process that does not answer counts as gone.",
        "shared": "How long a new file of the working directory may be invisible elsewhere.",
    }
    for name, seconds in processes.DEFAULTS._asdict().items():
        flags.DEFINE_float(f"{name}_seconds", seconds, texts[name], flag_values=values)


@contextlib.contextmanager
def joined(argv: Sequence[str]) -> Iterator[None]:
    """Connects the processes of a run, before anything else of the command line can be wrong.

    Within the block modules beside the config file can be named.

    Args:
      argv: the words of the command line; all but a few flags are left to be read later.

    Raises:
      ConfigError: a flag is wrong, or the processes do not meet.
    """
    values = flags.FlagValues()
    _define_limits(values)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ConfigError("command line", " ".join(str(error).split()), REMEDY) from None
    named = {name: values[f"{name}_seconds"].value for name in processes.Limits._fields}
    if processes.start(values.distributed, processes.Limits(**named)) > 1:
        signals.wait_for_peers()
    with registry.importable(config_file(argv)):
        yield


def print_config(config: Mapping[str, Any]) -> int:
    """Prints a complete config as JSON and returns the exit status of that."""
    print(json.dumps(config, indent=1))
    return 0


def end_with(error: UserError) -> int:
    """Prints an error in one line, once if all processes have it, and returns its exit status."""
    processes.announce(error)
    if not processes.is_told_by_first(error):
        print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def check_flags(values: flags.FlagValues, mode: str, rest: Sequence[str]) -> None:
    """Validates that flags fit the mode.

    Args:
      values: the flags.
      mode: of the run.
      rest: words that are no flags.

    Raises:
      ConfigError: a flag is missing, or is of another mode; or there are other words.
    """
    if rest:
        raise ConfigError("command line", f"does not know '{rest[0]}'", "options start with --")
    if not values.workdir and not (values.print_config or mode == "compile"):
        raise ConfigError("--workdir", "is missing", "--workdir=runs/NAME")
    for name in ("eval_data", "checkpoint"):
        if values[name].value and mode != "evaluate":
            raise ConfigError(f"--{name}", f"is of no use with --mode={mode}", "--mode=evaluate")


def evaluated(values: flags.FlagValues) -> dict[str, str]:
    """Returns what the flags say that is evaluated, as `evaluate_run` takes it."""
    return {"eval_data": values.eval_data, "at": values.checkpoint}


def no_config(argv: Sequence[str]) -> ConfigError:
    """Returns the error of a command line that gave no config."""
    file = config_file(argv)
    if not file:
        return ConfigError("--config", "is missing", "--config=configs/digits_kd.py")
    return ConfigError(str(file), "get_config() returned None", "return the ConfigDict")


def explain(error: BaseException, argv: Sequence[str]) -> BaseException:
    """Returns the error to show for one that was raised while the command line was read.

    A config file is a program of the user's and may fail in any way. A `ConfigError`, such as that
    of a name which cannot be resolved, is returned as it is, and so is what ends a process.

    Args:
      error: the exception.
      argv: the words of the command line.

    Returns:
      An error that names the file and line, the override or the flag.
    """
    if isinstance(error, UserError | KeyboardInterrupt | SystemExit | signals.Stop):
        return error
    file, _, arg = _config_word(argv).partition(":")
    within: BaseException | None = error
    while within is not None:  # a ValueError of the file comes wrapped, as if it were the flag's
        if line := _line_of(file, within):
            return ConfigError(f"{file}:{line}", _summary(within), "mend the file")
        within = within.__context__
    if isinstance(error, flags.Error):
        return ConfigError("command line", " ".join(str(error).split()), REMEDY)
    if not os.path.isfile(file):
        return ConfigError("--config", f"there is no file '{file}'", "see the folder configs/")
    if isinstance(error, SyntaxError):
        line = f"{error.filename}:{error.lineno}" if error.filename else file  # a byte 0 has none
        return ConfigError(line, _summary(error), "mend the file")
    return _override(argv, file, arg) or ConfigError("command line", _summary(error), REMEDY)


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())


def _line_of(file: str, error: BaseException) -> int | None:
    """Returns the last line of a file in the traceback of an error, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        frame.lineno for frame in frames
        if os.path.abspath(frame.filename) == os.path.abspath(file)
    ]
    return lines[-1] if lines else None


def config_file(argv: Sequence[str]) -> str | None:
    """Returns the path of the config file that the words of a command line name, None for none.

    Raises:
      ConfigError: what lies there is no file that can be read.
    """
    file = _config_word(argv).partition(":")[0]
    if not file:
        return None
    try:
        require_file(file, "program")
    except (FileNotFoundError, IsADirectoryError):
        pass  # `explain` tells which files there are
    except OSError as error:
        what = f"'{file}' cannot be read ({error.strerror})"
        raise ConfigError("--config", what, "name a config file") from None
    return file


def _config_word(argv: Sequence[str]) -> str:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if name == "config":
            return value if equals else following
    return ""


def _override(argv: Sequence[str], file: str, arg: str) -> ConfigError | None:
    """Returns the error of the first override of a field that the config does not have."""
    try:
        config = plain(runpy.run_path(file)["get_config"](*[arg] if arg else ()))
    except OSError as error:
        return ConfigError(file, f"cannot be read ({reason(error)})", "name a config file")
    except (TypeError, KeyError, AttributeError, ValueError):
        return ConfigError(file, "has no get_config() that returns a ConfigDict", "mend the file")
    for word in argv:
        path, equals, _ = word.lstrip("-").partition("=")
        if path.startswith("config.") and equals:
            try:
                set_path(config, path.removeprefix("config."), None)
            except ConfigError as error:
                return error
    return None
