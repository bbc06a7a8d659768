"""The benchmarks run and print what they promise; what they measure is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models.layers import BatchNorm, Conv, Linear
from kdaug_jax.models.weights import from_torch
from tests.models.tracing import shapes
from tests.tiny import RAW

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


def test_gpu_rows_without_a_gpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    words = [sys.executable, "benchmarks/gpu.py", "--smoke", "--rounds=1",
             "--only=aug.ra224,teacher,wrn28.b128,effb0.b1024"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["benchmark"] for row in rows] == [
        "gpu.aug.ra224", "gpu.teacher", "gpu.wrn28.b128", "gpu.effb0.b1024"
    ]
    assert all(row["images_per_second"] > 0 and row["smoke"] for row in rows)
    done = subprocess.run(words[:2], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no GPU here (cpu); --smoke" in done.stderr


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
    assert [line["benchmark"].split()[0] for line in found[:4]] == [
        "assembly", "assembly", "png", "jpeg"
    ]
    for line in found[:4]:
        assert set(line["images_per_cpu_second"]) == {"ours", "other"} and line["ratio"] > 0
    assert [line["benchmark"] for line in found[4:]] == [
        "crop", "crop by threads", "crop by processes", "crop and decoding", "two crops",
        "inception_crop(224)", "inception_crop(600)", "copying",
    ]
    for line in found[4:]:
        assert len(line["cpu_seconds"]) == 2 and line["cpu_ratio"] > 0
        assert line.get("held", "cpu_ratio") == "cpu_ratio"


@pytest.mark.parametrize("kind", ["forward", "train"])
def test_the_benchmark_of_networks_prints_one_line_each(kind, torch):
    words = [sys.executable, "benchmarks/cpu_networks.py", "--rounds=1", "--steps=1"]
    words += ["--batch=8", "--before"]
    words += [f"--kind={kind}", "--network=lenet_vrm", "--network=resnet20"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    names = [f"cpu_networks/{name}/{kind}" for name in ("lenet_vrm", "resnet20")]
    assert [one["benchmark"] for one in found] == names
    assert all(one["ratio"] > 0 and one["before"]["ratio"] > 0 for one in found)


def test_losses_are_timed_beside_the_plain_step():
    found = lines("losses", "--steps=1", "--only=terms", "--loss=kl", "--loss=at", "--loss=a2aug")
    assert [one["benchmark"] for one in found] == ["losses/kl", "losses/at", "losses/a2aug"]
    assert all(set(one["wall_seconds"]) == {"loss", "plain step"} for one in found)


def test_what_is_counted_of_losses():
    """Passes and memory do not depend on the machine's load: these are judged."""
    clip, memory = lines("losses", "--only=clip", "--only=crd_memory")
    assert (clip["forward_passes"], clip["backward_passes"], clip["met"]) == (1, 2.0, True)
    held = {int(chunk): count for chunk, count in memory["bytes_by_chunk"].items()}
    rows = {int(chunk): count for chunk, count in memory["rows_bytes"].items()}
    whole = 1 + memory["negatives"]
    scores = 4 * memory["batch"] * whole  # a few arrays of them stay whatever the chunk is
    assert held[whole] > 2 * rows[whole]
    for chunk in (256, 1024, 4096):
        assert held[chunk] < 1.2 * rows[chunk] + 8 * scores
    assert max(held.values()) < 2 * memory["bank_bytes"]


@pytest.fixture
def benchmarks(monkeypatch):
    """Makes the modules of the benchmarks importable by their bare names."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


# Of the networks that are compared, those that mean the same for every image size.
@pytest.mark.parametrize(
    "name",
    ["lenet_vrm", "alexnet_vrm", "resnet20", "resnet18_cifar", "resnet50_cifar", "preresnet20",
     "vgg8", "mobilenetv2", "shufflev2", "pyramidnet29_a48"],
)  # fmt: skip
def test_compared_networks_are_the_same(name, torch, benchmarks):
    import torch_networks

    net = torch_networks.NETWORKS[name](10).eval()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 2.0)
    image = draw.normal(size=(2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.tensor(image)).numpy()
    variables = in_order(net, torch.tensor(image), name)
    model = models.create(name, 10, normalize=RAW)
    run = jax.jit(
        lambda v, x: model.apply(v, x, train=False)[0].logits,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    found = run(variables, jnp.asarray(image.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def in_order(net, image, name):
    """Gives our variables from PyTorch's layers, both in the order in which they are run."""
    ours, theirs = [], []

    def record(call, args, kwargs, context):
        if isinstance(context.module, (BatchNorm, Conv, Linear)):
            ours.append("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        expected = shapes(models.create(name, 10, normalize=RAW))
    hooks = [
        module.register_forward_hook(lambda module, *_: theirs.append(module))
        for module in net.modules()
        if not list(module.children()) and list(module.parameters())
    ]
    net(image)
    for hook in hooks:
        hook.remove()
    state = {}
    for path, module in zip(ours, theirs, strict=True):
        for leaf, array in module.state_dict().items():
            state[f"{path.replace('/', '.')}.{leaf}"] = array.numpy()
    return from_torch(state, expected)
