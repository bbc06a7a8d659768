"""The benchmarks run and print what they promise; what they measure is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["kd_step", "kd_overhead"])
def test_a_benchmark_prints_one_json_line(name, torch):
    words = [sys.executable, f"benchmarks/{name}.py", "--rounds=1", "--steps=1", "--batch=8"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["benchmark"] == name and found["ratio"] > 0 and found["cpu_ratio"] > 0
