"""Loads the frozen networks of a run as it was started with them, by step and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen.functions import FUNCTION
from kdaug_jax.experiment.frozen.places import CHOICE, located, place_of
from kdaug_jax.experiment.frozen.stored import load
from kdaug_jax.experiment.network import Network
from kdaug_jax.models.variables import flatten
from kdaug_jax.runtime import manifest, records, workdir
from kdaug_jax.runtime.digest import sha256_file
from kdaug_jax.types import Info


def load_input(
    where: str, network: Network, checkpoint: str | Sequence[str], directory: Path, info: Info,
    say: Callable[[str], None], *, recorded: Mapping[str, Any] | None = None,
    unfinished: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the variables of a frozen network, and what a run records of them.

    Args:
      where: config path of the network.
      network: the network.
      checkpoint: of the config.
      directory: working directory of the run.
      info: facts of the training split.
      say: prints a line.
      recorded: what was returned when the run was started; exactly that is loaded.
      unfinished: whether a run that has not come to its end may be taken without naming its step.

    Returns:
      See `stored.load`; and `{"steps", "digest"}`: the step of each run that is averaged, None for
      what is no run, and the SHA-256 of all variables.

    Raises:
      ConfigError: a run is unfinished and its step is not named, or the contents are not those
        that were recorded.
      CheckpointError: the recorded step is gone or damaged, or see `stored.load`.
    """
    texts = located(checkpoint, directory) if network.checkpoint else ()
    parts = network.members or (network,)
    steps = recorded["steps"] if recorded else [None] * len(parts)
    if len(steps) == len(parts) == len(texts):
        parts = tuple(
            _part(where, part, text, step, unfinished, say)
            for part, text, step in zip(parts, texts, steps, strict=True)
        )
    network = network._replace(members=parts) if network.members else parts[0]
    variables = load(where, network, info, say)
    record = {
        "steps": [part.facts.get("step") for part in parts],
        "digest": variables_digest(variables, parts),
    }
    if recorded and recorded["digest"] != record["digest"]:
        raise ConfigError(
            f"{where}.checkpoint", f"{', '.join(texts)} does not hold what the run was started "
            f"with (steps {recorded['steps']} then, {record['steps']} now)",
            "restore it, use another --workdir, or --allow_config_change to go on with what is "
            "there now",
        )
    return variables, record


def _part(
    where: str, network: Network, text: str, recorded: int | None, unfinished: bool,
    say: Callable[[str], None],
) -> Network:
    """Returns a network whose step is the recorded one."""
    if network.facts.get("kind") != "run":
        return network
    place, step = place_of(text), network.facts.get("step")
    path = workdir.place(f"{where}.checkpoint", place.path)
    if recorded is None:
        named = place.best or place.step is not None
        if not (unfinished or named) and records.read_results(path) is None:
            name = f"{text}{CHOICE}{step}" if step is not None else f"{text}{CHOICE}STEP"
            raise ConfigError(
                f"{where}.checkpoint", f"{place.path} has not come to its end: it stands at step "
                f"{step}", f"run it to its end, or name the step: {name}",
            )
        return network
    if recorded == step:
        return network
    if wrong := manifest.verify(path / "checkpoints" / str(recorded)):
        gone = recorded not in manifest.steps(path / "checkpoints")
        raise CheckpointError(
            str(path / "checkpoints" / str(recorded)), "is the step that the run was started with, "
            f"and {'is gone' if gone else wrong}", "restore it, use another --workdir, or "
            "--allow_config_change to go on with what is there now",
        )
    say(f"{where}: step {recorded} of {place.path}, as when the run was started (it stands at "
        f"{step} now)")
    return network._replace(facts={**network.facts, "step": recorded})


def variables_digest(variables: Mapping[str, Any], parts: Sequence[Network]) -> str:
    """Returns the SHA-256 of variables, and of the files of serialised functions among `parts`."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(variables).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    for part in parts:
        if part.facts.get("kind") == "function":
            file = workdir.place("checkpoint", str(part.checkpoint))
            file = file / FUNCTION if file.is_dir() else file
            digest.update(sha256_file(file).encode())
    return digest.hexdigest()
