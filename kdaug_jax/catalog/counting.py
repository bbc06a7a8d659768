"""How many networks the runs of rows or of an experiment train, teachers among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kdaug_jax.catalog.jobs import Job
from kdaug_jax.catalog.measured import data_set
from kdaug_jax.catalog.records import config_of_cell
from kdaug_jax.experiment import config as configs
from kdaug_jax.training import shared_teachers
from kdaug_jax.training.plan import teacher_config


class TrainingCount(NamedTuple):
    """Trainings of some runs.

    Attributes:
      runs: number of runs, those that are teachers of others among them.
      teachers: number of teachers, however many runs share each.
      both: number of runs that are teachers of others.
    """

    runs: int
    teachers: int
    both: int

    @property
    def trainings(self) -> int:
        """Networks that are trained, each counted once."""
        return self.runs + self.teachers - self.both


def count_of(jobs: Sequence[Job]) -> TrainingCount:
    """Returns how many networks runs train that share their teachers; nothing is read or trained.

    Args:
      jobs: the runs.
    """
    runs, teachers = set(), set()
    for job in jobs:
        full = config_of_cell(job.experiment, job)
        if job.seed is not None:
            full = configs.validate({**full, "seed": job.seed})
        alone = shared_teachers.is_teacher(full)
        runs.add(_key(shared_teachers.shared_form(full)) if alone else str(job.directory))
        teachers |= set(_teachers(full))
    return TrainingCount(len(runs), len(teachers), len(runs & teachers))


def _teachers(full: Mapping[str, Any]) -> Iterator[str]:
    """Yields what tells the teachers apart that a run trains, and theirs."""
    for name, section in full["networks"].items():
        if section["trainable"] or section["checkpoint"]:
            continue
        config = shared_teachers.shared_form(teacher_config(full, name))
        yield _key(config)
        yield from _teachers(config)


def _key(config: Mapping[str, Any]) -> str:
    return configs.fingerprint({
        "data": data_set(config["data"]["source"]), "recipe": shared_teachers.recipe_of(config)
    })
