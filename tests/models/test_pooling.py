"""Max pooling by comparison equals XLA's, gradients too, and is used on a CPU only."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from kdaug_jax.models.convolutions.apply import VARIABLE
from kdaug_jax.models.pooling import max_pool


def with_ties(height, width):
    values = np.random.default_rng(0).integers(0, 4, (4, height, width, 5))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 3)])
def test_the_first_of_equal_pixels_gets_the_gradient(size):
    x = with_ties(*size)
    functions = (
        lambda x: max_pool(x, 2, 2),
        lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    )
    (ours, by_ours), (xlas, by_xlas) = (jax.vjp(function, x) for function in functions)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=xlas.shape), jnp.float32)
    np.testing.assert_array_equal(ours, xlas)
    np.testing.assert_array_equal(by_ours(cotangent)[0], by_xlas(cotangent)[0])


def program(platform, *arguments, dtype="float32"):
    kind = AbstractDevice(device_kind="a device", num_cores=1, platform=platform)
    mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=kind)
    with jax.sharding.use_abstract_mesh(mesh):
        x = jax.ShapeDtypeStruct((4, 8, 8, 3), dtype)
        return str(jax.make_jaxpr(lambda x: max_pool(x, *arguments))(x))


def test_where_it_is_compared(monkeypatch):
    assert "custom_vjp" in program("cpu", 2, 2)
    others = [
        program("tpu", 2, 2), program("cuda", 2, 2), program("cpu", 2, 2, dtype="bfloat16"),
        program("cpu", 3, 2, 1), program("cpu", 3, 2), program("cpu", 2, 2, 1),
    ]
    monkeypatch.setenv(VARIABLE, "plain")
    for text in (*others, program("cpu", 2, 2)):
        assert "reduce_window_max" in text and "custom_vjp" not in text
