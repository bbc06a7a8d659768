"""OFD and ReviewKD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax import models
from kdaug_jax.losses import LOSSES, overhaul, review
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.models.norms import norm_before
from kdaug_jax.types import View


def maps(side, channels, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(0, 1, (3, side, side, channels)), jnp.float32)


def test_only_what_the_teacher_shows_counts():
    """Where the teacher is off, the student may lie as low as it likes."""
    margin = jnp.asarray([-0.5])
    cases = [  # teacher, student, what it costs
        (2.0, 1.0, 1.0), (2.0, -1.0, 9.0), (-0.2, 0.3, 0.25), (-0.2, -3.0, 0.0),
        (-4.0, 0.5, 1.0), (-4.0, -0.5, 0.0), (-4.0, -9.0, 0.0),
    ]
    for teacher, student, cost in cases:
        pair = (jnp.full((1, 1, 1, 1), value) for value in (student, teacher))
        np.testing.assert_allclose(overhaul.partial_square(*pair, margin), [cost], rtol=1e-5)


def test_margins_are_the_mean_negative_response():
    state = {"margin": jnp.zeros(4), "seen": jnp.zeros(4)}
    move = jax.jit(overhaul.moved_margin)
    means = []
    for seed in range(3):
        teacher = maps(4, 4, seed).at[..., 3].set(1.0)
        state = move(state, teacher)
        means.append([x[x < 0].mean() for x in np.moveaxis(np.asarray(teacher), -1, 0)[:3]])
    np.testing.assert_allclose(state["margin"][:3], np.mean(means, axis=0), rtol=1e-5)
    assert state["margin"][3] == state["seen"][3] == 0  # a channel that is never negative
    for _ in range(2 * overhaul.MOST_BATCHES):
        state = move(state, teacher)
    assert state["seen"].tolist() == [100, 100, 100, 0]


@pytest.mark.parametrize("size, side", [(8, 4), (7, 4), (7, 2), (5, 3), (4, 1)])
def test_the_adaptive_pool_is_torchs(torch, size, side):
    x = maps(size, 2)
    expected = torch.nn.functional.adaptive_avg_pool2d(
        torch.tensor(np.asarray(x)).permute(0, 3, 1, 2), side
    )
    pooled = review.adaptive_pool(x, side)
    np.testing.assert_allclose(pooled, expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)


@pytest.mark.parametrize("size, target", [((4, 4), (8, 8)), ((4, 4), (7, 6)), ((8, 8), (4, 4))])
def test_nearest_is_torchs(torch, size, target):
    x = maps(size[0], 2)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(x)).permute(0, 3, 1, 2), target, mode="nearest"
    )
    np.testing.assert_array_equal(
        review.nearest(x, target), expected.permute(0, 2, 3, 1).numpy()
    )


def test_equal_stages_cost_nothing_and_each_counts():
    teacher = [maps(8, 3), maps(4, 5), maps(1, 6)]
    loss = jax.jit(review.hierarchical_context)
    np.testing.assert_array_equal(loss(teacher, teacher), np.zeros(3))
    for i in range(3):
        changed = [features + 1.0 if j == i else features for j, features in enumerate(teacher)]
        # A constant difference is the same at every size.
        np.testing.assert_allclose(loss(changed, teacher), 1.0, rtol=1e-5)
    moved = [features + 0.5 for features in teacher]
    check_grads(lambda *s: loss(s, teacher), moved, 1, modes=("rev",), atol=2e-2, rtol=2e-2)
    with pytest.raises(ValueError, match="needs equal shapes"):
        loss([maps(4, 3)], [maps(4, 5)])


def item(student, teacher):
    view = View(None, None, None, None, jnp.ones(3, bool))
    return (TermInput(None, None, view, tuple(student), tuple(teacher)),)


def test_fusion_modules_fit_the_taps():
    student = (maps(8, 3), maps(4, 5), jnp.ones((3, 6)))
    teacher = (maps(8, 4), maps(4, 6), jnp.ones((3, 9)))
    params, state = LOSSES["reviewkd"].init(
        jax.random.key(0), item(student, teacher), None, middle=512
    )
    assert state == {} and set(params) == {"0", "1", "2"}
    assert "attention" not in params["2"] and params["0"]["conv1"]["kernel"].shape == (1, 1, 3, 6)
    assert params["0"]["attention"]["kernel"].shape == (1, 1, 12, 2)
    assert params["2"]["conv2"]["kernel"].shape == (3, 3, 6, 9)
    with pytest.raises(ValueError, match="got middle=0"):
        LOSSES["reviewkd"].init(jax.random.key(0), item(student, teacher), None, middle=0)


def test_overhaul_refuses_maps_of_other_sizes():
    with pytest.raises(ValueError, match="needs equal shapes"):
        overhaul.partial_square(maps(4, 3), maps(2, 3), jnp.zeros(3))
    with pytest.raises(ValueError, match="works on maps"):
        vectors = [jnp.ones((3, 6))]
        LOSSES["ofd"].init(jax.random.key(0), item(vectors, vectors), None, margin="moving")
    for margin, what in (("batchnorm", "finds no BatchNorm"), ("mean", "got margin='mean'")):
        with pytest.raises(ValueError, match=what):
            pair = item([maps(4, 3)], [maps(4, 3)])
            LOSSES["ofd"].init(jax.random.key(0), pair, None, margin=margin)


def test_margins_of_a_batchnorm_are_its_mean_negative_response():
    draw = np.random.default_rng(0).normal(size=2_000_000)
    scale, bias = np.array([1.0, -0.5, 2.0, 0.1]), np.array([0.0, 0.5, -3.0, 0.5])
    made = overhaul.closed_margin(jnp.asarray(scale), jnp.asarray(bias))
    for channel in range(3):
        responses = bias[channel] + scale[channel] * draw
        np.testing.assert_allclose(made[channel], responses[responses < 0].mean(), rtol=0.01)
    np.testing.assert_allclose(made[3], -0.3, rtol=1e-6)  # five deviations above 0


@pytest.mark.parametrize(
    "name, norms",
    [("resnet8", {"f1_pre": "layer1_0/bn2", "f3_pre": "layer3_0/bn2"}),
     ("resnet50_cifar", {"f2_pre": "layer2_3/bn3"}), ("vgg8", {"f1_pre": "block1_1"}),
     ("vgg13", {"f4_pre": "block4_4"}),
     ("wrn_10_1", {"f1_pre": "block2/layer_0/bn1", "f3_pre": "bn1"})],
)
def test_the_batchnorm_of_a_feature(name, norms):
    model = models.create(name, 10, normalize=((0.0,) * 3, (1.0,) * 3))
    shapes = jax.eval_shape(lambda key: model.init(key, (32, 32)), jax.random.key(0))["params"]
    for feature, path in norms.items():
        expected = shapes
        for part in path.split("/"):
            expected = expected[part]
        assert norm_before(shapes, feature) is expected and "scale" in expected
    assert norm_before(shapes, "pooled") is None


def test_a_larger_map_of_the_teacher_is_averaged_down():
    student, teacher = [maps(4, 3)], [maps(8, 5, 1)]
    norm = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}
    given = item(student, teacher)[0]._replace(teacher_norms=(norm,))
    params, state = LOSSES["ofd"].init(jax.random.key(0), (given,), None, margin="batchnorm")
    context = Context(None, None, None, 1)
    pooled = teacher[0].reshape(3, 4, 2, 4, 2, 5).mean((2, 4))
    values = [
        LOSSES["ofd"].apply(params, state, item(student, [target]), context)[0]
        for target in (teacher[0], pooled)
    ]
    np.testing.assert_allclose(*values, rtol=1e-6)
