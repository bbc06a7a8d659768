"""`--mode=export`: makes the directory that deploys the student of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import jax

from kdaug_jax.deploy import artifact
from kdaug_jax.experiment.frozen.standalone import load_one
from kdaug_jax.runtime import workdir
from kdaug_jax.runtime.console import Console

EXPORT = "export"


def export_run(directory: str | Path, *, stream: TextIO | None = None) -> dict[str, Any]:
    """Exports the newest whole checkpoint of a run into `<workdir>/export`.

    Each member of a population goes to a folder of its number below it. An older export is
    replaced.

    Args:
      directory: the working directory of the run.
      stream: console, by default standard output.

    Returns:
      `{folder: sizes}` with the sizes that `artifact.write` returns.

    Raises:
      UserError: there is no such run, or no intact checkpoint.
    """
    console = Console(stream)
    directory, stored = workdir.read_run(directory)
    view = stored["config"]["eval"]["view"]
    sizes = {}
    for number, name in enumerate(stored["members"]):
        loaded = load_one(directory, member=number, say=console.say)
        target = directory / EXPORT if len(stored["members"]) == 1 else (
            directory / EXPORT / str(number)
        )
        if jax.process_index() == 0:
            sizes[str(target)] = artifact.write(target, loaded, view, loaded.card.mean)
            console.say(f"{name or loaded.card.arch}: {target}")
            console.say(artifact.table(sizes[str(target)]))
    return sizes
