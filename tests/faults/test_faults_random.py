"""Kills and signals at random moments of every phase, each in a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from kdaug_jax.runtime import checkpoint, manifest
from tests.bad_input.helpers import ROOT, SECTIONS, TEACHER, results

pytestmark = pytest.mark.slow

# Ends of a process that was told to: by default while Python imports, and by ours.
TOLD = {
    signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 75), signal.SIGHUP: (-1, 75),
    signal.SIGINT: (-2, 130),
}
SWEEP = {
    **TEACHER,
    "population": (("optim.schedule.base", (0.1, 0.2, 0.4)),),
    "checkpoint": dict(every_steps=3, every_epochs=0.0),
    "eval": dict(every_epochs=0.6),
    "train": dict(allow_weak_teacher=True, epochs=4.0),
}
COUNT = 10  # of attacks a phase


def command(tmp_path, directory, *words):
    text = SECTIONS.format(sections=SWEEP).replace("def get", (
        "from tests import tiny\ntiny.register()\ndef get"
    ))
    (tmp_path / "sweep.py").write_text(text)
    return [sys.executable, "main.py", f"--config={tmp_path / 'sweep.py'}",
            f"--workdir={directory}", *words]


def attacked(words, number=None, after=0.0):
    """Runs a command, sends it a signal after so many seconds; gives its exit status."""
    environment = {
        **os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    with subprocess.Popen(
        words, cwd=ROOT, text=True, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:
        if number is not None:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        said = process.communicate(timeout=300)[1]
    assert "Traceback" not in said, said
    assert process.returncode in (0, *TOLD.get(number, ())), (number, after, said)
    return process.returncode


def rows(directory):
    """Rows without what the clock measures, in an order of their own."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()[1:]
    return sorted(
        sorted((name, value) for name, value in json.loads(line).items() if "perf/" not in name)
        for line in lines
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody attacked, and the seconds that it, an evaluation and an export take."""
    tmp_path = tmp_path_factory.mktemp("whole")
    seconds = {}
    for mode in ("train", "evaluate", "export"):
        started = time.monotonic()
        assert attacked(command(tmp_path, tmp_path / "w", f"--mode={mode}")) == 0
        seconds[mode] = time.monotonic() - started
    return tmp_path / "w", seconds


@pytest.mark.parametrize("seed", [0, 1])
def test_attacks_at_random_moments(whole, tmp_path, seed):
    straight, seconds = whole
    draw, cut = random.Random(seed), tmp_path / "w"
    for mode in ("train", "evaluate", "export"):
        words = command(tmp_path, cut, f"--mode={mode}")
        for _ in range(COUNT):
            attacked(words, draw.choice([*TOLD]), draw.uniform(0.1, 1.0) * seconds[mode])
        assert attacked(words) == 0
    assert results(cut) == results(straight)
    assert results(cut / "teacher") == results(straight / "teacher")
    assert rows(cut) == rows(straight)
    step = manifest.steps(straight / "checkpoints")[0]
    jax.tree.map(np.testing.assert_array_equal, *(
        checkpoint.load_subtree(place / "checkpoints", (), print, step) for place in (cut, straight)
    ))
    for place in (cut / "checkpoints", cut / "teacher" / "checkpoints"):
        assert all(not manifest.verify(place / str(step)) for step in manifest.steps(place))

    def files(directory):
        names = {str(path.relative_to(directory)) for path in directory.rglob("*")}
        return {name for name in names if "checkpoints/" not in name and "tensorboard/" not in name}

    assert files(cut) == files(straight)
    for name in ("10-test", "10-validation"):
        stored = [place / "evaluations" / f"{name.replace('10', str(step))}.json"
                  for place in (cut, straight)]
        assert stored[0].read_text() == stored[1].read_text()
