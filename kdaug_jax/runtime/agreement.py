"""What the processes of a run have to agree on before they compute together."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import time
import uuid
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from kdaug_jax.errors import Disagreement
from kdaug_jax.runtime import processes, signals
from kdaug_jax.runtime.digest import sha256_file

# Differences that are printed of one process.
_SHOWN = 5
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "grain")
_PAUSE = 0.2


def agree(facts: Mapping[str, Any] | None = None) -> None:
    """Waits for the other processes, and validates that all of them know the same facts.

    Args:
      facts: JSON values by name; process 0's are the reference.

    Raises:
      Disagreement: a process has others; the same error in every process.
      UserError: that with which another process has failed.
      Stop: one of them has received a signal.
    """
    if processes.count() == 1:
        return
    signals.check_together(processes.exchange)
    texts = {name: json.dumps(value, sort_keys=True) for name, value in (facts or {}).items()}
    first, *others = processes.exchange(texts)
    differing = [
        f"process {number} has {_differences(first, theirs)}"
        for number, theirs in enumerate(others, start=1) if theirs != first
    ]
    if differing:
        raise Disagreement(
            "--distributed", "the processes differ from process 0: " + "; ".join(differing),
            "start all of them with the same command, code, packages, files and data",
        )


def _differences(first: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    names = sorted(name for name in {*first, *theirs} if first.get(name) != theirs.get(name))
    lines = [
        f"{name} {_short(theirs.get(name, 'none'))} instead of {_short(first.get(name, 'none'))}"
        for name in names[:_SHOWN]
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(lines) + more


def _short(text: str) -> str:
    if len(text) <= 60:
        return text
    return f"{text[:24]}… (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"


@functools.cache
def software() -> dict[str, str]:
    """Returns the versions of Python and of the packages that compute, and a digest of this one."""
    root = Path(__file__).parents[1]
    lines = [f"{file.relative_to(root)} {sha256_file(file)}" for file in sorted(root.rglob("*.py"))]
    digest = hashlib.sha256("\n".join(lines).encode())
    versions = {name: metadata.version(name) for name in _PACKAGES if _is_installed(name)}
    return {"python": platform.python_version(), **versions, "kdaug_jax": digest.hexdigest()[:16]}


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def require_shared(directory: Path, seconds: float) -> None:
    """Validates that all processes see the same working directory.

    Process 0 writes a file there, and every process lists the directory until it sees it: over a
    network a new file may be invisible for half a minute.

    Args:
      directory: which exists in each process.
      seconds: how long to look.

    Raises:
      Disagreement: a process does not see the file; the same error in every process.
    """
    if processes.count() == 1:
        return
    token = processes.on_first(lambda: _write_token(directory))
    ends, seen = time.monotonic() + seconds, False
    while not seen and time.monotonic() < ends:
        seen = any(path.name == token for path in directory.iterdir())
        if not seen:
            time.sleep(_PAUSE)
    blind = [number for number, sees in enumerate(processes.exchange(seen)) if not sees]
    processes.on_first(lambda: (directory / token).unlink(missing_ok=True))
    if blind:
        raise Disagreement(
            "--workdir", f"{directory} is not shared: what process 0 writes there, process "
            f"{', '.join(map(str, blind))} did not see within {seconds:g} s",
            "name a directory of a file system that all hosts mount, or --shared_seconds=N",
        )


def _write_token(directory: Path) -> str:
    token = f".shared-{uuid.uuid4().hex}"
    (directory / token).write_text("")
    return token
