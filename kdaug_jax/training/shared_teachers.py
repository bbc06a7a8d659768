"""Teachers that several runs share: known by what they are trained with, and trained once.

`config.teachers` names a directory. Below it each teacher has the working directory
`<name>-<fingerprint>`. A teacher is another one if its recipe, the examples or the class names of
its data, a seed, the precision or the revision of the ops is another; where its data lie, what is
evaluated on the way and how often it is saved change nothing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdaug_jax.augment.revision import REVISION
from kdaug_jax.errors import ConfigError, InUse, TeacherInUse
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.sections import default
from kdaug_jax.runtime import manifest, processes, records

# Settings that change no weight of the last checkpoint; `*` stands for names.
WITHOUT_EFFECT = (*configs.FREE, "data.source", "data.validation", "data.test", "eval.*",
                  "checkpoint.*", "train.allow_weak_teacher")
# Settings of `eval` that a shared teacher keeps: how often, and on which pixels.
_KEPT = ("every_epochs", "batch_size", "view")


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
    evaluation = {**configs.plain(default())["eval"],
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
    config = {
        path: value for path, value in configs.flatten(configs.canonical(record["config"])).items()
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in WITHOUT_EFFECT)
    }
    return configs.fingerprint({
        "ops": REVISION, "config": config, "classes": data["class_names"],
        "train": data["splits"]["train"], "contents": contents.get("train", ""),
        "files": data["files"], "frozen": dict(frozen),
    })


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
