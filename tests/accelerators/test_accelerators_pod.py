"""The four kinds of training step compiled for 256 chips that are not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdaug_jax.compile import hlo
from tests.accelerators.pod_steps import moved

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((Path(__file__).parent / "pod.json").read_text())
# What XLA and the project's kernels call; anything else would be new, such as a call of the host.
CUSTOM_CALLS = {
    "AllocateBuffer", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked",
    "tpu_custom_call",
}
KERNELS = {"augment", "take_along_rows"}


def compiled(directory, *names):
    """What `pod_steps` prints, by the name of the step."""
    command = [sys.executable, "-m", "tests.accelerators.pod_steps", directory, *names]
    settings = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)
    return {entry.pop("step"): entry for entry in map(json.loads, run.stdout.splitlines())}


def check(name, entry):
    """What holds of every step."""
    assert entry["float64"] == 0 and entry["host"] == [], name
    assert entry["donated"] >= 0.99, name
    assert entry["moved_images"] == [], name
    assert set(entry["custom_calls"]) <= CUSTOM_CALLS and set(entry["kernels"]) <= KERNELS, name
    assert 0.9 <= entry["bytes"] / RECORDED[name] <= 1.1, (name, entry["bytes"])


def reductions(entry):
    """All-reduces of a step."""
    return entry["collectives"]["all-reduce"][0] / entry["steps"]


@pytest.fixture(scope="module")
def steps(compiler):
    """The steps, compiled once for all tests of this file."""
    return compiled(compiler[1], "kd", "cutmix_pick", "crd", "imagenet")


@pytest.mark.parametrize("compiler", ["tpu"], indirect=True)
def test_steps_for_a_pod(steps):
    for name, entry in steps.items():
        check(name, entry)
    for name in ("cutmix_pick", "crd", "imagenet"):  # whose groups are a chip's
        assert reductions(steps[name]) <= 4, name
    assert sum(entry["cpu_seconds"] for entry in steps.values()) < 150
    # No element of [B, N] is gathered or scattered: rows of 128 numbers alone, of the banks.
    rows, batch, count = 2 * 64 * 256, 64 * 256, steps["crd"]["steps"]
    assert steps["crd"]["gathered"] <= count * 3.1 * rows
    assert steps["crd"]["scattered"] <= count * 2 * batch
    assert steps["crd"]["kernels"] == {"take_along_rows": 6 * steps["crd"]["steps"]}
    assert steps["imagenet"]["kernels"] == {"augment": steps["imagenet"]["steps"]}


@pytest.mark.parametrize("compiler", ["tpu"], indirect=True)
def test_gradients_are_added_up_in_the_chosen_type(steps):
    """In float32 although the network computes in bfloat16, and the other way round."""
    assert "bf16" not in steps["imagenet"]["reduced_types"]
    assert "bf16" in steps["kd"]["reduced_types"]
    assert "bf16" not in steps["crd"]["reduced_types"]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["tpu"], indirect=True)
def test_an_efficientnet_for_a_pod(compiler):
    entry = compiled(compiler[1], "efficientnet")["efficientnet"]
    check("efficientnet", entry)
    assert reductions(entry) <= 4 and "bf16" not in entry["reduced_types"]


def test_moved_images_are_seen():
    def instruction(operation, shape):
        return hlo.Instruction("name", shape, operation, "")

    shapes = ("u8[256,16,16,3]{0,3,2,1}", "(f32[64,16,16,3], f32[64,16,16,3])", "u32[256,2,128]{0}",
              "u8[256,768]")
    sent = [instruction("all-gather", shape) for shape in shapes]
    assert len(moved(sent, 16)) == 4
    others = [instruction("fusion", shapes[0]), instruction("all-reduce", "f32[3,3,16,16]"),
              instruction("all-gather", "f32[256,128]")]
    assert moved(others, 16) == []
