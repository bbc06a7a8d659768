"""What it costs to know what a run reads and saves: digests at the start, finite states at a save.

The step is that of `kd_step.py`; `plain` withholds no update that is not finite. Both in one
process, in turn. One JSON line: `ratio` is the median over the rounds of checked to plain seconds,
and

    finite_seconds    of asking whether a state is finite, as a run does before a save, once it is
                      compiled, in CPU-seconds too
    finite_share      the same over an epoch of 50,000 images, with one save an epoch
    digest_seconds    of CIFAR's 50,000 training images in memory, in CPU-seconds too
    frozen_seconds    of the digest of the teacher's variables
    contents_seconds  of the contents of 1,000 files, the most that are read on every start

    python benchmarks/run_checks.py
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import common
import numpy as np
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.contents import content_digest, split_digest
from kdaug_jax.experiment.frozen.inputs import variables_digest
from kdaug_jax.runtime import compile_cache, sharding
from kdaug_jax.training import step as step_module
from kdaug_jax.training.failures import all_finite

TARGET = 1.01
EPOCH_IMAGES = 50_000
FILES = 1000


def seconds(function: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Returns the median wall and CPU-seconds of a call."""
    taken = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return tuple(round(statistics.median(column), 5) for column in zip(*taken, strict=True))


def folder(root: Path) -> data.Split:
    """Writes 1,000 images of random pixels and returns them as a split."""
    random = np.random.default_rng(0)
    for number in range(FILES):
        place = root / "train" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    options = data.ReadOptions(say=lambda line: None)
    return data.load(f"folder:{root}", {"train": "train"}, options).splits["train"]


def main() -> int:
    """Measures and returns the exit status, which does not depend on the target."""
    options = common.parse(__doc__, steps=2)
    compile_cache.use()
    sharding.use_host_cores(options.batch)
    with mock.patch.object(step_module, "_keep", lambda updated, state, keep: updated):
        plain = common.Ours(options.batch)
        plain(1)
    ours = common.Ours(options.batch)
    ours(1)
    sides = {
        "checked": functools.partial(common.timed, ours),
        "plain": functools.partial(common.timed, plain),
    }
    result, turns = common.compare("run_checks", sides, options, ("jax",))
    bool(all_finite(ours.state))  # compiles
    finite = seconds(lambda: bool(all_finite(ours.state)))
    step = statistics.median(turn.wall for turn in turns["plain"])
    random = np.random.default_rng(0)
    arrays = {"train": (random.integers(0, 256, (EPOCH_IMAGES, 32, 32, 3), np.uint8),
                        random.integers(0, 10, EPOCH_IMAGES))}
    split = data.from_arrays(arrays).splits["train"]
    frozen = ours.frozen
    with tempfile.TemporaryDirectory() as root:
        files = folder(Path(root))
        contents = seconds(lambda: content_digest(files, "train"))
    result |= {
        "finite_seconds": finite,
        "finite_share": round(finite[0] / step / max(EPOCH_IMAGES // options.batch, 1), 8),
        "digest_seconds": seconds(lambda: split_digest(split)),
        "frozen_seconds": seconds(lambda: variables_digest(frozen, ())),
        "contents_seconds": contents,
    }
    common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
