"""The platform that a program is built for is that of its mesh, present or not."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from kdaug_jax.runtime import sharding
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.runtime.platform import target_device_count, target_platform
from kdaug_jax.training.step import make_train_step
from tests.conftest import tiny_config
from tests.training.bench import Bench

PACKAGE = Path(__file__).parents[2] / "kdaug_jax"


def mesh_of(platform, count=4):
    kind = AbstractDevice(device_kind="a device", num_cores=1, platform=platform)
    return AbstractMesh((count,), ("data",), axis_types=(AxisType.Auto,), abstract_device=kind)


@pytest.mark.parametrize(
    "platform, target",
    [("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("rocm", "gpu")],
)
def test_the_mesh_decides(platform, target):
    with jax.sharding.use_abstract_mesh(mesh_of(platform, 256)):
        assert (target_platform(), target_device_count()) == (target, 256)
    assert (target_platform(), target_device_count()) == (jax.default_backend(), 4)


def test_nothing_asks_for_the_default_backend_elsewhere():
    asked = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("default_backend", "get_backend")
    }
    assert asked == {"runtime/platform.py"}


def loops_of(platform, monkeypatch, backend):
    """Traces a step of two micro-batches for a platform: how far its loop is unrolled."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    bench = Bench(tiny_config(train=dict(accumulate=2), views={"x": ""}))
    program = bench.program
    arguments = program.state_shapes(), {}, bench.batch(0), program.hparams
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        traced = jax.make_jaxpr(make_train_step(program))(*arguments)
    return [
        equation.params["unroll"] for equation in traced.jaxpr.eqns
        if equation.primitive.name == "scan" and equation.params["length"] == 2
    ]


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_a_step_is_the_same_wherever_it_is_traced(monkeypatch, backend):
    assert loops_of("tpu", monkeypatch, backend) == [1]
    assert loops_of("cuda", monkeypatch, backend) == [1]
    assert loops_of("cpu", monkeypatch, backend) == [2]


def test_parts_are_ordered_on_several_cpu_devices_alone():
    def ordered(mesh):
        with jax.sharding.use_abstract_mesh(mesh):
            value = jnp.ones((4, 3))
            return Ordering(jnp.int32(0), [value]).after(value) is not value

    assert ordered(mesh_of("cpu"))
    assert not ordered(mesh_of("cpu", 1))
    assert not ordered(mesh_of("tpu"))
    assert not ordered(mesh_of("gpu"))


def test_only_arrays_on_several_cpu_devices_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    here = jnp.ones(4)
    spread = sharding.put_batch(sharding.make_mesh(-1, 4), here)
    assert sharding.settle({"a": here})["a"] is here and not waited
    assert sharding.settle({"a": spread})["a"] is spread and len(waited) == 1
