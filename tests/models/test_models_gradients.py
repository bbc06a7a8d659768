"""Gradients of kernels and biases in another type than that of the computation, as TPUs make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.models import gradients
from kdaug_jax.models.layers import Conv, Linear

TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def whole_numbers(*shape):
    """Of which bfloat16 holds each, and float32 all sums."""
    return np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)


def gradients_of(layer, params, x, reduced):
    def loss(params, x):
        with gradients.reduced_in(reduced):
            y = layer.apply({"params": params}, x)
        return jnp.sum(y.astype(jnp.float32) * whole_numbers(*y.shape))

    return jax.jit(jax.grad(loss, (0, 1)))(params, x)


LAYERS = {
    "dense": lambda dtype: Linear(5, dtype=dtype),
    "padded": lambda dtype: Conv(8, 3, padding=1, use_bias=True, dtype=dtype),
    "TensorFlow's padding": lambda dtype: Conv(8, 3, stride=2, padding="SAME", dtype=dtype),
    "depthwise": lambda dtype: Conv(8, 5, stride=2, padding=2, groups=4, dtype=dtype),
    "strided": lambda dtype: Conv(3, 1, stride=3, dtype=dtype),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("computed, reduced", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_gradients_have_the_chosen_type(name, computed, reduced, monkeypatch):
    shape = (2, 4) if name == "dense" else (2, 7, 6, 4)
    x, layer = whole_numbers(*shape), LAYERS[name](TYPES[computed])
    params = jax.tree.map(
        lambda array: whole_numbers(*array.shape),
        jax.eval_shape(layer.init, jax.random.key(0), x)["params"],
    )
    expected, by_x = gradients_of(LAYERS[name](jnp.float32), params, x, "float32")
    monkeypatch.setattr(gradients, "target_platform", lambda: "tpu")
    made, made_by_x = gradients_of(layer, params, x, reduced)
    np.testing.assert_allclose(made_by_x, by_x, rtol=2**-7)
    for key, value in expected.items():
        assert made[key].dtype == jnp.float32
        if reduced == "float32":  # nothing is rounded
            np.testing.assert_array_equal(made[key], value)
        else:
            np.testing.assert_array_equal(made[key], value.astype(jnp.bfloat16))


def test_other_devices_and_other_code_keep_the_type_of_the_computation(monkeypatch):
    with gradients.reduced_in("float32"):
        assert gradients.gradient_type(jnp.bfloat16) == jnp.bfloat16
        monkeypatch.setattr(gradients, "target_platform", lambda: "tpu")
        assert gradients.gradient_type(jnp.bfloat16) == jnp.float32
    assert gradients.gradient_type(jnp.bfloat16) == jnp.bfloat16
