"""Evaluates a run that was trained before, from its working directory alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from kdaug_jax import data
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks, views
from kdaug_jax.runtime import sharding, workdir
from kdaug_jax.training import evaluate
from kdaug_jax.training.console import Console, Results, results_table
from kdaug_jax.training.setup import load


def evaluate_run(
    config: Mapping[str, Any],
    directory: str | Path,
    *,
    allow_config_change: bool = False,
    stream: TextIO | None = None,
) -> Results:
    """Evaluates the newest whole checkpoint on validation and test; changes nothing.

    Args:
      config: a ConfigDict or nested dicts, of which `data`, `eval`, `mesh` and `precision` count;
        networks and population are those that the run recorded.
      directory: the working directory of the run; its teachers are not needed.
      allow_config_change: whether `data` may be other than what the run was trained on.
      stream: console, by default standard output.

    Returns:
      Metrics by member name.

    Raises:
      UserError: there is no such run, or no checkpoint that is whole.
    """
    console = Console(stream)
    directory = Path(directory).expanduser().absolute()
    stored = workdir.read_record(directory)
    if stored is None:
        raise ConfigError("--workdir", f"{directory} holds no run", "train it first")
    full = configs.validate(config)
    section = full["data"]
    changed = configs.difference({"data": stored["config"]["data"]}, {"data": section})
    if changed and not allow_config_change:
        raise ConfigError(
            str(directory / "config.json"),
            "the run was trained on other data (" + "; ".join(changed) + ")",
            "give the config it was trained with, or --allow_config_change",
        )
    uses = ("train", "validation", "test")
    dataset = data.load(section["source"], {use: section[use] for use in uses})
    info = data.describe(dataset)
    mesh = sharding.make_mesh(full["mesh"]["data"], section["batch_size"])
    view = views.parse("eval", full["eval"]["view"], info)
    trained = [name for name, facts in stored["networks"].items() if facts["trainable"]]
    main = evaluate.main_network(trained)
    results: Results = {member: {} for member in stored["members"]}
    architectures = {}
    for name in configs.natural(trained):
        where = f"networks.{name}"
        frozen = {"name": "", "trainable": False, "checkpoint": str(directory), "source": name}
        network = networks.build(
            name, configs.network(**frozen), info, 1, 0, full["precision"]
        )
        architectures[name] = network.model.name
        run = evaluate.make_eval(network, view, info, sharding.replicated(mesh))
        for number, found in enumerate(results.values()):
            variables = sharding.put_whole(mesh, load(where, network, info, console.say, number))
            for split in uses[1:]:
                values = evaluate.run(
                    run, variables, dataset.splits[split],
                    full["eval"]["batch_size"] or section["batch_size"], mesh,
                )
                found |= evaluate.named(values, split, name, main)
    console.say(results_table(architectures, main, results, {}))
    return results
