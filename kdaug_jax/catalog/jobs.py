"""The command lines of rows and of experiments of several runs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdaug_jax.catalog.experiments import Entry, Several, same_run
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.rows import CELL

_CELL = re.compile(rf"{CELL}([^@]+)(@.*)?")
TEACHERS = "teachers"


class Job(NamedTuple):
    """One run.

    Attributes:
      name: of the row or cell.
      words: of the command line, after `main.py`.
      directory: the working directory.
      entry: the row, None for a cell.
      options: of the config file.
      overrides: of a cell, with directories in place of "cell:NAME".
    """

    name: str
    words: tuple[str, ...]
    directory: Path
    entry: Entry | None
    options: str
    overrides: Mapping[str, Any] = {}


def jobs_of_rows(
    entries: Sequence[Entry], directory: str, *, smoke: bool = False,
    seeds: Sequence[int] = (), passed: Sequence[str] = (),
) -> list[Job]:
    """Returns the runs of rows; those that are only quoted are left out.

    Rows of equal options have one run, whose directory has the name of the first of them.

    Args:
      entries: rows.
      directory: in which each row gets a directory; "" for `runs/<experiment>`.
      smoke: whether the smoke form is run.
      seeds: a run for each; empty for the config's.
      passed: further words for main.py.
    """
    several = len({entry.experiment.name for entry in entries}) > 1
    jobs: dict[Path, Job] = {}
    for seed in seeds or (None,):
        for entry in entries:
            if entry.row.options is None:
                continue
            first = same_run(entry)[0]
            experiment, row = first
            root = Path(directory or f"runs/{experiment.name}")
            place = _seeded(root / experiment.name if several and directory else root, seed)
            place /= row.name
            options = with_options(row.options, smoke)
            words = _words(experiment.file, options, place, root, {}, seed, passed)
            jobs.setdefault(place, Job(row.name, words, place, first, options))
    return list(jobs.values())


def jobs_of_cells(
    several: Several, directory: str, *, smoke: bool = False, seeds: Sequence[int] = (),
    passed: Sequence[str] = (),
) -> list[Job]:
    """Returns the runs of an experiment of several, see `jobs_of_rows`.

    Raises:
      ConfigError: a cell names another one that does not come before it.
    """
    root = Path(directory or f"runs/{several.name}")
    jobs = []
    for seed in seeds or (None,):
        places: dict[str, Path] = {}
        for cell in several.cells:
            overrides = {
                path: _located(several, cell.name, value, places)
                for path, value in cell.overrides.items()
            }
            place = places[cell.name] = _seeded(root, seed) / cell.name
            options = with_options(cell.options, smoke)
            words = _words(several.experiment.file, options, place, root, overrides, seed, passed)
            jobs.append(Job(cell.name, words, place, None, options, overrides))
    return jobs


def _seeded(directory: Path, seed: int | None) -> Path:
    return directory if seed is None else directory / f"seed{seed}"


def _located(several: Several, name: str, value: Any, places: Mapping[str, Path]) -> Any:
    """Returns a value of an override with the directories of cells in place of their names."""
    if isinstance(value, list | tuple):
        return tuple(_located(several, name, part, places) for part in value)
    match = _CELL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    if match[1] not in places:
        raise ConfigError(
            several.experiment.file, f"the cell {name} of {several.name} names '{match[1]}', which "
            "is no cell before it", "name an earlier one",
        )
    return f"{places[match[1]]}{match[2] or ''}"


def _words(
    file: str, options: str, place: Path, root: Path, overrides: Mapping[str, Any],
    seed: int | None, passed: Sequence[str],
) -> tuple[str, ...]:
    words = [f"--config={file}:{options}" if options else f"--config={file}", f"--workdir={place}"]
    words += [f"--config.{path}={_text(path, value)}" for path, value in overrides.items()]
    if seed is not None:
        words.append(f"--config.seed={seed}")
    if not any(word.startswith("--config.teachers") for word in passed):
        words.append(f"--config.teachers={root / TEACHERS}")
    return (*words, *passed)


def _text(path: str, value: Any) -> str:
    """Returns a value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and path.endswith(".checkpoint"):
        return ",".join(value)
    return str(value)


def shell_line(job: Job, main: Path) -> str:
    """Returns a command that a shell runs as it is printed.

    Args:
      job: the run.
      main: path of main.py.
    """
    on_path = shutil.which("python")
    same = on_path and Path(on_path).absolute() == Path(sys.executable).absolute()
    return shlex.join(["python" if same else sys.executable, str(main), *job.words])


def with_options(options: str, smoke: bool) -> str:
    """Returns options of a config file with or without the smoke form."""
    return ",".join(filter(None, (options, "smoke" if smoke else "")))
