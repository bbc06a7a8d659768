"""What is drawn at random in training: values, gradients and expectations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models.families import efficientnet, pyramidnet, shake
from kdaug_jax.models.layers import Kit, Mode, random_factors
from tests.models.tracing import shapes
from tests.tiny import RAW

ROWS = 40_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_and_backward_factors_are_independent(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)), dtype)
    forward, backward = jnp.array([0.25, -1.0, 0.0]), jnp.array([1.0, 0.5, 0.0])
    y, pull = jax.vjp(lambda x: random_factors(x, forward, backward), x)
    (gradient,) = pull(jnp.ones_like(x))
    spread = lambda v: np.broadcast_to(np.asarray(v)[:, None, None], x.shape)  # noqa: E731
    assert y.dtype == gradient.dtype == x.dtype
    np.testing.assert_array_equal(y, x * spread(forward).astype(x.dtype))
    np.testing.assert_array_equal(gradient, spread(backward).astype(x.dtype))


def test_shakedrop_keeps_or_distorts_each_image():
    drop = 0.3
    x = jnp.ones((ROWS, 1))
    y, pull = jax.vjp(lambda x: pyramidnet.shake_drop(jax.random.key(0), x, drop), x)
    gradient = np.ravel(pull(x)[0])
    y = np.ravel(y)
    kept = y == 1.0
    # Five standard errors of a share of 40,000.
    np.testing.assert_allclose(kept.mean(), 1 - drop, atol=0.012)
    np.testing.assert_array_equal(gradient == 1.0, kept)
    factors, slopes = y[~kept], gradient[~kept]
    assert -1 <= factors.min() < -0.99 and 0.99 < factors.max() <= 1
    assert 0 <= slopes.min() < 0.01 and 0.99 < slopes.max() <= 1
    np.testing.assert_allclose([factors.mean(), slopes.mean()], [0.0, 0.5], atol=0.03)
    assert abs(np.corrcoef(factors, slopes)[0, 1]) < 0.05
    # Inference takes the expectation.
    np.testing.assert_allclose(y.mean(), pyramidnet.shake_drop(None, x, drop)[0, 0], atol=0.02)
    np.testing.assert_allclose(pyramidnet.shake_drop(None, x, drop), 0.7, rtol=1e-6)


def test_shakedrop_grows_with_depth():
    drops = attributes("pyramidnet20_a6_shakedrop", pyramidnet.PyramidBlock, "drop")
    np.testing.assert_allclose(drops, 0.5 * np.arange(1, 7) / 6)
    assert attributes("pyramidnet20_a6", pyramidnet.PyramidBlock, "drop") == [0.0] * 6
    drops = attributes("pyramidnet20_a6_shakedrop", pyramidnet.PyramidBlock, "drop", drop=0.2)
    np.testing.assert_allclose(drops, 0.2 * np.arange(1, 7) / 6)


def test_drop_connect_keeps_the_expectation():
    x = jnp.ones((ROWS, 1, 1, 1))
    y = np.ravel(efficientnet.drop_images(jax.random.key(0), x, 0.2))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.8)}
    np.testing.assert_allclose(y.mean(), 1.0, atol=0.02)
    whole = efficientnet.drop_images(jax.random.key(1), jnp.ones((64, 3, 3, 2)), 0.5)
    assert (np.ptp(whole, axis=(1, 2, 3)) == 0).all()


def test_drop_connect_and_dropout_are_those_of_the_variant():
    drops = attributes("efficientnet_b0", efficientnet.MBConv, "drop")
    np.testing.assert_allclose(drops, 0.2 * np.arange(16) / 16)
    rates = {
        name: efficientnet.build_module(f"efficientnet_{name}", 10, 1, jnp.float32).dropout
        for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
    }
    assert list(rates.values()) == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5]
    module = efficientnet.build_module("efficientnet_b7", 10, 1, jnp.float32, dropout=0.0)
    assert module.dropout == 0.0


def attributes(name, kind, attribute, **options):
    """Returns one attribute of all modules of a kind, in the order in which they are passed."""
    values = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            values.append(getattr(context.module, attribute))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(models.create(name, 10, normalize=RAW, **options))
    return values


@pytest.mark.parametrize("autoaugment", [False, True])
def test_shake_shake_weighs_branches_per_image_and_pass(autoaugment):
    rows, width = 512, 4
    block = shake.ShakeBlock(width, 1, autoaugment, Kit())
    x = jax.random.normal(jax.random.key(1), (rows, 2, 2, width))
    variables = block.init(jax.random.key(2), x, Mode(train=False))
    # Branches that are 3 and 1 everywhere: the sum is x + 1 + 2α.
    params = variables["params"]
    for name, value in (("branch1_5", 3.0), ("branch2_5", 1.0)):
        norm = params[name]
        params[name] = {
            "scale": jnp.zeros_like(norm["scale"]),
            "bias": jnp.full_like(norm["bias"], value),
        }
    rngs = {"dropout": jax.random.key(3)}

    def run(bias):
        changed = params | {"branch1_5": params["branch1_5"] | {"bias": bias}}
        tree = {"params": changed, "batch_stats": variables["batch_stats"]}
        return block.apply(tree, x, Mode(train=True), rngs=rngs, mutable=["batch_stats"])[0]

    y, pull = jax.jit(lambda bias: jax.vjp(run, bias))(params["branch1_5"]["bias"])
    alpha = (y - x - 1.0) / 2.0
    assert np.ptp(alpha, axis=(1, 2, 3)).max() < 1e-5
    alpha = np.asarray(alpha[:, 0, 0, 0])
    assert 0 <= alpha.min() < 0.1 and 0.9 < alpha.max() <= 1
    np.testing.assert_allclose(alpha.mean(), 0.5, atol=0.06)
    # One image's gradient with respect to the bias of the first branch: β once per pixel.
    picks = np.zeros((8, rows, 2, 2, width), np.float32)
    picks[np.arange(8), np.arange(8)] = 1.0
    beta = np.array([pull(jnp.asarray(pick))[0][0, 0] / 4 for pick in picks])
    assert ((beta > 0) & (beta < 1)).all()
    assert np.abs(beta - alpha[:8]).min() > 1e-4
    still, _ = jax.jit(lambda: block.apply(variables, x, Mode(train=False), mutable=["x"]))()
    np.testing.assert_allclose(still, x + 2.0, rtol=1e-5, atol=1e-5)


def test_autoaugments_weights_lie_nearer_to_a_half():
    draws = shake._quotients(jax.random.key(0), (ROWS,))
    assert np.isfinite(draws).all() and ((draws > 0) & (draws < 1)).all()
    # u/(u+v) is below 1/4 if v > 3u: an area of 1/6, where a uniform number would give 1/4.
    np.testing.assert_allclose((np.asarray(draws) < 0.25).mean(), 1 / 6, atol=0.01)
