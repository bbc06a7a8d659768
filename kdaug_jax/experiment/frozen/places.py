"""Reads what `networks.<name>.checkpoint` says: paths, and which state below each is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime import workdir
from kdaug_jax.runtime.workdir import CHOICE

# Stands for the run's own directory at the front of a checkpoint's path.
WORKDIR = "workdir:"
_BEST, _STEP, _MEMBER, _BRANCH = "best", "step=", "member=", "branch="


class Place(NamedTuple):
    """A checkpoint as a config names it: `DIR`, `DIR@best`, `DIR@1200`, `DIR@seed=1@best`.

    Attributes:
      path: before the first `@`; an existing path that holds an `@` is a path.
      member: name or number of the member of a sweep; empty where none is named.
      step: the step that is named, or None.
      best: whether the kept best is named.
      branch: the BatchNorm branch that is named, or None.
      bare: whether the step is a number without `step=`, which names a member of a sweep where no
        such step is kept.
    """

    path: str
    member: str = ""
    step: int | None = None
    best: bool = False
    branch: int | None = None
    bare: bool = False

    @property
    def chosen(self) -> bool:
        """Whether anything but the path is named."""
        return self._replace(path="") != Place("")


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 19  # Python reads no number of thousands of digits


def _exists(path: str) -> bool:
    try:
        return workdir.place("checkpoint", path).exists()
    except (ConfigError, OSError):
        return False


def place_of(
    checkpoint: str, exists: Callable[[str], bool] = _exists, where: str = "checkpoint"
) -> Place:
    """Returns what a single checkpoint names.

    Args:
      checkpoint: a path, then any of `@best`, `@STEP` (or `@step=STEP`), `@MEMBER` (or
        `@member=MEMBER`) and `@branch=NUMBER`, each once.
      exists: whether something lies at a path.
      where: config path or flag, for messages.

    Raises:
      ConfigError: a choice is empty or made twice.
    """
    path, choices = checkpoint, []
    while CHOICE in path and not exists(path):
        path, _, choice = path.rpartition(CHOICE)
        choices.insert(0, choice)
    if not exists(path):  # the message names what was written
        path, *choices = checkpoint.split(CHOICE) if choices else [checkpoint]
    place = Place(path)
    for choice in choices:
        if choice == _BEST:
            fields = {"best": True}
        elif _is_number(choice.removeprefix(_STEP)):
            fields = {"step": int(choice.removeprefix(_STEP)), "bare": choice.isdecimal()}
        elif choice.startswith(_BRANCH) and _is_number(choice.removeprefix(_BRANCH)):
            fields = {"branch": int(choice.removeprefix(_BRANCH))}
        else:
            fields = {"member": choice.removeprefix(_MEMBER)}
        twice = any(getattr(place, name) not in ("", None, False) for name in fields)
        twice = twice or bool({"best", "step"} & set(fields)) and (
            place.best or place.step is not None
        )
        if not choice.removeprefix(_MEMBER) or twice:
            raise ConfigError(
                where, f"'{checkpoint}' names '{CHOICE}{choice}', which is "
                + ("a second choice" if twice else "no member"),
                "write DIR, DIR@best, DIR@STEP, DIR@MEMBER or DIR@branch=NUMBER",
            )
        place = place._replace(**fields)
    return place


def checkpoints_of(
    checkpoint: str | Sequence[str], exists: Callable[[str], bool] = _exists
) -> tuple[str, ...]:
    """Returns the checkpoints of a config: the items of a list, or of a text with commas.

    A text that names something which exists is one checkpoint, commas or not; an item of a list
    always is.

    Args:
      checkpoint: a text or several.
      exists: see `place_of`.
    """
    if not isinstance(checkpoint, str):
        return tuple(checkpoint)
    parts = tuple(part.strip() for part in checkpoint.split(","))
    if len(parts) == 1 or exists(checkpoint):
        return (checkpoint.strip(),)

    def is_there(text: str) -> bool:
        return exists(place_of(text, exists).path)

    # The name of a member may hold commas: DIR@seed=1,terms.kd.weight=0.5
    if not all(map(is_there, parts)) and is_there(checkpoint):
        return (checkpoint,)
    return parts


def located(
    checkpoint: str | Sequence[str], directory: Path
) -> str | tuple[str, ...]:
    """Replaces `workdir:` in front of checkpoints, so that a run may be moved with its teacher.

    Args:
      checkpoint: see `checkpoints_of`.
      directory: working directory of the run.

    Returns:
      A tuple of checkpoints, so that no text is split twice; "" where none is given.
    """
    def path_of(text: str) -> str:
        return str(directory / text.removeprefix(WORKDIR)) if text.startswith(WORKDIR) else text

    if checkpoint == "":
        return ""
    return tuple(map(path_of, checkpoints_of(checkpoint, lambda text: _exists(path_of(text)))))


def absolute(checkpoint: str) -> Path:
    """Returns the absolute path of a checkpoint, without what it chooses there."""
    return workdir.place("checkpoint", place_of(checkpoint).path)
