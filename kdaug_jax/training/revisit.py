"""Evaluates a run that was trained before, without changing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint, workdir
from kdaug_jax.training.console import Console, Results
from kdaug_jax.training.evaluate import variables_of
from kdaug_jax.training.setup import prepare
from kdaug_jax.training.state import as_tree, from_tree, initial_states


def evaluate(
    config: Mapping[str, Any], directory: str | Path, *, stream: TextIO | None = None
) -> Results:
    """Evaluates the newest checkpoint of a run on validation and test; changes nothing.

    Args:
      config: as for `train`; networks and population are those the run was made with.
      directory: the working directory of the run.
      stream: console, by default standard output.

    Returns:
      Metrics by member name.

    Raises:
      UserError: there is no such run, or no checkpoint that is whole.
    """
    console = Console(stream)
    directory = Path(directory).expanduser().absolute()
    stored = workdir.read_json(directory / "config.json")
    if stored is None:
        raise ConfigError("--workdir", f"{directory} holds no run", "train it first")
    own = {name: stored["config"][name] for name in ("networks", "population", "optim")}
    setup = prepare({**configs.validate(config), **own}, directory, console.say, keep_record=True)
    folder = directory / "checkpoints"
    step = checkpoint.newest(folder, console.say, set_aside=False)
    if step is None:
        raise CheckpointError(str(folder), "holds no checkpoint", "train it first")
    tree, _ = checkpoint.load(folder / str(step), as_tree(initial_states(setup)))
    states = from_tree(tree)
    console.say(f"evaluating the checkpoint of step {step:,}")
    results = {}
    for member, state in zip(setup.members, states, strict=True):
        results[member.name] = {
            name: value
            for network in setup.first.trainable
            for split in ("validation", "test")
            for name, value in setup.evaluate(
                network, variables_of(state, network), split
            ).items()
        }
    console.results(setup, results, {})
    return results
