"""Trains the frozen networks of an experiment that have no checkpoint yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from kdaug_jax.data.options import no_bar
from kdaug_jax.data.recorded import data_contents
from kdaug_jax.errors import ConfigError, InUse
from kdaug_jax.evaluation.data_sets import read_options
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen.inputs import load_input
from kdaug_jax.runtime import mark, processes, records, sharding, workdir
from kdaug_jax.runtime.console import Console
from kdaug_jax.training import shared_teachers
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
    With `teachers=DIR` all of them lie in DIR, and a run that could be one of them is trained there
    itself, see `training.shared_teachers`.

    Args:
      config: a ConfigDict or nested dicts.
      directory: the working directory of the experiment.
      allow_config_change: whether the teacher's directory may hold another config.
      verify_data: whether the contents of all images are read and compared.
      stream: console, by default standard output.

    Returns:
      The complete config with all checkpoints filled in.

    Raises:
      TeacherInUse: another run trains a shared teacher.
      UserError: whatever else a user can mend.
    """
    full = configs.validate(config)
    if full["teachers"] and shared_teachers.is_teacher(full):
        return _as_teacher(full, workdir.place("--workdir", directory), stream)
    if not _missing(full):
        return full
    checks = {"allow_config_change": allow_config_change, "verify_data": verify_data}
    with mark.made(directory) as root:
        checked = _check(full, root, allow_config_change, progress=Console(stream).progress)
        return _ensure(full, root, checked, checks, stream)


def _as_teacher(full: dict[str, Any], root: Path, stream: TextIO | None) -> dict[str, Any]:
    """Returns the config to train a run with that is a teacher which others may share."""
    console = Console(stream)
    if not processes.on_first(lambda: os.path.lexists(root)):
        checked = _check(shared_teachers.shared_form(full), root, False, shared=True,
                         progress=console.progress)
        place = shared_teachers.directory_of(full["teachers"], checked.fingerprint)
        shared_teachers.link(root, workdir.place("teachers", place))
    if not processes.on_first(root.is_symlink):  # begun on its own
        return full
    console.say(f"--- a teacher that other runs may share: {root} is a link to {root.resolve()}")
    return shared_teachers.resumable(full, root)


class _Checked(NamedTuple):
    """What is known of a config once it and the teachers that it trains are checked.

    Attributes:
      fingerprint: of a teacher that is shared, "" of any other run.
      teachers: those that are trained first, by name.
    """

    fingerprint: str
    teachers: dict[str, _Checked]


def _ensure(
    full: dict[str, Any], root: Path, checked: _Checked, checks: Mapping[str, bool],
    stream: TextIO | None,
) -> dict[str, Any]:
    say = Console(stream).say
    for name, teacher in checked.teachers.items():
        derived = _derived(full, name)
        if not full["teachers"]:
            say(f"--- training {teacher_label(name)} into {root / name}")
            train(_ensure(derived, root / name, teacher, checks, stream), root / name, **checks,
                  stream=stream)
            full["networks"][name]["checkpoint"] = WORKDIR + name
            continue
        place = shared_teachers.directory_of(full["teachers"], teacher.fingerprint)
        directory = workdir.place("teachers", place)
        step = shared_teachers.finished_step(directory)
        if step is None:
            say(f"--- training {teacher_label(name)}, which other runs may share, into {directory}")
            _train_shared(name, derived, directory, teacher, checks, stream)
        else:
            say(f"{teacher_label(name)}: trained before by the same recipe, data and seeds: step "
                f"{step:,} of {directory}")
        full["networks"][name]["checkpoint"] = place
    if checked.teachers:
        say(f"--- training {', '.join(_trained(full))} into {root}")
    return full


def _train_shared(
    name: str, derived: dict[str, Any], directory: Path, checked: _Checked,
    checks: Mapping[str, bool], stream: TextIO | None,
) -> None:
    derived = shared_teachers.resumable(derived, directory)
    complete = _ensure(derived, directory, checked, checks, stream)
    try:
        train(complete, directory, **checks, stream=stream)
    except InUse as error:
        raise shared_teachers.in_use(name, error) from None


def _derived(full: Mapping[str, Any], name: str) -> dict[str, Any]:
    derived = teacher_config(full, name)
    return shared_teachers.shared_form(derived) if full["teachers"] else derived


def _missing(full: Mapping[str, Any]) -> list[str]:
    networks = full["networks"]
    return [
        name for name in configs.natural_sort(networks)
        if not networks[name]["trainable"] and not networks[name]["checkpoint"]
    ]


def _check(
    full: Mapping[str, Any], root: Path, allow_config_change: bool, beside: RunPlan | None = None,
    progress: Callable[[float, str], None] = no_bar, *, shared: bool = False,
) -> _Checked:
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
        progress=progress, record=not shared,
    )
    first = planned.programs[0]
    share_devices(full)
    digests = {}
    for name, network in first.networks.items():
        if not network.trainable and network.checkpoint:
            checkpoint = full["networks"][name]["checkpoint"]
            _, loaded = load_input(
                f"networks.{name}", network, checkpoint, root, first.info, quiet
            )
            digests[name] = loaded["digest"]
    teachers = {}
    for name in _missing(full):
        if full["networks"][name]["sha256"]:
            raise ConfigError(f"networks.{name}.sha256", "is of a file, and no checkpoint is named",
                              f"name the file as networks.{name}.checkpoint, or leave it empty")
        try:
            teachers[name] = _check(
                _derived(full, name), root / name, allow_config_change, planned,
                shared=bool(full["teachers"]),
            )
        except ConfigError as error:
            if error.where.startswith(str(root)):
                raise
            where = f"networks.{name}.recipe ({error.where})"
            raise ConfigError(where, error.what, error.remedy) from None
    if beside is None and processes.on_first(lambda: records.read_results(root)) is None:
        workdir.require_room(root / "checkpoints", [first.state_shapes()] * len(planned.members))
    if not shared:
        return _Checked("", teachers)
    contents = data_contents(planned.dataset, False, read_options(full["data"], quiet))
    return _Checked(
        shared_teachers.teacher_fingerprint(planned.record, contents, digests), teachers
    )


def _trained(full: Mapping[str, Any]) -> list[str]:
    networks = full["networks"]
    return [name for name in configs.natural_sort(networks) if networks[name]["trainable"]]
