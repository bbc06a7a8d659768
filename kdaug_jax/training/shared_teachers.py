"""Teachers that several runs share: known by what they are trained with, and trained once.

`config.teachers` names a directory. Below it each teacher has the working directory
`teacher-<fingerprint>`. A teacher is another one if its recipe, the examples or the class names of
its data, a seed, the precision or the revision of the ops is another; where its data lie, what is
evaluated on the way and how often it is saved change nothing. A run that could be such a teacher,
because it trains one network by cross entropy on one view, is trained there as well, and its own
working directory is a link to that one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdaug_jax.augment.revision import REVISION
from kdaug_jax.errors import ConfigError, InUse, TeacherInUse
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.effects import ON_NO_WEIGHT, is_among
from kdaug_jax.experiment.sections import default
from kdaug_jax.runtime import manifest, processes, records

# Settings of `eval` that a shared teacher keeps: how often, and on which pixels.
_KEPT = ("every_epochs", "batch_size", "view")


def is_teacher(config: Mapping[str, Any]) -> bool:
    """Returns whether a run is one that `plan.teacher_config` could have made for another run.

    Args:
      config: a complete one.
    """
    networks, terms = config["networks"], config["terms"]
    if list(networks) != ["student"] or list(terms) != ["ce"]:
        return False
    chosen = config["checkpoint"]["best"]  # the best checkpoint of a shared teacher is by accuracy
    return (
        networks["student"]["trainable"] and terms["ce"]["loss"] == "cross_entropy"
        and len(terms["ce"]["on"]) == 1 and not config["phases"] and not config["population"]
        and chosen in ("", plain_default("checkpoint")["best"])
    )


def plain_default(section: str) -> dict[str, Any]:
    """Returns a section of the config of defaults."""
    return configs.plain(default())[section]


def shared_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a teacher without what only the experiment around it needs.

    Args:
      config: a complete one, of `plan.teacher_config`.

    Returns:
      A complete config with the views that its terms are on, and the default evaluation.
    """
    texts = configs.view_texts(config)
    used: set[str] = set()
    waiting = [view for term in config["terms"].values() for view in _views_of(term)]
    while waiting:
        view = waiting.pop()
        if view in texts and view not in used:
            used.add(view)
            source = views.source_of(view, texts[view])
            waiting += [source] if source else []
    evaluation = {**plain_default("eval"),
                  **{name: config["eval"][name] for name in _KEPT}}
    kept = {name: section for name, section in config["views"].items() if name in used}
    return configs.validate({**config, "views": kept, "eval": evaluation})


def _views_of(term: Mapping[str, Any]) -> list[str]:
    """Returns the views that a term is on, and those that its teachers are shown."""
    teachers = term["teacher"]
    teachers = (teachers,) if isinstance(teachers, str) else teachers
    return [*term["on"], *(name.partition("@")[2] for name in teachers)]


def teacher_fingerprint(
    record: Mapping[str, Any], contents: Mapping[str, str], frozen: Mapping[str, str]
) -> str:
    """Returns 16 hexadecimal digits that tell teachers of other weights apart.

    Args:
      record: of the plan of the teacher's config in its shared form, see `plan.RunPlan`.
      contents: digests of what the images of its data hold, by split.
      frozen: digests of the frozen networks that its config names by checkpoints.
    """
    data = record["data"]
    return configs.fingerprint({
        "ops": REVISION, "config": recipe_of(record["config"]), "classes": data["class_names"],
        "train": data["splits"]["train"], "contents": contents.get("train", ""),
        "files": data["files"], "frozen": dict(frozen),
    })


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config that change the weights of its run, by path.

    Args:
      config: a complete one.
    """
    flat = configs.flatten(configs.canonical(config))
    return {path: value for path, value in flat.items() if not is_among(path, ON_NO_WEIGHT)}


def directory_of(folder: str, fingerprint: str) -> str:
    """Returns the working directory of a shared teacher.

    Args:
      folder: `config.teachers`.
      fingerprint: see `teacher_fingerprint`.
    """
    return str(Path(folder) / f"teacher-{fingerprint}")


def link(root: Path, directory: Path) -> None:
    """Makes the working directory of a run a link to that of a shared teacher.

    Args:
      root: of the run, absolute; nothing lies there.
      directory: of the teacher, absolute.

    Raises:
      ConfigError: no link can be made there.
    """
    def make() -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(os.path.relpath(directory.resolve(), root.parent.resolve()))
        except OSError as error:
            raise ConfigError("--workdir", f"{root} cannot be a link to {directory} "
                              f"({error.strerror})", "leave teachers empty to train it there"
                              ) from None

    processes.on_first(make)


def finished_step(directory: Path) -> int | None:
    """Returns the last step of a shared teacher that is trained; None where it is not.

    Raises:
      ConfigError: the directory holds a finished run without checkpoints.
    """
    def look() -> int | None:
        if records.read_results(directory) is None:
            return None
        steps = manifest.steps(directory / "checkpoints")
        if not steps:
            raise ConfigError(str(directory), "is a finished teacher without checkpoints",
                              "restore them, or delete the directory to train it again")
        return steps[0]

    return processes.on_first(look)


def resumable(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Returns the config to train a shared teacher with, as the run that began it has it.

    Args:
      config: the teacher's config.
      directory: of the shared teacher, which another run may have begun.
    """
    stored = processes.on_first(lambda: records.read_record(directory))
    if not stored:
        return dict(config)
    begun = stored["config"]
    evaluated = {name: begun["data"][name] for name in ("source", "validation", "test")}
    return configs.validate({
        **config, "eval": begun["eval"], "checkpoint": begun["checkpoint"],
        "data": {**config["data"], **evaluated},
        "train": {**config["train"], "allow_weak_teacher": begun["train"]["allow_weak_teacher"]},
    })


def in_use(name: str, error: InUse) -> TeacherInUse:
    """Returns the error of a run whose teacher another run trains.

    Args:
      name: of the network.
      error: what the lock of the teacher's directory raised.
    """
    return TeacherInUse(
        f"networks.{name}", f"another run trains this teacher: {error.what}",
        "run again when it has ended",
    )
