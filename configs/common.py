"""What the experiments share: reading the text after the colon, and the smoke form."""

from __future__ import annotations

import ast
from typing import Any

from ml_collections import ConfigDict

from kdaug_jax.errors import ConfigError, near


def parse_arg(arg: str, **choices: Any) -> ConfigDict:
    """Reads `smoke,magnitude=3` after the colon of `--config=FILE:...`.

    Args:
      arg: the text; a bare name means True.
      **choices: the options of an experiment with their defaults; `smoke` is always one.

    Returns:
      The options.

    Raises:
      ConfigError: an unknown option, or a value of another type than its default.
    """
    options = {"smoke": False, **choices}
    for word in filter(None, (part.strip() for part in arg.split(","))):
        name, equals, text = word.partition("=")
        if name not in options:
            raise ConfigError("--config", f"has no option '{name}'", near(name, options))
        try:
            value = ast.literal_eval(text) if equals else True
        except (SyntaxError, ValueError):
            value = text
        default = options[name]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise ConfigError("--config", f"option {name}={value!r}", f"must be a {kind}")
        options[name] = value
    return ConfigDict(options)


def shrink(config: ConfigDict, networks: dict[str, str], source: str) -> None:
    """Makes the smoke form: synthetic data, two short epochs, small networks of the same family.

    Args:
      config: changed in place.
      networks: a smaller architecture for each network.
      source: a synthetic data source of the experiment's image size and classes.
    """
    config.data.source = source
    config.data.batch_size = 16
    config.train.epochs = 2.0
    config.train.allow_weak_teacher = True
    config.log.every_steps = 2
    for name, architecture in networks.items():
        config.networks[name].name = architecture
