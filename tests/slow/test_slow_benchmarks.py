"""The benchmarks run and print what they promise; what they measure is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def lines(name, *options):
    words = [sys.executable, f"benchmarks/{name}.py", "--rounds=1", "--batch=8", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def measure(name, *options):
    (found,) = lines(name, *options)
    assert found["benchmark"] == name and found["ratio"] > 0 and found["cpu_ratio"] > 0
    assert found["met"] == (found[found["held"]] <= found["target"])
    return found


def test_kd_step(torch):
    assert set(measure("kd_step", "--steps=1")["wall_seconds"]) == {"ours", "torch"}


def test_kd_overhead():
    assert set(measure("kd_overhead", "--steps=1")["wall_seconds"]) == {"joint", "separate"}


def test_first_step():
    found = measure("first_step")
    # Whatever the machine does, compiling costs CPU time.
    assert found["cpu_ratio"] < 1
    assert set(found["wall_seconds"]) == {"warm", "cold"}


def test_checkpoint():
    found = measure("checkpoint", "--steps=1")
    assert found["held"] == "blocking_share" and found["epoch_steps"] == 6250
    # Parameters, momentum, averaged parameters, and running statistics twice, in float32.
    assert found["checkpoint_bytes"] > 3 * 4 * 703_284
    assert 0 < found["blocking_seconds"] < found["wall_seconds"]["saved"]
    assert found["blocking_share"] == pytest.approx(found["blocking_steps"] / 6250, rel=0.02)


def test_input():
    found = lines("input", "--steps=2")
    assert [line["benchmark"].split()[0] for line in found] == [
        "assembly", "assembly", "png", "jpeg"
    ]
    for line in found:
        assert set(line["images_per_cpu_second"]) == {"ours", "other"} and line["ratio"] > 0
