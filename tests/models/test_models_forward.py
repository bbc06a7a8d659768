"""Networks against golden vectors, known sizes and their own conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.models.weights import from_torch

# Parameters with 10 and with 100 classes, counted on the PyTorch originals; wrn_10_1, which has
# no original, by hand.
PARAMETERS = {
    "resnet8": (78_042, 83_892),
    "resnet14": (175_258, 181_108),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "resnet8x4": (1_210_410, 1_233_540),
    "resnet32x4": (7_410_730, 7_433_860),
    "wrn_10_1": (77_850, 83_700),
    "wrn_16_1": (175_066, 180_916),
    "wrn_16_2": (691_674, 703_284),
    "wrn_16_4": (2_748_890, 2_772_020),
    "wrn_40_1": (563_930, 569_780),
    "wrn_40_2": (2_243_546, 2_255_156),
    "wrn_28_10": (36_479_194, 36_536_884),
    "lenet_vrm": (62_006, 69_656),
}


def shapes(model, size=32):
    return jax.eval_shape(lambda key: model.init(key, (size, size)), jax.random.key(0))


def images(rows, size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return jnp.asarray(pixels)


def assert_trees_close(left, right, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right
    )


@pytest.mark.parametrize("name", ["lenet_vrm", "resnet20", "resnet8x4", "wrn_16_2"])
def test_forward_is_golden(golden, name):
    content, state, meta = golden(name)
    sums = [np.sum(array, dtype=np.float64) for array in state.values()]
    np.testing.assert_allclose(sums, content["param_sums"], rtol=1e-9, atol=1e-9)
    model = models.create(name, meta["nc"])
    variables = from_torch(state, shapes(model))
    image = jnp.asarray(content["input"].transpose(0, 2, 3, 1))
    with jax.default_matmul_precision("highest"):
        outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image)
    spread = np.std(content["logits"])
    np.testing.assert_allclose(outputs.logits, content["logits"], rtol=0, atol=1e-4 * spread)
    stored = {key.split("/")[1] for key in content if key.startswith("tap/")}
    assert set(outputs.taps) == stored | {"pooled"}
    for tap in stored:
        shape, step, values, stats = (
            content[f"tap/{tap}/{part}"] for part in ("shape", "step", "values", "stats")
        )
        array = np.asarray(outputs.taps[tap])
        array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        assert array.shape == tuple(shape), tap
        np.testing.assert_allclose(
            array.reshape(-1)[:: int(step)], values, rtol=0, atol=1e-4 * stats[1], err_msg=tap
        )
        # A mean is compared on the scale of its standard deviation, since it may be near zero.
        whole = array.astype(np.float64)
        assert abs(whole.mean() - stats[0]) <= 1e-4 * stats[1], tap
        np.testing.assert_allclose(
            [whole.std(), np.linalg.norm(whole)], stats[1:], rtol=1e-4, err_msg=tap
        )


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    for num_classes, expected in zip((10, 100), PARAMETERS[name], strict=True):
        tree = shapes(models.create(name, num_classes))["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == expected


def test_every_listed_network_is_counted():
    # Tests add a family of their own, "tiny".
    assert set(PARAMETERS) == {name for name in models.names() if not name.startswith("tiny")}


def test_wrn_takes_every_legal_depth_and_factor():
    params = shapes(models.create("wrn_22_3", 10))["params"]
    assert sorted(params["block1"]) == ["layer_0", "layer_1", "layer_2"]
    assert params["fc"]["kernel"].shape == (192, 10)


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "lenet_vrm"])
@pytest.mark.parametrize("size", [0, 3])
def test_smallest_images_leave_a_pixel(name, size):
    model = models.create(name, 10)
    side = model.min_size + size
    image = jax.ShapeDtypeStruct((6, side, side, 3), jnp.uint8)
    outputs, _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True), shapes(model, side), image
    )
    assert outputs.logits.shape == (6, 10)
    assert all(0 not in tap.shape for tap in outputs.taps.values())


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1"])
def test_joint_pass_equals_separate_passes(initialised, name):
    model, variables = initialised(name, size=16, num_branches=2)
    first, second = images(4, 16, seed=1), images(4, 16, seed=2)
    both = jnp.stack([first, second], axis=1).reshape(8, 16, 16, 3)

    @jax.jit
    def joint(variables):
        return model.apply(variables, both, train=True, branches=(1, 0))

    @jax.jit
    def separate(variables):
        one, stats = model.apply(variables, first, train=True, branches=(1,))
        variables = variables | {"batch_stats": stats}
        two, stats = model.apply(variables, second, train=True, branches=(0,))
        stack = lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])  # noqa: E731
        return jax.tree.map(stack, one, two), stats

    together, stats = joint(variables)
    apart, expected = separate(variables)
    assert_trees_close(together.logits, apart.logits, 1e-5)
    assert_trees_close(stats, expected, 1e-5)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_groups_are_separate_batches(initialised):
    _, variables = initialised("wrn_10_1", size=16)
    model = models.create("wrn_10_1", 10, group_size=2)
    image = images(4, 16)
    run = jax.jit(lambda x: model.apply(variables, x, train=True)[0].logits)
    expected = jnp.concatenate([run(image[:2]), run(image[2:])])
    np.testing.assert_allclose(run(image), expected, rtol=1e-5, atol=1e-5)


def test_evaluation_leaves_statistics_alone(initialised):
    model, variables = initialised("wrn_10_1", size=16, num_branches=2)
    _, stats = jax.jit(lambda v: model.apply(v, images(2, 16), train=False))(variables)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "lenet_vrm"])
def test_bfloat16_gives_finite_float32_logits(initialised, name):
    model, variables = initialised(name, size=16, dtype="bfloat16")
    outputs, stats = jax.jit(lambda v, x: model.apply(v, x, train=True))(variables, images(4, 16))
    assert outputs.logits.dtype == jnp.float32
    assert np.isfinite(outputs.logits).all()
    maps = [tap for tap in outputs.taps.values() if tap.ndim == 4]
    assert all(tap.dtype == jnp.bfloat16 for tap in maps)
    leaves = jax.tree.leaves((variables["params"], stats))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_images_are_normalised(initialised):
    model, variables = initialised("lenet_vrm", size=16)
    shifted = models.create("lenet_vrm", 10, mean=(1.0, 2.0, 3.0), std=(50.0, 60.0, 70.0))
    image = images(2, 16)
    by_hand = (image.astype(jnp.float32) - jnp.array([[[[1.0, 2.0, 3.0]]]])) / jnp.array(
        [[[[50.0, 60.0, 70.0]]]]
    )
    left, _ = shifted.apply(variables, image, train=False)
    right, _ = model.apply(variables, by_hand, train=False)
    np.testing.assert_allclose(left.logits, right.logits, rtol=1e-6, atol=1e-6)


def test_dropout_follows_the_key(initialised):
    _, variables = initialised("wrn_10_1", size=16)
    model = models.create("wrn_10_1", 10, dropout=0.5)
    run = jax.jit(lambda key: model.apply(variables, images(2, 16), train=True, key=key)[0].logits)
    one, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet21", "did you mean .*resnet20"),
        ("resnet50", "unknown network 'resnet50'"),
        ("wrn_17_2", "wrn_16_2 or wrn_22_2"),
        ("wrn_4_2", "wrn_10_2 or wrn_16_2"),
        ("wrn_16_0", "unknown network"),
        ("nothing alike", "known: "),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(ConfigError, match=words):
        models.create(name, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0},
        {"mean": (0.0,)},
        {"std": (1.0, 0.0, 1.0)},
        {"num_branches": 0},
        {"group_size": -1},
        {"dtype": "float17"},
        {"dropout": 1.0},
        {"drop": 0.1},
    ],
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ConfigError):
        models.create("wrn_10_1", **({"num_classes": 10} | wrong))


def test_wrong_calls():
    model = models.create("wrn_10_1", 10, num_branches=2, group_size=4)
    variables = shapes(model)

    def call(rows, size, **kwargs):
        image = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8)
        jax.eval_shape(lambda v, x: model.apply(v, x, **kwargs), variables, image)

    with pytest.raises(ConfigError, match="at least 4 pixels"):
        call(4, 3, train=False)
    with pytest.raises(ConfigError, match="at least 4 pixels"):
        model.init(jax.random.key(0), (32, 3))
    with pytest.raises(ConfigError, match="2 BatchNorm branches"):
        call(4, 8, train=True, branches=(2,))
    with pytest.raises(ConfigError, match="one number in 0..1 per view"):
        call(4, 8, train=False, branches=())
    with pytest.raises(ConfigError, match="4 does not divide the batch of 6"):
        call(12, 8, train=True, branches=(0, 1))
    with pytest.raises(ConfigError, match="whole examples"):
        call(5, 8, train=True, branches=(0, 1))
    call(6, 8, train=False)


def test_lenet_keeps_to_one_image_size():
    model = models.create("lenet_vrm", 10)
    image = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.uint8)
    with pytest.raises(ConfigError, match="28×28 pixels: params/fc1/kernel has shape"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), shapes(model), image)
