"""One process of several: `-m tests.training.one_process TASK FILE --distributed=...`.

FILE holds JSON. Tasks: `views` writes the batches and views of "steps" of each of "configs" to the
file that it is listed under; `train` trains "config" in "workdir", and sends itself SIGTERM where
"sigterm" names its number and a step.
"""

import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from kdaug_jax.errors import UserError
from kdaug_jax.experiment import command_line
from kdaug_jax.runtime import compile_cache, processes, sharding
from kdaug_jax.training import loop, setup
from tests import tiny


def views_of(config, workdir, steps):
    """Gives `{name: array}` of the batches and views of some steps, gathered from all processes."""
    ready = setup.prepare(config, Path(workdir), print, record=False)
    program, numbers = ready.first, ready.hparams[0][0]

    def make(constants, item, number, hparams):
        batch = ready.feed.batch(constants, item)
        clock = program.clock(number, hparams)
        return batch, program.make_views(clock, batch, hparams, {}, {})[0]

    make = jax.jit(make, out_shardings=sharding.replicated(ready.mesh))
    found = {}
    for step in steps:
        item = sharding.put_batch(ready.mesh, ready.feed.select(ready.feed.item(step), 0))
        made = make(ready.feed.constants, item, np.int32(step), numbers)
        leaves, _ = jax.tree.flatten_with_path(jax.device_get(sharding.settle(made)))
        found |= {f"{step}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    ready.feed.close()
    return found


def main():
    task, file, distributed = sys.argv[1:]
    given = json.loads(Path(file).read_text())
    compile_cache.use()
    tiny.register()
    processes.start(distributed.removeprefix("--distributed="))
    try:
        if task == "views":
            for out, config in given["configs"].items():
                found = views_of(config, given["workdir"], given["steps"])
                if jax.process_index() == 0:
                    np.savez(out, **found)
        else:
            number, step = given.get("sigterm", (None, None))
            if number == jax.process_index():
                _signal_at(step)
            loop.train(given["config"], given["workdir"])
    except UserError as error:
        return command_line.end_with(error)
    return 0


def _signal_at(step):
    advance, calls = loop.population.advance, []

    def signalling(*args):
        calls.append(args)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(*args)

    loop.population.advance = signalling


if __name__ == "__main__":
    processes.end(main)
