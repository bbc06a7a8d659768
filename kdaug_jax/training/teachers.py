"""Trains the frozen networks of an experiment that have no checkpoint yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import workdir
from kdaug_jax.training.console import Console
from kdaug_jax.training.loop import train
from kdaug_jax.training.plan import WORKDIR, plan, teacher_config


def ensure(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Trains each frozen network without a checkpoint into `<workdir>/<its name>`.

    A network that was trained there before is used again; one that was being trained is taken up
    where it was left.

    Args:
      config: a ConfigDict or nested dicts.
      directory: the working directory of the experiment.
      allow_config_change: whether the teacher's directory may hold another config.
      stream: console, by default standard output.

    Returns:
      The complete config with all checkpoints filled in.

    Raises:
      UserError: whatever a user can mend.
    """
    full = configs.validate(config)
    missing = [
        name for name in configs.natural(full["networks"])
        if not full["networks"][name]["trainable"] and not full["networks"][name]["checkpoint"]
    ]
    if not missing:
        return full
    root = workdir.make(directory)
    # What is wrong with the experiment is told before its teachers are trained; what merely
    # changed is said when it is their turn.
    plan(full, root, lambda line: None, allow_config_change=allow_config_change)
    for name in missing:
        Console(stream).say(f"--- training {name} into {root / name}")
        train(
            teacher_config(full, name), root / name,
            allow_config_change=allow_config_change, stream=stream,
        )
        full["networks"][name]["checkpoint"] = WORKDIR + name
    Console(stream).say(f"--- training {', '.join(_trained(full))} into {root}")
    return full


def _trained(full: Mapping[str, Any]) -> list[str]:
    networks = full["networks"]
    return [name for name in configs.natural(networks) if networks[name]["trainable"]]
