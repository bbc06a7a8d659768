"""What views cost that the host makes ahead of the step, beside those that the devices make.

`views` makes RandAugment(2, 9) of images that lie in memory, and sends what a step is sent; `step`
trains with them as the loop does, staging the next call's batches while one runs. Both are whole
runs' programs on the cores of this machine, so the stages are the same work on both sides, and the
ratio is what the host's share costs beside it: cutting batches in parts, reading ahead, putting
together and sending images instead of positions. Where the devices are others, `images_per_second`
of the host in `views` is what the host can make, with nothing else to do. A turn is a run from its
first step to its last, so that nothing made ahead is left to the other side's turn.

Each prints one JSON line.

    python benchmarks/place.py
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from kdaug_jax.experiment.sections import ConfigDict, default, network, term
from kdaug_jax.runtime import sharding
from kdaug_jax.training import population
from kdaug_jax.training.setup import prepare
from kdaug_jax.training.staging import Staging
from kdaug_jax.training.state import make_init

OPS = {32: "pad_crop(4)|flip|randaugment(2, 9)", 224: "flip|randaugment(2, 9)"}
NETWORK = "wrn_16_2"
PLACES = ("host", "device")
TARGET = 1.1


def get_config(side: int, batch: int, steps: int, place: str) -> ConfigDict:
    """Makes the experiment: four steps an epoch of made-up images of `side` pixels."""
    config = default()
    with config.unlocked():
        config.data.source = f"synthetic:{side}x{side},10,{4 * batch}"
        config.data.batch_size = batch
        config.views = {"x": dict(ops=OPS[side], place=place)}
        config.networks.student = network(NETWORK, trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",))
        config.train.epochs = steps / 4
    return config


class Side:
    """The views, or the steps, of a run that makes them at one place."""

    def __init__(self, config: ConfigDict, directory: Path, trains: bool):
        """Prepares the run; compiles with the first steps."""
        ready = self.ready = prepare(config, directory, lambda line: None, record=False)
        self.staging = Staging(ready.feed, ready.mesh, 1)
        self.hparams, self.state = ready.hparams[0][0], None
        whole = sharding.replicated(ready.mesh)
        if trains:
            self.state = make_init(ready.first, {}, whole)(self.hparams)
            self.call = population.make_call(ready.first, ready.feed, 1, whole)
            return

        def look(constants, item, step, hparams):
            item = jax.tree.map(lambda array: array[0], item)
            clock = ready.first.clock(step, hparams)
            batch = ready.feed.batch(constants, item)
            return ready.first.make_views(clock, batch, hparams, {}, {})[0]["x"].image

        self.look = jax.jit(sharding.within(ready.mesh, look))

    def __call__(self, steps: int) -> None:
        """Takes the steps of the run and waits for them."""
        for step in range(steps):
            items, = self.staging.take(step, 1)
            result = self._begin(step, items)
            if step + 1 < steps:
                self.staging.stage(step + 1, 1)
            jax.block_until_ready(result)

    def _begin(self, step: int, items: Any) -> Any:
        constants = self.ready.feed.constants
        if self.state is None:
            return self.look(constants, items, np.int32(step), self.hparams)
        self.state, metrics = self.call(self.state, {}, constants, items, self.hparams)
        return metrics


def measure(name: str, side: int, batch: int, options: argparse.Namespace, *, trains: bool) -> None:
    """Lets both places take turns, and prints a line."""
    options = argparse.Namespace(**{**vars(options), "batch": batch})
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {}
        for place in PLACES:
            config = get_config(side, batch, options.steps, place)
            run = Side(config, directory / place, trains)
            stack.callback(run.ready.feed.close)
            run(options.steps)
            sides[place] = lambda steps, run=run: common.timed(run, steps)
        result, turns = common.compare(name, sides, options, ("jax", "jaxlib"))
        report = {
            **result, "ops": OPS[side], "pixels": side,
            "images_per_second": rates(turns, "wall", batch),
            "images_per_cpu_second": rates(turns, "cpu", batch),
        }
        common.report(report, TARGET)


def rates(turns: Mapping[str, list[common.Turn]], field: str, batch: int) -> dict[str, int]:
    """Returns images a second of each side, of its median turn."""
    return {
        place: round(batch / float(np.median([getattr(turn, field) for turn in rounds])))
        for place, rounds in turns.items()
    }


def main() -> int:
    """Measures views of two sizes, and steps at 32 pixels."""
    options = common.parse(__doc__, rounds=8, steps=16)
    sharding.use_host_cores(options.batch)
    measure("views", 32, 4 * options.batch, options, trains=False)
    measure("views", 224, options.batch, options, trains=False)
    measure("step", 32, options.batch, options, trains=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
