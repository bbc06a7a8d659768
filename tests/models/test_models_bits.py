"""Where quantisation sits in the networks, and what it leaves as it was."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models.layers import Conv, Linear
from kdaug_jax.models.quantize import quantize_activation, quantize_weight
from tests.models.tracing import shapes, trace
from tests.tiny import RAW

# First and last layer, which keep full precision, and convolutions of the raw tensor, which take
# activations as they are.
NETWORKS = {
    "resnet8": ({"conv1", "fc"}, set()),
    "resnet18_cifar": ({"conv1", "linear"}, set()),
    "preresnet20": ({"conv1", "fc"}, {"layer2_0/downsample_0", "layer3_0/downsample_0"}),
    "preact_resnet18_cifar": ({"conv1", "linear"}, set()),
    "wrn_10_1": ({"conv1", "fc"}, set()),
    "pyramidnet11_a6_shakedrop": ({"conv1", "fc"}, set()),
    "rolekd_resnet18": ({"base_conv", "full"}, set()),
    "rolekd_alexnet": ({"conv0", "fct"}, set()),
}


def run(name, bits, size=8):
    """Returns the number of bits of each layer and what enters it, run on random weights."""
    layers, inputs = {}, {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, (Conv, Linear)):
            path = "/".join(context.module.path)
            layers[path], inputs[path] = context.module.bits, args[0]
        return call(*args, **kwargs)

    model = models.create(name, 10, normalize=((128.0,) * 3, (64.0,) * 3), bits=bits)
    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (
            jnp.asarray(np.abs(draw.normal(size=leaf.shape)), leaf.dtype)
            if leaf.ndim == 2 and len(leaf) == 1  # BatchNorm
            else jnp.asarray(draw.normal(size=leaf.shape) * 0.1, leaf.dtype)
        ),
        shapes(model, size),
    )
    image = jnp.asarray(draw.integers(0, 256, (2, size, size, 3)), jnp.float32)

    def traced(variables):
        with nn.intercept_methods(record):
            outputs, _ = model.apply(variables, image, train=False)
        return outputs, dict(inputs)

    outputs, inputs = jax.jit(traced, compiler_options={"xla_backend_optimization_level": 0})(
        variables
    )
    return layers, inputs, outputs


@pytest.mark.parametrize("name", ["resnet8", "preresnet20", "wrn_10_1", "rolekd_alexnet"])
def test_inner_layers_are_quantised(name):
    full, raw = NETWORKS[name]
    layers, inputs, outputs = run(name, (3, 2))
    for path, bits in layers.items():
        assert bits == (32 if path in full else 3), path
        values = np.unique(inputs[path])
        if path in full | raw:
            assert len(values) > 4, path
        else:
            np.testing.assert_allclose(values * 3, np.round(values * 3), atol=1e-6, err_msg=path)
            assert set(np.round(values * 3)) <= {0, 1, 2, 3}, path
    assert np.isfinite(outputs.logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_quantised_networks_take_the_same_variables(name):
    full, _ = NETWORKS[name]
    plain, quantised = (trace(name, size=8, bits=bits) for bits in ((32, 32), (4, 4)))
    assert plain.variables == quantised.variables
    bits_of = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, (Conv, Linear)):
            bits_of["/".join(context.module.path)] = context.module.bits
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(models.create(name, 10, normalize=RAW, bits=(2, 32)), 8)
    assert {path for path, bits in bits_of.items() if bits == 32} == full
    assert {bits for path, bits in bits_of.items() if path not in full} == {2}


def test_bits_from_a_config_are_a_list():
    assert models.create("resnet8", 10, normalize=RAW, bits=[1, 8]).name == "resnet8"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_and_gradients_are_those_of_the_formula(bits):
    draw = np.random.default_rng(bits)
    w = draw.normal(size=(4, 5)).astype(np.float32)
    x = np.array([-0.5, 0.0, 0.2, 0.5, 0.9, 1.0, 1.5], np.float32)
    steps = 2**bits - 1
    squashed = np.tanh(w) / np.abs(np.tanh(w)).max()
    expected = 2 * np.round((squashed + 1) / 2 * steps) / steps - 1
    if bits == 1:
        expected = np.sign(w) * np.abs(w).mean()
    np.testing.assert_allclose(quantize_weight(jnp.asarray(w), bits), expected, atol=1e-6)
    rounded = quantize_activation(jnp.asarray(x), bits)
    np.testing.assert_allclose(rounded, np.round(np.clip(x, 0, 1) * steps) / steps, atol=1e-6)
    slopes = jax.grad(lambda x: jnp.sum(quantize_activation(x, bits)))(jnp.asarray(x))
    assert slopes.tolist() == [0, 1, 1, 1, 1, 1, 0]
    gradient = jax.grad(lambda w: jnp.sum(quantize_weight(w, bits) * w))(jnp.asarray(w))
    smooth = jax.grad(
        lambda v: jnp.sum((v if bits == 1 else jnp.tanh(v) / jnp.max(jnp.abs(jnp.tanh(v)))) * w)
    )(jnp.asarray(w))
    np.testing.assert_allclose(gradient, expected + smooth, rtol=1e-4, atol=1e-5)
