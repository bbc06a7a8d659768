"""`--mode=export`: makes the directory that deploys the student of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from kdaug_jax.data.recorded import require_recorded
from kdaug_jax.deploy import artifact
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import views
from kdaug_jax.experiment.frozen.places import CHOICE, place_of
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.experiment.named_files import named_files
from kdaug_jax.runtime import records
from kdaug_jax.runtime.console import Console

EXPORT = "export"


def export_run(
    directory: str | Path, *, verify_data: bool = False, stream: TextIO | None = None
) -> dict[str, Any]:
    """Exports a state of a run into `<workdir>/export`: the newest, or the one that is named.

    Each member of a population goes to a folder of its number below it. An older export is
    replaced.

    Args:
      directory: the working directory of the run; `DIR@best`, `DIR@STEP`, `DIR@MEMBER` or
        `DIR@branch=N` names another state than the newest, on the branch that the run selected.
      verify_data: whether the contents of all images are read and compared with the recorded ones.
      stream: console, by default standard output.

    Returns:
      `{folder: sizes}` with the sizes that `artifact.write` returns.

    Raises:
      UserError: there is no such run, no intact checkpoint, or data that changed since.
    """
    console = Console(stream)
    place = place_of(str(directory), where="--workdir")
    directory, stored = records.read_run(place.path)
    names = records.class_names(directory, stored)
    files = named_files(stored["config"])
    require_recorded(stored, names, files, verify_data, console.say, console.progress)
    results = records.read_results(directory) or {}
    view, crop, size, dtype = stored["config"]["eval"]["view"], "", None, np.uint8
    if stored["data"].get("mixed"):  # files of any size are then cropped before the function
        leading, crop, view = views.split_leading(view, "eval.view")
        size, dtype = leading.plan.size, leading.plan.dtype
    sizes = {}
    named = {*stored["members"], *map(str, range(len(stored["members"])))}
    if place.member and place.member not in named:
        raise ConfigError("--workdir", f"{directory} holds no member '{place.member}'",
                          suggest(place.member, stored["members"]) if len(named) > 2
                          else "it is a single run, no sweep")
    for number, name in enumerate(stored["members"]):
        if fault := results.get(name, {}).get("failed"):
            console.say(f"{name} was not finite at step {fault['step']}: left out")
            continue
        if place.member not in ("", name, str(number)):
            continue
        chosen = str(directory) + "".join(
            f"{CHOICE}{choice}" for choice in (
                "best" if place.best else "", "" if place.step is None else f"step={place.step}"
            ) if choice
        )
        loaded = load_one(chosen, member=number, branch=place.branch, say=console.say)
        target = directory / EXPORT if len(stored["members"]) == 1 else (
            directory / EXPORT / str(number)
        )
        if jax.process_index() == 0:
            card = dataclasses.replace(loaded.card, crop=crop, size=size or loaded.card.size)
            sizes[str(target)] = artifact.write(
                target, loaded._replace(card=card), view, card.fill, dtype
            )
            console.say(f"{name or loaded.card.arch}: {target}")
            console.say(loaded.state)
            console.say(*artifact.table(sizes[str(target)]).split("\n"))
    return sizes
