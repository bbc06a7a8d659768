"""`--mode=compile`: compiles a config's steps for devices that are not there, and sizes the job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from absl import flags

from kdaug_jax import data
from kdaug_jax.compile import assumed, compilers, programs, topologies
from kdaug_jax.compile.measure import measure
from kdaug_jax.compile.report import report
from kdaug_jax.errors import DataError
from kdaug_jax.evaluation.data_sets import load_data
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime.console import Console
from kdaug_jax.training.setup import notices


def compile_with_flags(config: Mapping[str, Any], values: flags.FlagValues) -> None:
    """Calls `compile_run` with the flags of a command line."""
    compile_run(
        config, values.topology, assume=values.assume, directory=values.workdir,
        compilers_directory=values.compilers,
    )


def compile_run(
    config: Mapping[str, Any], topology: str, *, assume: str = "", directory: str = "",
    compilers_directory: str = "", stream: TextIO | None = None,
) -> str:
    """Compiles the training steps and the evaluation of a config; runs and writes nothing.

    Args:
      config: a ConfigDict or nested dicts.
      topology: devices, such as "v5e:16x16".
      assume: training data by number, classes and size; empty to index those of the config.
      directory: the working directory, in which checkpoints of teachers may lie.
      compilers_directory: folder of the compilers; empty for `$KDAUG_COMPILERS`.
      stream: console, by default standard output.

    Returns:
      The report, which is printed too.

    Raises:
      UserError: the config, the data or the topology do not fit, or there is no compiler.
    """
    console = Console(stream)
    full = configs.validate(config)
    target = topologies.parse(topology)
    assumption = assumed.parse(assume) if assume else None
    folder = compilers.find(target.chip.platform, compilers_directory)
    dataset = _indexed(full, console) if assumption is None else assumed.dataset_of(assumption)
    compilers.use(target.chip.platform, folder)
    devices = topologies.devices_of(target)
    job = programs.plan(full, dataset, devices, Path(directory).expanduser().absolute())
    for line in notices(job.programs, job.mesh):
        console.say(line)
    calls = programs.training(job)
    measured = []
    for work in (*calls, programs.evaluation(job, calls[0])):
        console.say(f"compiling {work.name} for {target.name} ...")
        measured.append(measure(work, target.chip.platform))
    text = report(target, job, assumption is not None, measured)
    console.block(text)
    return text


def _indexed(full: Mapping[str, Any], console: Console) -> data.Dataset:
    """Returns the config's data; where they are absent, the error says how to do without."""
    try:
        return load_data(full["data"], console.say, console.progress)
    except DataError as error:
        remedy = f"or describe them: {assumed.FORM}"
        raise DataError(error.where, error.what, f"{error.remedy}, {remedy}") from None
