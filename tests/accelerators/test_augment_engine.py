"""The engine compiled for chips that are not here: what it costs may not grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RATCHET = json.loads((Path(__file__).parent / "ratchet.json").read_text())
LEEWAY = 1.2  # of what was counted when the file was written

on_a_tpu = pytest.mark.parametrize("compiler", ["tpu"], indirect=True)


def compiled(compiler, name, *words):
    """What a benchmark that compiles prints, which needs a process of its own."""
    command = [
        sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), f"--compilers={compiler[1]}",
        *words,
    ]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@on_a_tpu
def test_no_form_executes_more_bundles_than_before(compiler):
    counted = compiled(
        compiler, "tpu_compile", f"--generation={RATCHET['generation']}",
        f"--size={RATCHET['size']}", "--policies=none",
    )
    assert {entry["form"] for entry in counted} == set(RATCHET["bundles_per_pixel"])
    for entry in counted:
        limit = LEEWAY * RATCHET["bundles_per_pixel"][entry["form"]]
        assert entry["bundles_per_pixel"] <= limit and not entry["unknown_loops"], entry


@on_a_tpu
def test_policies_are_compiled_without_gathers_of_pixels(compiler):
    policies = ("randaugment", "randaugment_tpu")
    for counted in compiled(
        compiler, "tpu_compile", "--size=32x32", "--batch=32", "--forms=none",
        f"--policies={','.join(policies)}",
    ):
        operations = counted["operations"]
        assert operations["gather"] <= 10
        assert not any(operations[kind] for kind in ("scatter", "sort", "while", "conditional"))
        assert counted["elements"]["gather"] <= 16 * 32
        assert "gather" not in counted["forms_an_image"]
        assert counted["images_per_second"] > 500_000


@on_a_tpu
@pytest.mark.parametrize("generation", ["v4", "v6e"])
def test_other_chips_compile_it_too(compiler, generation):
    counted = compiled(
        compiler, "tpu_compile", f"--generation={generation}", "--size=64x48", "--policies=none",
        "--forms=equalize,nearest,bilinear",
    )
    assert len(counted) == 3


@on_a_tpu
def test_large_images_compile(compiler):
    counted = compiled(
        compiler, "tpu_compile", "--size=520x700", "--policies=none", "--forms=nearest,sharpness"
    )
    assert all(entry["bundles_per_pixel"] < 0.2 for entry in counted)


@pytest.mark.parametrize("compiler", ["gpu"], indirect=True)
def test_policies_are_few_kernels_on_a_gpu(compiler):
    (counted,) = compiled(
        compiler, "gpu_compile", "--size=32x32", "--batch=64", "--policies=randaugment"
    )
    fewest, most = counted["kernels"]
    assert 0 < fewest <= most <= 90
    assert counted["while"] == 0 and not counted["float64"]
    assert counted["conditional"] <= 4 and counted["sort"] <= 4
    # At this size; a gather of a pixel for each op of a stage would be above 60.
    assert 0 < counted["elements_per_pixel"]["gather"] < 50
