"""Every convolution of every network in its fast form equals the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models import gradients
from kdaug_jax.models.convolutions import plain
from kdaug_jax.models.convolutions.choice import Forms, fast_forms
from tests.models.convolution_shapes import describe
from tests.models.test_convolutions import assert_equal_passes
from tests.models.tracing import shapes
from tests.tiny import RAW

pytestmark = pytest.mark.slow
# Where neither padding nor evenness of a side matters, the form does not depend on it.
LARGEST_SIDE, BATCH = 64, 2


def convolutions_of(name):
    """Lists (image, kernel, settings) of a network, at its native size or the largest side."""
    seen = []

    def recording(x, kernel, settings, forms=None):
        seen.append((x.shape, kernel.shape, settings))
        return plain.convolve(x, kernel, settings)

    model = models.create(name, 10, normalize=RAW)
    side = max(min(model.native_size, LARGEST_SIDE), model.min_size)
    image = jax.ShapeDtypeStruct((BATCH, side, side, 3), jnp.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients.apply, "convolve", recording)
        variables = shapes(model, side)
        seen.clear()
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return seen


def kind_of(image, kernel, settings):
    """What networks have in common: all but the side, of which the form knows odd and tiny ones."""
    return kernel, settings, image[1] % 2, image[2] % 2, min(image[1], kernel[0])


def distinct():
    """Returns one convolution of each kind over all networks that has a fast form."""
    by_kind = {}
    for name in models.names():
        for shape in convolutions_of(name):
            if fast_forms(*shape) != Forms():
                by_kind.setdefault(kind_of(*shape), shape)
    return list(by_kind.values())


def test_every_convolution_of_every_network():
    failures = []
    shapes_seen = distinct()
    assert {fast_forms(*shape).result for shape in shapes_seen} >= {"depthwise", "pointwise"}
    for shape in shapes_seen:
        try:
            assert_equal_passes(*shape)
        except AssertionError as error:
            failures.append(f"{describe(*shape)}: {str(error).strip().splitlines()[:4]}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflev1", "resnet20", "lenet_vrm", "wrn_16_2"])
def test_networks_have_the_gradients_of_plain_convolutions(name, monkeypatch):
    model = models.create(name, 10, normalize=RAW)
    variables = jax.jit(lambda key: model.init(key, (32, 32)))(jax.random.key(0))
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8))

    def loss(params):
        outputs, _ = model.apply(variables | {"params": params}, image, train=True)
        return jnp.mean(jax.nn.logsumexp(outputs.logits, axis=1) - outputs.logits[:, 0])

    fast = jax.jit(jax.grad(loss))(variables["params"])
    monkeypatch.setenv("KDAUG_CONVOLUTIONS", "plain")
    theirs = jax.jit(lambda params: jax.grad(loss)(params))(variables["params"])
    for ours, xlas in zip(jax.tree.leaves(fast), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(ours, xlas, rtol=0, atol=2e-3 * np.abs(xlas).max() + 1e-6)
