"""What a save costs the training: how long it blocks, and how much longer the steps take in all.

The step is that of `kd_step.py`; the state, with momentum and averaged weights, is saved as a run
does it, into a directory that keeps the newest two and the best. `saved` saves and takes some steps
while the files are written in the background, until they and their sums are on disk; `plain` takes
as many steps. Both in one process, in turn. One JSON line: `ratio` is the median over the rounds of
saved to plain seconds, and beside it, as medians,

    blocking_seconds    how long the loop stands still for a save
    blocking_steps      the same, in steps of `plain`
    longer_seconds      how much longer `saved` took than `plain`, blocking and background
    longer_cpu_seconds  the same in CPU-seconds of all threads
    blocking_share      blocking_steps over `epoch_steps`, an epoch of 50,000 images
    longer_share        longer_seconds, likewise

so the shares are what one save an epoch adds to the time of a step. `blocking_share` is held to the
target.

    python benchmarks/checkpoint.py
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import jax

from kdaug_jax.runtime import compile_cache, sharding
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.training.state import as_tree

TARGET = 0.05
WARM_UP = 3
EPOCH_IMAGES = 50_000
EMA = 0.999
BEST = "eval/validation/accuracy"


class Saved:
    """Saves, then takes steps; remembers how long each save blocked."""

    def __init__(self, ours: common.Ours, checkpoints: Checkpoints):
        self.ours, self.checkpoints = ours, checkpoints
        self.blocking: list[float] = []

    def __call__(self, steps: int) -> None:
        metrics = {BEST: 1.0 / self.ours.position}  # the first stays the best
        start = time.perf_counter()
        state = as_tree([self.ours.state])
        self.checkpoints.save(self.ours.position, state, metrics, {"window": [{}]})
        self.blocking.append(time.perf_counter() - start)
        self.ours(steps)
        self.checkpoints.wait()


def costs(
    blocking: Sequence[float], turns: Mapping[str, Sequence[common.Turn]], steps: int, batch: int
) -> dict[str, Any]:
    """Returns the cost of a save.

    Args:
      blocking: seconds of each save.
      turns: of the sides.
      steps: steps a turn.
      batch: images a step.
    """
    def longer(field: str) -> float:
        pairs = zip(turns["saved"], turns["plain"], strict=True)
        return steps * statistics.median(getattr(a, field) - getattr(b, field) for a, b in pairs)

    block = statistics.median(blocking)
    step = statistics.median(turn.wall for turn in turns["plain"])
    epoch_steps = max(EPOCH_IMAGES // batch, 1)
    return {
        "blocking_seconds": round(block, 5),
        "blocking_spread": [round(min(blocking), 5), round(max(blocking), 5)],
        "blocking_steps": round(block / step, 4),
        "longer_seconds": round(longer("wall"), 5),
        "longer_cpu_seconds": round(longer("cpu"), 5),
        "epoch_steps": epoch_steps,
        "blocking_share": round(block / step / epoch_steps, 8),
        "longer_share": round(longer("wall") / step / epoch_steps, 8),
    }


def main() -> int:
    """Compares the two and returns the exit status, which does not depend on the target."""
    options = common.parse(__doc__, rounds=20)
    compile_cache.use()
    sharding.use_host_cores(options.batch)
    ours = common.Ours(options.batch, ema=EMA)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()), "checkpoints")
        saved = Saved(ours, stack.enter_context(
            Checkpoints(directory, keep=2, best=BEST, say=print)
        ))
        ours(WARM_UP)
        for _ in range(WARM_UP):  # until old checkpoints are deleted, too
            saved(1)
        saved.blocking.clear()
        sides = {
            "saved": functools.partial(common.timed, saved),
            "plain": functools.partial(common.timed, ours),
        }
        result, turns = common.compare("checkpoint", sides, options, ("jax", "orbax-checkpoint"))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(ours.state))
    result |= {"checkpoint_bytes": size}
    result |= costs(saved.blocking, turns, options.steps, options.batch)
    common.report(result, TARGET, held="blocking_share")
    return 0


if __name__ == "__main__":
    sys.exit(main())
