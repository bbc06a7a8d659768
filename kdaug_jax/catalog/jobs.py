"""The command lines of rows and of experiments of several runs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdaug_jax.catalog.experiments import (
    Entry,
    Experiment,
    Several,
    option_set,
    trainings,
    with_options,
)
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.rows import CELL

_CELL = re.compile(rf"{CELL}([^@]+)(@.*)?")
TEACHERS, RUNS = "teachers", "runs"


class Job(NamedTuple):
    """One run.

    Attributes:
      name: of the row or cell.
      words: of the command line, after `main.py`.
      directory: the working directory.
      experiment: of the config file.
      options: of the config file.
      seed: None for the config's.
      overrides: of a cell, with directories in place of "cell:NAME".
      rows: that the run makes, empty for a cell.
      wanted: those of `rows` that were asked for, with the command line that measures what the
        run itself may not.
    """

    name: str
    words: tuple[str, ...]
    directory: Path
    experiment: Experiment
    options: str
    seed: int | None = None
    overrides: Mapping[str, Any] = {}
    rows: tuple[Entry, ...] = ()
    wanted: tuple[tuple[Entry, tuple[str, ...]], ...] = ()


def jobs_of_rows(
    entries: Sequence[Entry], directory: str, *, smoke: bool = False,
    seeds: Sequence[int] = (), passed: Sequence[str] = (),
) -> list[Job]:
    """Returns the runs of rows; those that are only quoted are left out.

    Rows that differ at most in what is measured have one run, whose directory has the name of the
    first of them. It is trained with the fewest of their options: files that only other rows
    measure with are not needed.

    Args:
      entries: rows.
      directory: in which each row gets a directory; "" for `runs/<experiment>`. The teachers of all
        rows lie in `teachers` there, or in `runs/teachers`.
      smoke: whether the smoke form is run.
      seeds: a run for each; empty for the config's.
      passed: further words for main.py.
    """
    several = len({entry.experiment.name for entry in entries}) > 1
    groups: dict[str, dict[str, tuple[Entry, ...]]] = {}
    jobs: dict[Path, Job] = {}
    for seed in seeds or (None,):
        for entry in entries:
            experiment, row = entry
            if row.options is None:
                continue
            if experiment.file not in groups:
                groups[experiment.file] = trainings(experiment)
            rows = groups[experiment.file][row.name]
            root = Path(directory or f"{RUNS}/{experiment.name}")
            place = _seeded(root / experiment.name if several and directory else root, seed)
            place /= rows[0].row.name

            fewest = min(rows, key=lambda other: len(option_set(other.row.options))).row.options
            training, measuring = (
                _words(experiment.file, with_options(options, smoke), place, directory, {}, seed,
                       (*more, *passed))
                for options, more in ((fewest, ()), (row.options, ("--mode=evaluate",)))
            )
            job = jobs.get(place) or Job(
                rows[0].row.name, training, place, experiment, with_options(fewest, smoke), seed,
                rows=rows,
            )
            jobs[place] = job._replace(wanted=(*job.wanted, (entry, measuring)))
    return list(jobs.values())


def jobs_of_cells(
    several: Several, directory: str, *, smoke: bool = False, seeds: Sequence[int] = (),
    passed: Sequence[str] = (),
) -> list[Job]:
    """Returns the runs of an experiment of several, see `jobs_of_rows`.

    Raises:
      ConfigError: a cell names another one that does not come before it.
    """
    root = Path(directory or f"{RUNS}/{several.name}")
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
            words = _words(
                several.experiment.file, options, place, directory, overrides, seed, passed
            )
            jobs.append(Job(cell.name, words, place, several.experiment, options, seed, overrides))
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
    file: str, options: str, place: Path, directory: str, overrides: Mapping[str, Any],
    seed: int | None, passed: Sequence[str],
) -> tuple[str, ...]:
    words = [f"--config={file}:{options}" if options else f"--config={file}", f"--workdir={place}"]
    words += [f"--config.{path}={_text(path, value)}" for path, value in overrides.items()]
    if seed is not None:
        words.append(f"--config.seed={seed}")
    if not any(word.startswith("--config.teachers") for word in passed):
        words.append(f"--config.teachers={Path(directory or RUNS) / TEACHERS}")
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
