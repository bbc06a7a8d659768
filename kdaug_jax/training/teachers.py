"""Trains the frozen networks of an experiment that have no checkpoint yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax.data.options import no_bar
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.inputs import load_input
from kdaug_jax.runtime import mark, processes, records, sharding, workdir
from kdaug_jax.runtime.console import Console
from kdaug_jax.training.loop import train
from kdaug_jax.training.plan import WORKDIR, RunPlan, plan_run, teacher_config, teacher_label


def ensure(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    verify_data: bool = False,
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Trains each frozen network without a checkpoint into `<workdir>/<its name>`.

    A network that was trained there before is used again; training that was interrupted is
    resumed. Teachers of a teacher are trained first, into `<workdir>/<its name>/<their name>`.

    Args:
      config: a ConfigDict or nested dicts.
      directory: the working directory of the experiment.
      allow_config_change: whether the teacher's directory may hold another config.
      verify_data: whether the contents of all images are read and compared.
      stream: console, by default standard output.

    Returns:
      The complete config with all checkpoints filled in.

    Raises:
      UserError: whatever a user can mend.
    """
    full = configs.validate(config)
    if not _missing(full):
        return full
    checks = {"allow_config_change": allow_config_change, "verify_data": verify_data}
    with mark.made(directory) as root:
        _check(full, root, allow_config_change, progress=Console(stream).progress)
        return _ensure(full, root, checks, stream)


def _ensure(
    full: dict[str, Any], root: Path, checks: Mapping[str, bool], stream: TextIO | None
) -> dict[str, Any]:
    missing = _missing(full)
    for name in missing:
        Console(stream).say(f"--- training {teacher_label(name)} into {root / name}")
        derived = teacher_config(full, name)
        train(
            _ensure(derived, root / name, checks, stream), root / name, **checks, stream=stream,
        )
        full["networks"][name]["checkpoint"] = WORKDIR + name
    if missing:
        Console(stream).say(f"--- training {', '.join(_trained(full))} into {root}")
    return full


def _missing(full: Mapping[str, Any]) -> list[str]:
    networks = full["networks"]
    return [
        name for name in configs.natural_sort(networks)
        if not networks[name]["trainable"] and not networks[name]["checkpoint"]
    ]


def _check(
    full: Mapping[str, Any], root: Path, allow_config_change: bool, beside: RunPlan | None = None,
    progress: Callable[[float, str], None] = no_bar,
) -> None:
    """Validates the experiment and all of its teachers before any of them is trained.

    Lines such as changes of the config are printed later, when each of them is trained.
    """
    def quiet(line: str) -> None:
        del line

    def share_devices(config: Mapping[str, Any]) -> None:
        batch_size, parts = config["data"]["batch_size"], config["train"]["accumulate"]
        mesh = config["mesh"]
        sharding.make_mesh(mesh["data"], batch_size, parts, group=mesh["model"])

    planned = plan_run(
        full, root, quiet, allow_config_change=allow_config_change, beside=beside,
        progress=progress,
    )
    first = planned.programs[0]
    share_devices(full)
    for name, network in first.networks.items():
        if not network.trainable and network.checkpoint:
            checkpoint = full["networks"][name]["checkpoint"]
            load_input(f"networks.{name}", network, checkpoint, root, first.info, quiet)
    for name in _missing(full):
        if full["networks"][name]["sha256"]:
            raise ConfigError(f"networks.{name}.sha256", "is of a file, and no checkpoint is named",
                              f"name the file as networks.{name}.checkpoint, or leave it empty")
        try:
            _check(teacher_config(full, name), root / name, allow_config_change, planned)
        except ConfigError as error:
            if error.where.startswith(str(root)):
                raise
            where = f"networks.{name}.recipe ({error.where})"
            raise ConfigError(where, error.what, error.remedy) from None
    if beside is None and processes.on_first(lambda: records.read_results(root)) is None:
        workdir.require_room(root / "checkpoints", [first.state_shapes()] * len(planned.members))


def _trained(full: Mapping[str, Any]) -> list[str]:
    networks = full["networks"]
    return [name for name in configs.natural_sort(networks) if networks[name]["trainable"]]
