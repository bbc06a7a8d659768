"""What the step benchmarks share: our step as `main.py` would run it, timing, and the report."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax import data
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.experiment.sections import ConfigDict, default, network, term
from kdaug_jax.runtime import sharding
from kdaug_jax.training.population import make_call
from kdaug_jax.training.state import make_init

CLASSES, SIZE = 100, 32
STUDENT, TEACHER = "wrn_16_2", "wrn_40_2"
PARAMETERS = 703_284  # of the student
CE_WEIGHT, KD_WEIGHT, TEMPERATURE = 0.1, 0.9, 4.0
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
# Asks the process of a side for its memory.
PEAK = "peak"


class Turn(NamedTuple):
    """Seconds a step, of the clock and of all threads of the process."""

    wall: float
    cpu: float


def timed(run: Callable[[int], None], steps: int) -> Turn:
    """Times `run(steps)`, which returns when the work is done."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(steps)
    return Turn((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps)


def source(batch: int) -> str:
    """Returns the source of made-up images, enough for four steps and one of every class."""
    return f"synthetic:{SIZE}x{SIZE},{CLASSES},{max(4 * batch, CLASSES)}"


def get_config(batch: int, distill: bool, ema: float = 0.0) -> ConfigDict:
    """Makes the experiment: images as stored, cross entropy, and KL to the teacher if `distill`."""
    config = default()
    with config.unlocked():
        config.data.source = source(batch)
        config.data.batch_size = batch
        config.views.x = ""
        config.networks.student = network(STUDENT, trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",), weight=CE_WEIGHT)
        if distill:
            config.networks.teacher = network(TEACHER, trainable=True)
            config.terms.kd = term(
                "kl", on=("x",), teacher="teacher", temperature=TEMPERATURE, weight=KD_WEIGHT,
                gradient_group="distill",
            )
        config.optim.schedule = dict(name="constant", base=RATE)
        config.optim.momentum = MOMENTUM
        config.optim.nesterov = True
        config.optim.weight_decay = DECAY
        config.optim.ema = ema
    return config


class Ours:
    """Our training step: compiled, sharded over the cores, fed with indices, state donated.

    The teacher is not trained first: it is frozen as it was initialised, which costs the same.
    """

    def __init__(
        self, batch: int, distill: bool = True, ema: float = 0.0, config: ConfigDict | None = None,
        steps: int = 1,
    ):
        """Builds and compiles; `sharding.use_host_cores(batch)` comes before the first of them.

        Another experiment may be given instead; its frozen networks are written as trained ones.
        A call runs `steps` steps.
        """
        known = config is None
        config = get_config(batch, distill, ema) if known else config
        distill = "teacher" in config.networks
        splits = {name: config.data[name] for name in ("train", "validation", "test")}
        dataset = data.load(config.data.source, splits)
        (program,) = build_programs(config, data.describe(dataset))
        self.mesh = sharding.make_mesh(-1, batch)
        self.frozen: dict[str, Any] = {}
        if distill:
            teacher = program.networks["teacher"]._replace(trainable=False)
            program = dataclasses.replace(
                program, networks={**program.networks, "teacher": teacher}
            )
            variables = jax.jit(teacher.model.init, static_argnums=1)(
                jax.random.key(0), program.info.size
            )
            self.frozen["teacher"] = sharding.put_whole(self.mesh, variables)
        self.program = program
        self.feed = data.resident(dataset.splits["train"], 0, batch)
        self.constants = sharding.put_whole(self.mesh, self.feed.constants)
        self.hparams = sharding.put_whole(self.mesh, program.hparams)
        whole = sharding.replicated(self.mesh)
        self.state = make_init(program, self.frozen, whole)(self.hparams)
        self.step = make_call(program, self.feed, steps, whole)
        self.position, self.steps_a_call = 0, steps
        if known:
            count = sum(leaf.size for leaf in jax.tree.leaves(self.state.params["student"]))
            assert count == PARAMETERS, count

    def items(self) -> jax.Array:
        """Sends what the next call reads to the devices."""
        first = self.position + 1
        self.position += self.steps_a_call
        item = np.stack([self.feed.item(step) for step in range(first, self.position + 1)])
        return sharding.put_batch(self.mesh, item, axis=1)

    def advance(self, items: jax.Array) -> dict[str, Any]:
        """Runs one call and returns its metrics."""
        self.state, metrics = self.step(
            self.state, self.frozen, self.constants, items, self.hparams
        )
        return metrics

    def __call__(self, steps: int) -> None:
        """Runs some steps, as many as whole calls make, and waits for them."""
        for _ in range(steps // self.steps_a_call):
            metrics = self.advance(self.items())
        assert int(metrics["fault"][0][0]) == 0, "the loss is not finite"
        jax.block_until_ready(self.state)


def parse(
    description: str,
    argv: Sequence[str] | None = None,
    *,
    rounds: int = 10,
    steps: int | None = 4,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Reads the options of a benchmark; one whose turns are always one step takes no `--steps`.

    Further ones are added to the parser by `add`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each side")
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps, help="steps a turn")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.set_defaults(steps=steps or 1)
    if add is not None:
        add(parser)
    options = parser.parse_args(argv)
    if min(options.rounds, options.steps, options.batch) < 1:
        parser.error("rounds, steps and batch are at least 1")
    return options


def remote(connection: Connection) -> Callable[[int], Turn]:
    """Returns the side of `compare` that a process at the other end serves."""

    def turn(steps: int) -> Turn:
        return ask(connection, steps)

    return turn


def ask(connection: Connection, request: Any) -> Any:
    """Sends a request to the process at the other end and returns its answer."""
    connection.send(request)
    return connection.recv()


def reset_peak() -> None:
    """Lets `peak` count from now on, where the system is Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float | None:
    """Returns the most memory of this process that was resident, in MB; None if not Linux."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return round(int(match[1]) / 1000, 1)
    return None


def take_turns(
    sides: Mapping[str, Callable[[int], Turn]], options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Lets warm sides take turns; returns the turns of each, those of a round at the same place."""
    turns: dict[str, list[Turn]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:  # none is always the first
            turns[side].append(sides[side](options.steps))
    return turns


def compare(
    name: str,
    sides: Mapping[str, Callable[[int], Turn]],
    options: argparse.Namespace,
    packages: Sequence[str],
) -> tuple[dict[str, Any], dict[str, list[Turn]]]:
    """Lets two warm sides take turns.

    Args:
      name: of the benchmark.
      sides: two functions by name that take some steps and time them; ratios are first to second.
      options: of `parse`.
      packages: whose versions to report.

    Returns:
      What is to be reported, and the turns of each side, those of a round at the same place.
    """
    load = os.getloadavg()
    turns = take_turns(sides, options)
    return {**compared(name, turns, options, packages), "load": rounded(load)}, turns


def rounded(load: Sequence[float]) -> list[float]:
    """Returns the machine's load for a report."""
    return [round(average, 2) for average in load]


def compared(
    name: str,
    turns: Mapping[str, list[Turn]],
    options: argparse.Namespace,
    packages: Sequence[str],
) -> dict[str, Any]:
    """Returns what is to be reported of the turns of two sides, see `compare`."""
    ratios = {
        field: [
            getattr(first, field) / getattr(second, field)
            for first, second in zip(*turns.values(), strict=True)
        ]
        for field in Turn._fields
    }
    medians = {
        field: {
            side: float(f"{statistics.median(getattr(turn, field) for turn in rounds):.4g}")
            for side, rounds in turns.items()
        }
        for field in Turn._fields
    }
    return {
        "benchmark": name,
        "ratio": round(statistics.median(ratios["wall"]), 4),
        "cpu_ratio": round(statistics.median(ratios["cpu"]), 4),
        "wall_seconds": medians["wall"],
        "cpu_seconds": medians["cpu"],
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": options.batch,
        "spread": [round(min(ratios["wall"]), 4), round(max(ratios["wall"]), 4)],
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
    }


def report(result: Mapping[str, Any], target: float | None, held: str = "ratio") -> None:
    """Prints one JSON line.

    Args:
      result: of `compare`, and whatever a benchmark adds.
      target: what the value named `held` should not exceed, None for no wish; printed, never
        enforced.
      held: name of that value in the result.
    """
    judged = {}
    if target is not None:
        judged = {"held": held, "target": target, "met": result[held] <= target}
    print(json.dumps({**result, **judged}), flush=True)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine() -> str:
    """Returns the name of the processor and its cores."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{model}, {cores()} cores"
