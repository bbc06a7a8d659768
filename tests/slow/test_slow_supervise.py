"""A run of two processes that are killed at random moments ends as one that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(workdir):
    return subprocess.Popen(
        [sys.executable, "launch/supervise.py", "--pause=0.1", "--idle=20", "--",
         sys.executable, "launch/local.py", "--processes=2", "--devices=2", "--grace=20", "--",
         sys.executable, "main.py", "--config=configs/digits_kd.py:smoke",
         f"--workdir={workdir}", "--config.checkpoint.every_steps=2"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rows(workdir):
    """Rows of metrics without speeds and the id of the run."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in row.items()
         if not name.startswith("perf/") and name != "run"}
        for row in lines
    ]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_change_no_result(tmp_path, seed):
    straight = tmp_path / "straight"
    undisturbed = start(straight)
    before = time.monotonic()
    _, said = undisturbed.communicate(timeout=900)
    assert undisturbed.returncode == 0, said
    length = time.monotonic() - before
    draw, killed = random.Random(seed), tmp_path / "killed"
    run, kills = start(killed), 0
    while run.poll() is None and kills < 2:
        time.sleep(draw.uniform(0.2, 0.9) * length)
        for launcher in children(run.pid) if run.poll() is None else ():
            if processes := children(launcher):
                os.kill(draw.choice(processes), signal.SIGKILL)
                kills += 1
    _, said = run.communicate(timeout=900)
    assert run.returncode == 0, said
    assert 0 < said.count("supervise: status") <= kills  # the last may have come too late
    assert (killed / "results.json").read_text() == (straight / "results.json").read_text()
    assert rows(killed) == rows(straight)
