"""Manifests, which tell whole checkpoints from damaged and unfinished ones.

Orbax restores a file with a flipped bit without an error. So a manifest with the SHA-256 of every
file is written into each step once it is committed, and compared before anything is restored.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import explained, read_json, refusals
from kdaug_jax.runtime.digest import sha256_file
from kdaug_jax.runtime.workdir import write_whole

MANIFEST = "manifest.sha256.json"
UNFINISHED_KIND = "unfinished"
UNFINISHED = "it has no manifest: the run ended while it was written, or it was deleted"


def _files(step_dir: Path) -> list[str]:
    files = (path for path in step_dir.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(step_dir)) for path in files if path.name != MANIFEST)


def write(step_dir: Path) -> None:
    """Writes the manifest of a committed step, all at once."""
    sums = {name: sha256_file(step_dir / name) for name in _files(step_dir)}
    write_whole(step_dir / MANIFEST, json.dumps(sums, indent=1))


def lists(step_dir: Path, name: str) -> bool:
    """Returns whether the manifest of a step holds the sum of a file."""
    try:
        return name in read_json(step_dir / MANIFEST)
    except (OSError, ValueError, TypeError):
        return False


def verify(step_dir: Path) -> str:
    """Compares a step with its manifest; files that have not changed since are read once.

    Args:
      step_dir: `<checkpoints>/<step>`.

    Returns:
      What is wrong with it in a few words; "" if it is whole.
    """
    try:
        stamps = [(name, (step_dir / name).stat()) for name in (*_files(step_dir), MANIFEST)]
    except OSError:
        return _verify(step_dir)  # which tells what is missing
    return _verify_once(
        step_dir, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stamps)
    )


@functools.lru_cache(maxsize=64)
def _verify_once(step_dir: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    return _verify(step_dir)


def _verify(step_dir: Path) -> str:
    try:
        sums = read_json(step_dir / MANIFEST)
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError):
        return f"{MANIFEST} cannot be read"
    if not isinstance(sums, dict) or not sums:
        return f"{MANIFEST} cannot be read"
    try:
        missing = sorted(set(sums) - set(_files(step_dir)))
    except OSError as error:
        return f"cannot be listed ({explained(error).strerror})"
    if missing:
        return f"{missing[0]} is missing"
    for name, digest in sums.items():
        try:
            if sha256_file(step_dir / name) != digest:
                return f"{name} is corrupt"
        except CheckpointError as error:
            return f"{name} {error.what}"
    return ""


def is_whole_file(step_dir: Path, name: str) -> bool:
    """Returns whether a file of a step is as the manifest has it."""
    try:
        sums = read_json(step_dir / MANIFEST)
        return isinstance(sums, dict) and sums.get(name) == sha256_file(step_dir / name)
    except (OSError, ValueError, CheckpointError):
        return False


@refusals(CheckpointError)
def steps(directory: Path) -> list[int]:
    """Returns the steps of a checkpoint directory, newest first, whole or not."""
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    whole = (name for name in names if name.isdecimal() and name == str(int(name)))
    return sorted(map(int, whole), reverse=True)


def newest(directory: Path, say: Callable[[str], None], *, set_aside: bool) -> int | None:
    """Returns the newest step that verifies.

    Args:
      directory: the checkpoint directory.
      say: prints a line about each step that is passed over.
      set_aside: whether to rename such steps, and damaged ones before it, to `<step>.corrupt` or
        `<step>.unfinished`, out of the way of new ones.

    Returns:
      The step; None if there are no checkpoints, or only unfinished ones.

    Raises:
      CheckpointError: some are damaged, and none is whole.
    """
    bad: dict[int, str] = {}
    whole = None
    for step in steps(directory):
        wrong = verify(directory / str(step))
        if not wrong:
            whole = step if whole is None else whole
            if not set_aside:
                break
            continue  # an older one that is damaged must not count as the best
        bad[step] = wrong
        say(f"warning: checkpoint of step {step} is passed over: {wrong}")
    damaged = [step for step, wrong in bad.items() if wrong != UNFINISHED]
    if whole is None and (damaged or list(directory.glob("*.corrupt*"))):
        # Nothing is moved: starting over must be the user's own decision.
        raise CheckpointError(
            str(directory), "no checkpoint is whole",
            "restore the files from a copy, or start in a new --workdir",
        )
    if set_aside:
        for step, wrong in bad.items():
            kind = UNFINISHED_KIND if wrong == UNFINISHED else "corrupt"
            set_aside_step(directory / str(step), kind)
    return whole


def clear_unfinished(directory: Path) -> None:
    """Removes steps that were set aside because runs ended while they were written."""
    for path in directory.glob(f"*.{UNFINISHED_KIND}*"):
        if re.fullmatch(rf"\d+\.{UNFINISHED_KIND}\d*", path.name):
            shutil.rmtree(path, ignore_errors=True)


def set_aside_step(step_dir: Path, kind: str) -> None:
    """Renames a step to `<step>.<kind>`, out of the way of new ones."""
    number = 0
    while (target := step_dir.with_name(f"{step_dir.name}.{kind}{number or ''}")).exists():
        number += 1
    step_dir.rename(target)
