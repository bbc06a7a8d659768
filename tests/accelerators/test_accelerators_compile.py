"""A tiny job compiled for a TPU slice and for H200s, in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPOLOGY = {"tpu": "v5e:2x2", "gpu": "h200:2"}
COMMAND = (
    "main.py", "--config=configs/digits_kd.py:smoke", "--mode=compile",
    "--assume=examples=6400,classes=10,size=32x32", "--config.views.x=pad_crop(4)|flip",
    "--config.networks.student.name=lenet_vrm", "--config.networks.teacher.name=lenet_vrm",
)


def call(*words, **variables):
    environment = {
        **os.environ, "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1", "PYTHONPATH": str(ROOT),
        **variables,
    }
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=600,
    )


def rows_of(report):
    """The cells of the table by the name of the row."""
    lines = (re.split(r"\s{2,}", line.strip()) for line in report.splitlines())
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 3}


def test_a_job_is_sized(compiler):
    platform, directory = compiler
    result = call(*COMMAND, f"--topology={TOPOLOGY[platform]}", f"--compilers={directory}")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "error" not in result.stderr.lower()
    print(result.stdout)
    rows = rows_of(result.stdout)
    assert rows["of each device"] == ["training", "evaluation"]
    assert all(cell.startswith("yes") for name in rows if name.startswith("fits into")
               for cell in rows[name])
    count, size = re.match(r"(\d+), ([\d.]+) [kM]B", rows["all-reduce a step"][0]).groups()
    assert 1 <= int(count) <= 4 and float(size) > 0
    assert re.fullmatch(r"[\d.]+ M", rows["FLOPs a step"][0])
    if platform == "tpu":
        assert rows["elements scattered a step"] == ["0", "0"]
        assert re.fullmatch(r"[\d.]+ ms", rows["estimated time a step"][0])
        assert int(rows["images/s of all devices"][0].replace(",", "")) > 1000
        assert "at 1.5 GHz" in result.stdout and "run: " in result.stdout
    else:
        assert rows["estimated time a step"] == ["unknown", "unknown"]


@pytest.mark.parametrize("compiler", ["tpu"], indirect=True)
def test_what_does_not_fit_is_told(compiler):
    _, directory = compiler
    result = call(
        *COMMAND, "--topology=v5e:1x1", f"--compilers={directory}", "--config.data.device_gb=20",
        "--assume=examples=6000000,classes=10,size=32x32",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.search(r"training does not fit: .*15\.75G", result.stdout)
    assert [cells[0] for name, cells in rows_of(result.stdout).items()
            if name.startswith("fits into")] == ["no"]


@pytest.mark.parametrize("compiler", ["tpu"], indirect=True)
def test_libtpu_knows_the_names(compiler):
    code = (
        "import math\n"
        "from kdaug_jax.compile import compilers, topologies\n"
        f"compilers.use('tpu', compilers.find('tpu', {compiler[1]!r}))\n"
        "for name in ('v4:2x2x1', 'v5p:2x2x1', 'v6e:2x2', 'v5e:1x1', 'v5e:16x16'):\n"
        "    target = topologies.parse(name)\n"
        "    assert len(topologies.devices_of(target)) == math.prod(target.sides), name\n"
    )
    result = call("-c", code)
    assert result.returncode == 0, result.stderr[-3000:]
