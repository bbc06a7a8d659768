"""From the start of a process to the end of its first step: a warm compile cache against none.

Each turn is a process of its own, `main.py` on `configs/digits_kd.py` with other networks and data:
a frozen WRN-40-2 teaches a WRN-16-2 on 64 images of 32×32 from augmented views. It is timed from
outside until the row of step 1 is on its console, and ended there. So imports, data, the teacher's
weights, its check on 100 validation images, tracing and the step itself are in both sides. `cold`
starts with an empty cache, `warm` with the one that an earlier, untimed process left. One JSON
line, whose `ratio` is the median over the rounds of warm to cold seconds.

    python benchmarks/first_step.py
"""

from __future__ import annotations

import functools
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common

from kdaug_jax.experiment.sections import network
from kdaug_jax.runtime import compile_cache, sharding
from kdaug_jax.training import loop

TARGET = 0.4
ROOT = Path(__file__).parents[1]


def make_teacher(batch: int, directory: Path) -> None:
    """Trains the teacher for one step, which costs the later runs the same as any other."""
    config = common.get_config(batch, distill=False)
    with config.unlocked():
        config.networks.student = network(common.TEACHER, trainable=True)
        config.train.epochs = 0.1
    compile_cache.use()
    sharding.use_host_cores(batch)
    loop.train(config, directory, stream=io.StringIO())


def get_command(batch: int, teacher: Path) -> list[str]:
    """Returns the command of a turn without its working directory."""
    overrides = {
        "data.source": common.source(batch),
        "data.batch_size": batch,
        "networks.student.name": common.STUDENT,
        "networks.teacher.name": common.TEACHER,
        "networks.teacher.checkpoint": teacher,
        "train.allow_weak_teacher": True,
        "log.every_steps": 1,
    }
    words = [sys.executable, "main.py", "--config=configs/digits_kd.py"]
    return words + [f"--config.{path}={value}" for path, value in overrides.items()]


def first_step(command: Sequence[str], cache: Path | None, steps: int = 1) -> common.Turn:
    """Times a new process until its first step is done.

    Args:
      command: of `get_command`.
      cache: directory of compiled programs; None for an empty one.
      steps: 1.
    """
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache or f"{scratch}/cache")}
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={scratch}/run"], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        last = ""
        for last in process.stdout:
            if last.startswith("step 1/"):
                break
        wall = time.perf_counter() - wall
        process.kill()
        process.communicate()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not last.startswith("step 1/"):
        raise RuntimeError(f"main.py ended before its first step: {last.strip()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return common.Turn(wall, cpu)


def main() -> int:
    """Compares the two and returns the exit status, which does not depend on the ratio."""
    options = common.parse(__doc__, rounds=5, steps=None)
    with tempfile.TemporaryDirectory() as directory:
        teacher, cache = Path(directory, "teacher"), Path(directory, "cache")
        make_teacher(options.batch, teacher)
        command = get_command(options.batch, teacher)
        first_step(command, cache)
        sides = {
            "warm": functools.partial(first_step, command, cache),
            "cold": functools.partial(first_step, command, None),
        }
        result, _ = common.compare("first_step", sides, options, ("jax", "flax"))
    common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
