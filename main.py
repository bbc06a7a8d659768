"""Runs one experiment: `python main.py --config=configs/digits_kd.py --workdir=runs/digits_kd`."""

from __future__ import annotations

import json
import os
import sys

from absl import flags
from ml_collections import config_flags

from kdaug_jax.errors import ConfigError, UserError
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import compile_cache, sharding
from kdaug_jax.training import loop, revisit, teachers


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command line."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file, with options after a colon.", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "Folder of this run's files.", flag_values=values)
    flags.DEFINE_enum(
        "mode", None, configs.MODES, "What to do, instead of config.mode.", flag_values=values
    )
    flags.DEFINE_bool(
        "print_config", False, "Print the complete config and stop.", flag_values=values
    )
    flags.DEFINE_bool(
        "allow_config_change", False, "Resume although the config differs.", flag_values=values
    )


def parse() -> flags.FlagValues:
    """Reads the command line; whatever is wrong with it becomes a ConfigError."""
    argv = sys.argv  # config_flags looks for overrides there and nowhere else
    values = flags.FlagValues()
    define_flags(values)
    path = next((word.split("=", 1)[1] for word in argv if word.startswith("--config=")), "")
    file = path.split(":")[0]
    if not path:
        raise ConfigError("--config", "is missing", "--config=configs/digits_kd.py")
    if not os.path.isfile(file):
        raise ConfigError("--config", f"there is no file {file}", "see the folder configs/")
    try:
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "command line", " ".join(str(error).split()), "see --print_config for the fields"
        ) from error
    if len(rest) > 1:
        raise ConfigError("command line", f"does not know '{rest[1]}'", "options start with --")
    if values.workdir is None and not values.print_config:
        raise ConfigError("--workdir", "is missing", "--workdir=runs/NAME")
    return values


def main() -> int:
    """Runs what the command line asks for and returns the exit status."""
    try:
        values = parse()
        config = values.config
        if values.mode is not None:
            config.mode = values.mode
        full = configs.validate(config)
        if values.print_config:
            print(json.dumps(full, indent=1))
            return 0
        compile_cache.use()
        train = full["train"]
        sharding.use_host_cores(
            full["data"]["batch_size"], train["group_size"], train["accumulate"]
        )
        change = values.allow_config_change
        if full["mode"] == "evaluate":
            revisit.evaluate_run(full, values.workdir)
            return 0
        full = teachers.ensure(full, values.workdir, allow_config_change=change)
        loop.train(full, values.workdir, allow_config_change=change)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
