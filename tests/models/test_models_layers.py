"""Layers against plain numpy and PyTorch, and initialisers against their definitions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models import batchnorm, layers
from kdaug_jax.models.families import alexnet, efficientnet, rolekd, shufflenet
from tests.models.tracing import shapes
from tests.tiny import RAW

EPSILON = 1e-5
MOMENTUM = 0.9
CHANNELS = 3


def make(num_branches, seed=0):
    draw = np.random.default_rng(seed)
    shape = (num_branches, CHANNELS)
    return {
        "params": {"scale": draw.uniform(0.5, 2, shape), "bias": draw.normal(size=shape)},
        "batch_stats": {"mean": draw.normal(size=shape), "var": draw.uniform(0.5, 2, shape)},
    }


def expect_training(x, variables, branches, groups):
    """Normalises view by view and group by group, in float64."""
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    mean, var = (variables["batch_stats"][name].copy() for name in ("mean", "var"))
    views = len(branches)
    y = np.empty_like(x)
    axes = tuple(range(x.ndim - 1))
    for view, branch in enumerate(branches):
        rows = np.arange(view, len(x), views)
        for group in np.split(rows, groups):
            part = x[group]
            normal = (part - part.mean(axes)) / np.sqrt(part.var(axes) + EPSILON)
            y[group] = normal * scale[branch] + bias[branch]
        # The statistics that one network on one device would have gathered of this view.
        whole = x[rows]
        unbiased = whole.var(axes, ddof=1)
        mean[branch] = MOMENTUM * mean[branch] + (1 - MOMENTUM) * whole.mean(axes)
        var[branch] = MOMENTUM * var[branch] + (1 - MOMENTUM) * unbiased
    return y, {"mean": mean, "var": var}


def run(x, variables, *mode, num_branches):
    norm = layers.BatchNorm(num_branches)
    to_float32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
    call = jax.jit(lambda v, x: norm.apply(v, x, *mode, mutable=["batch_stats"]))
    return call(to_float32(variables), jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize("spatial", [(), (3, 5)])
@pytest.mark.parametrize(
    ("branches", "groups", "num_branches"),
    [
        ((0,), 1, 1),
        ((1,), 1, 2),
        ((0,), 4, 1),
        ((2,), 2, 3),
        ((0, 1), 1, 2),
        ((1, 0), 4, 2),
        ((0, 0), 1, 1),
        ((1, 0, 1), 2, 3),
    ],
)
def test_training_is_numpy(spatial, branches, groups, num_branches):
    draw = np.random.default_rng(1)
    x = draw.normal(2.0, 3.0, (8 * len(branches), *spatial, CHANNELS))
    # Groups with means far apart: the mean of their variances would be far too small.
    x += np.repeat(np.arange(groups), len(x) // groups).reshape(-1, *[1] * (x.ndim - 1))
    variables = make(num_branches)
    expected, statistics = expect_training(x, variables, branches, groups)
    y, changed = run(x, variables, True, branches, groups, num_branches=num_branches)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            changed["batch_stats"][name], statistics[name], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("branches", [(0,), (2,), (1, 1), (2, 0)])
def test_evaluation_uses_the_branch_of_each_view(branches):
    x = np.random.default_rng(2).normal(size=(4 * len(branches), 2, 2, CHANNELS))
    variables = make(3)
    y, changed = run(x, variables, False, branches, num_branches=3)
    for view, branch in enumerate(branches):
        params, stats = variables["params"], variables["batch_stats"]
        normal = (x - stats["mean"][branch]) / np.sqrt(stats["var"][branch] + EPSILON)
        expected = normal * params["scale"][branch] + params["bias"][branch]
        rows = slice(view, None, len(branches))
        np.testing.assert_allclose(y[rows], expected[rows], rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            changed["batch_stats"][name], variables["batch_stats"][name], rtol=1e-6
        )


def test_bfloat16_statistics_are_those_of_float32():
    x = jnp.asarray(np.random.default_rng(3).normal(5.0, 1.0, (8, 4, 4, CHANNELS)), jnp.bfloat16)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, False)
    y, changed = norm.apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    expected = 0.9 + 0.1 * np.asarray(x, np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(changed["batch_stats"]["var"][0], expected, rtol=1e-5)


def test_gradient_is_that_of_the_definition():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(6, 2, 2, CHANNELS)), jnp.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, False)

    def by_layer(x):
        return norm.apply(variables, x, True, mutable=["batch_stats"])[0]

    def by_definition(x):
        centred = x - x.mean((0, 1, 2), keepdims=True)
        return centred / jnp.sqrt((centred**2).mean((0, 1, 2), keepdims=True) + EPSILON)

    gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x) ** 3))(x) for f in (by_layer, by_definition)]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e4])
@pytest.mark.parametrize(("branches", "groups"), [((0,), 1), ((0, 0), 2)])
def test_a_large_mean_leaves_the_variance_its_digits(ratio, branches, groups):
    draw = np.random.default_rng(1)
    x = (draw.normal(size=(16, 6, 6, CHANNELS)) + ratio * draw.choice([-1, 1], CHANNELS))
    x = x.astype(np.float32).astype(np.float64)
    expected, statistics = expect_training(x, make(1), branches, groups)
    y, changed = run(x, make(1), True, branches, groups, num_branches=1)
    np.testing.assert_allclose(y, expected, atol=3e-6 * max(ratio, 10))
    np.testing.assert_allclose(
        changed["batch_stats"]["var"], statistics["var"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("branches", "num_branches"), [((0,), 1), ((0, 1, 0), 2)])
def test_parts_of_a_batch_move_statistics_once(branches, num_branches):
    """By the moments of all of it, where each part alone would miss what differs between them."""
    draw = np.random.default_rng(2)
    x = draw.normal(size=(4 * 6 * len(branches), 5, CHANNELS))
    x += 3 * np.arange(len(x))[:, None, None] / len(x)
    variables = make(num_branches)
    _, expected = expect_training(x, variables, branches, 1)
    norm = layers.BatchNorm(num_branches)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    seen = []
    for part in np.split(x.astype(np.float32), 4):
        _, changed = norm.apply(
            variables, part, True, branches, 1, True, mutable=["batch_stats", batchnorm.OBSERVED]
        )
        jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"],
                     variables["batch_stats"])
        seen.append(changed[batchnorm.OBSERVED])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)
    moved = batchnorm.moved(variables["batch_stats"], (stacked,))
    for name, value in expected.items():
        np.testing.assert_allclose(moved[name], value, rtol=2e-6, atol=2e-6)


def test_one_element_per_channel_stays_finite():
    y, changed = run(np.ones((1, 1, 1, CHANNELS)), make(1), True, num_branches=1)
    assert np.isfinite(y).all()
    assert np.isfinite(changed["batch_stats"]["var"]).all()


def test_initialisers():
    key = jax.random.key(0)
    conv = layers.Conv(128, 3, use_bias=True).init(key, jnp.zeros((1, 4, 4, 64)))["params"]
    spread = np.sqrt(2 / (9 * 128))
    # The standard error of this estimate is 0.26 %.
    np.testing.assert_allclose(np.std(conv["kernel"]), spread, rtol=0.01)
    # Not truncated: of 73,728 draws some lie beyond three standard deviations.
    assert np.abs(conv["kernel"]).max() > 3 * spread
    dense = layers.Linear(256).init(key, jnp.zeros((1, 64)))["params"]
    for array, fan_in in ((conv["bias"], 9 * 64), (dense["kernel"], 64), (dense["bias"], 64)):
        bound = 1 / np.sqrt(fan_in)
        assert 0.95 * bound < np.abs(array).max() <= bound


DRAWN = np.random.default_rng(6)


@pytest.mark.parametrize(("size", "stride"), [((4, 6), 2), ((5, 7), 2), ((6, 9), 4), ((3, 3), 1)])
def test_shrinking_averages_what_is_there(size, stride):
    x = DRAWN.normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = (range(0, extent, stride) for extent in size)
    expected = [
        [x[:, i : i + stride, j : j + stride].mean(axis=(1, 2)) for j in columns] for i in rows
    ]
    actual = layers.shrink(jnp.asarray(x), stride)
    np.testing.assert_allclose(actual, np.array(expected).transpose(2, 0, 1, 3), atol=1e-6)


def test_padding_of_channels():
    x = jnp.ones((1, 1, 1, 2))
    assert layers.pad_channels(x, 5)[0, 0, 0].tolist() == [1, 1, 0, 0, 0]
    assert layers.pad_channels(x, 5, before=1)[0, 0, 0].tolist() == [0, 1, 1, 0, 0]


def test_channels_come_first_when_flattened():
    x = jnp.arange(12).reshape(1, 2, 2, 3)
    assert layers.channels_first(x)[0].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_channels_are_dealt_out():
    x = jnp.arange(6).reshape(1, 1, 1, 6)
    assert shufflenet.shuffle(x, 3)[0, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_zeros_beyond_the_border_count_in_shufflenets_average():
    x = jnp.ones((1, 4, 4, 1))
    actual = shufflenet._average(x)[0, :, :, 0]
    np.testing.assert_allclose(actual, np.array([[4, 6], [6, 9]]) / 9, rtol=1e-6)


@pytest.mark.parametrize("size", [(6, 6), (7, 13), (3, 12)])
def test_adaptive_average_has_windows_that_may_overlap(size):
    x = DRAWN.normal(size=(2, *size, 3)).astype(np.float32)
    rows, columns = (
        [slice(i * n // 6, -(-(i + 1) * n // 6)) for i in range(6)] for n in size
    )  # from floor(i·n/6) to ceil((i+1)·n/6)
    expected = [[x[:, row, column].mean(axis=(1, 2)) for column in columns] for row in rows]
    actual = alexnet.average_to(jnp.asarray(x), 6)
    np.testing.assert_allclose(actual, np.array(expected).transpose(2, 0, 1, 3), atol=1e-6)


# Standard deviation of a 3×3 kernel of 64 inputs and 128 outputs (depthwise: of 4,096 channels),
# and how many of them the largest draw is away.
@pytest.mark.parametrize(
    ("init", "shape", "spread", "reach"),
    [
        (layers.kaiming_normal, (3, 3, 64, 128), np.sqrt(2 / (9 * 128)), (3.5, 9)),
        (layers.kaiming_normal, (3, 3, 1, 4096), np.sqrt(2 / (9 * 4096)), (3.5, 9)),
        (efficientnet._depthwise_normal, (3, 3, 1, 4096), np.sqrt(2 / 9), (3.5, 9)),
        # Truncation at two of them leaves 0.8796 of the standard deviation.
        (rolekd._truncated, (3, 3, 64, 128), 0.8796 * np.sqrt(2.6 / (9 * 64)), (2.2, 2.28)),
        (rolekd._xavier, (64, 128), np.sqrt(2 / (64 + 128)), (1.7, 1.74)),
        (layers.torch_uniform, (3, 3, 64, 128), np.sqrt(1 / (3 * 9 * 64)), (1.7, 1.74)),
        (layers.uniform_within(0.1), (64, 128), 0.1 / np.sqrt(3), (1.7, 1.74)),
    ],
)
def test_initialisers_spread_as_they_should(init, shape, spread, reach):
    draws = np.asarray(init(jax.random.key(0), shape, jnp.float32))
    np.testing.assert_allclose(draws.std(), spread, rtol=0.02)
    assert reach[0] < np.abs(draws).max() / spread < reach[1]


@pytest.mark.parametrize(
    ("name", "convolutions", "classifier"),
    [
        ("resnet8", layers.kaiming_normal, layers.torch_uniform),
        ("resnet50_cifar", layers.kaiming_normal, layers.torch_uniform),
        ("resnet18_cifar", layers.torch_uniform, layers.torch_uniform),
        ("tv_resnet18", layers.kaiming_normal, layers.torch_uniform),
        ("preresnet20", layers.kaiming_normal, layers.torch_uniform),
        ("preact_resnet18_cifar", layers.torch_uniform, layers.torch_uniform),
        ("wrn_10_1", layers.kaiming_normal, layers.torch_uniform),
        ("wrn_10_1_faa", layers.torch_uniform, layers.torch_uniform),
        ("wrn_10_1_aa", layers.kaiming_normal, None),
        ("vgg8", layers.kaiming_normal, None),
        ("mobilenetv1", layers.torch_uniform, layers.torch_uniform),
        ("mobilenetv2", layers.kaiming_normal, None),
        ("shufflev1", layers.torch_uniform, layers.torch_uniform),
        ("shufflev2", layers.torch_uniform, layers.torch_uniform),
        ("shake26_2x4d", layers.kaiming_normal, layers.torch_uniform),
        ("pyramidnet11_a6", layers.kaiming_normal, layers.torch_uniform),
        ("rolekd_resnet18", rolekd._truncated, rolekd._xavier),
        ("alexnet_vrm", layers.torch_uniform, layers.torch_uniform),
        ("lenet_vrm", layers.torch_uniform, layers.torch_uniform),
        ("efficientnet_b0", layers.kaiming_normal, None),
    ],
)
def test_networks_start_as_the_originals(name, convolutions, classifier):
    kinds = {layers.Conv: [], layers.Linear: []}

    def record(call, args, kwargs, context):
        kinds.get(type(context.module), []).append(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(models.create(name, 25, normalize=RAW))
    depthwise = [conv for conv in kinds[layers.Conv] if conv.groups == conv.features]
    expected = {convolutions}
    if name == "efficientnet_b0":
        assert {conv.kernel_init for conv in depthwise} == {efficientnet._depthwise_normal}
        expected.add(efficientnet._depthwise_normal)
    assert {conv.kernel_init for conv in kinds[layers.Conv]} == expected
    last = kinds[layers.Linear][-1]
    if classifier is not None:
        assert last.kernel_init is classifier
    else:
        draws = np.asarray(last.kernel_init(jax.random.key(0), (512, 25), jnp.float32))
        # N(0, 0.01), or U(-1/5, 1/5) for 25 classes.
        spread = 0.01 if name in ("vgg8", "mobilenetv2") else 0.2 / np.sqrt(3)
        np.testing.assert_allclose(draws.std(), spread, rtol=0.03)
