"""Conventions that every network keeps: sizes, views, branches, types, errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.models.batchnorm import BatchNorm
from kdaug_jax.models.families import efficientnet
from tests.models.tracing import shapes, trace
from tests.tiny import RAW


def images(rows, size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    return jnp.asarray(pixels)


def assert_trees_close(left, right, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right
    )


# The smallest of each kind of block.
KINDS = (
    "lenet_vrm",
    "alexnet_vrm",
    "tv_alexnet",
    "resnet8",
    "resnet50_cifar",
    "resnet18_cifar",
    "tv_resnet18",
    "preresnet20",
    "preresnet56_bottleneck",
    "preact_resnet18_cifar",
    "wrn_10_1",
    "wrn_10_1_faa",
    "wrn_10_1_aa",
    "vgg8",
    "mobilenetv1",
    "mobilenetv2",
    "shufflev1",
    "shufflev2",
    "shake26_2x4d",
    "shake26_2x4d_aa",
    "pyramidnet11_a6",
    "pyramidnet11_a6_shakedrop",
    "rolekd_resnet18",
    "rolekd_alexnet",
    "efficientnet_b0",
)
WITHOUT_NORM = ("lenet_vrm", "alexnet_vrm", "tv_alexnet")


def test_every_family_is_among_the_kinds():
    built = {family for family in models._FAMILIES for name in KINDS if is_of(family, name)}
    assert built == set(models._FAMILIES)


def is_of(family, name):
    return family.build_module(name, 10, 1, jnp.dtype("float32")) is not None


def test_wrn_takes_every_legal_depth_and_factor():
    params = trace("wrn_22_3").variables["params"]
    assert sorted(params["block1"]) == ["layer_0", "layer_1", "layer_2"]
    assert params["fc"]["kernel"].shape == (192, 10)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [0, 3])
def test_smallest_images_leave_a_pixel(name, size):
    model = models.create(name, 10, normalize=RAW)
    side = model.min_size + size
    image = jax.ShapeDtypeStruct((6, side, side, 3), jnp.uint8)
    outputs, _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, key=jax.random.key(0)),
        shapes(model, side),
        image,
    )
    assert outputs.logits.shape == (6, 10)
    assert all(0 not in feature.shape for feature in outputs.features.values())


@pytest.mark.parametrize(
    "name, stage, stages",
    [("wrn_10_1", "f", 3), ("preresnet20", "layer", 3), ("pyramidnet29_a48_shakedrop_tiny",
     "layer", 3), ("preact_resnet18_cifar", "layer", 3)],
)
def test_ends_of_stages_after_the_activation_that_follows(name, stage, stages):
    model = models.create(name, 10, normalize=RAW)
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.uint8)
    outputs, _ = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False), shapes(model, 16), image
    )
    for number in range(1, stages + 1):
        raw, active = (outputs.features[f"{stage}{number}{end}"] for end in ("", "_post"))
        assert raw.shape == active.shape
    assert f"{stage}{stages + 1}_post" not in outputs.features


def test_the_last_activation_of_wrn_is_what_is_averaged(initialised):
    model, variables = initialised("wrn_10_1", size=16)
    features = jax.jit(lambda v: model.apply(v, images(2, 16), train=False))(variables)[0].features
    for stage in ("f1", "f2", "f3"):
        expected = np.maximum(features[f"{stage}_pre"], 0)
        np.testing.assert_array_equal(features[f"{stage}_post"], expected)
    averaged = np.asarray(features["f3_post"]).mean((1, 2))
    np.testing.assert_allclose(averaged, features["pooled"], rtol=1e-5, atol=1e-6)


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
        of_first, stats = model.apply(variables, first, train=True, branches=(1,))
        variables = variables | {"batch_stats": stats}
        of_second, stats = model.apply(variables, second, train=True, branches=(0,))
        stack = lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])  # noqa: E731
        return jax.tree.map(stack, of_first, of_second), stats

    together, stats = joint(variables)
    apart, expected = separate(variables)
    assert_trees_close(together.logits, apart.logits, 1e-5)
    assert_trees_close(stats, expected, 1e-5)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_groups_are_separate_batches(initialised):
    _, variables = initialised("wrn_10_1", size=16)
    model = models.create("wrn_10_1", 10, normalize=RAW, replica_batch_size=2)
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
    maps = [feature for feature in outputs.features.values() if feature.ndim == 4]
    assert all(feature.dtype == jnp.bfloat16 for feature in maps)
    leaves = jax.tree.leaves((variables["params"], stats))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


def test_images_are_normalised(initialised):
    model, variables = initialised("lenet_vrm", size=16)
    shifted = models.create("lenet_vrm", 10, normalize=((1.0, 2.0, 3.0), (50.0, 60.0, 70.0)))
    image = images(2, 16)
    by_hand = (image.astype(jnp.float32) - jnp.array([[[[1.0, 2.0, 3.0]]]])) / jnp.array(
        [[[[50.0, 60.0, 70.0]]]]
    )
    left, _ = shifted.apply(variables, image, train=False)
    right, _ = model.apply(variables, by_hand, train=False)
    np.testing.assert_allclose(left.logits, right.logits, rtol=1e-6, atol=1e-6)


def test_dropout_follows_the_key(initialised):
    _, variables = initialised("wrn_10_1", size=16)
    model = models.create("wrn_10_1", 10, normalize=RAW, dropout=0.5)
    run = jax.jit(lambda key: model.apply(variables, images(2, 16), train=True, key=key)[0].logits)
    drawn, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(drawn, again)
    assert not np.allclose(drawn, other)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet21", "did you mean .*resnet20"),
        ("resnet50", "unknown network 'resnet50'"),
        ("wrn_17_2", "wrn_16_2 or wrn_22_2"),
        ("wrn_4_2", "wrn_10_2 or wrn_16_2"),
        ("wrn_16_0", "unknown network"),
        ("nothing alike", "known: "),
        (20, "name: is 20; a text"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(ConfigError, match=words):
        models.create(name, 10, normalize=RAW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 0},
        {"num_classes": "10"},
        {"num_classes": True},
        {"normalize": "cifar"},
        {"normalize": None},
        {"normalize": ((0.0,), (1.0,) * 3)},
        {"normalize": ((float("nan"), 0.0, 0.0), (1.0,) * 3)},
        {"normalize": ((0.0,) * 3, (float("inf"), 1.0, 1.0))},
        {"normalize": ((0.0,) * 3, (1.0, 0.0, 1.0))},
        {"num_branches": 0},
        {"num_branches": 1.5},
        {"replica_batch_size": -1},
        {"replica_batch_size": "4"},
        {"dtype": "float17"},
        {"dtype": jnp.bfloat16},
        {"dropout": 1.0},
        {"drop": 0.1},
    ],
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ConfigError):
        models.create("wrn_10_1", **({"num_classes": 10, "normalize": RAW} | wrong))


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("resnet8", {"bits": (9, 4)}, "bits: is 9; 1 to 8, or 32"),
        ("tv_resnet18", {"width": 0.0}, "width: is 0.0; 0 < width"),
        ("rolekd_alexnet", {"width": True}, "width: is True; 0 < width"),
        ("alexnet_vrm", {"width": float("nan")}, "width: is nan; 0 < width"),
        ("efficientnet_b0", {"depth": -1.0}, "depth: is -1.0; 0 < depth"),
        ("resnet8", {"bits": (4, 0)}, "bits: is 0"),
        ("rolekd_alexnet", {"bits": 4}, "two numbers"),
        ("vgg8", {"bits": (4, 4)}, "has no 'bits'"),
        ("alexnet_vrm", {"dropout": -0.1}, "0 ≤ dropout < 1"),
        ("wrn_10_1_aa", {"bn_momentum": 1.0}, "0 < bn_momentum < 1"),
        ("wrn_17_2_faa", {}, "wrn_16_2_faa or wrn_22_2_faa"),
        ("pyramidnet28_a48", {}, "must be 9n\\+2; write a depth of 20 or 29"),
        ("pyramidnet11_a6_shakedrop", {"drop": 1.0}, "0 ≤ drop < 1"),
        ("efficientnet_b0", {"drop_connect": 1.5}, "0 ≤ drop_connect < 1"),
        ("efficientnet_b0", {"remat": "block"}, "did you mean blocks"),
        ("efficientnet_b0", {"remat": True}, "remat: unknown choice 'True'; known: blocks"),
        ("wrn_10_1_faa", {"bn_momentum": "0.9"}, "0 < bn_momentum < 1"),
        ("efficientnet_b9", {}, "did you mean efficientnet_b"),
        ("shake26_2x33d", {}, "did you mean shake26_2x32d"),
    ],
)
def test_options_out_of_range(name, wrong, words):
    with pytest.raises(ConfigError, match=words):
        models.create(name, 10, normalize=RAW, **wrong)


def test_wrong_calls():
    model = models.create("wrn_10_1", 10, normalize=RAW, num_branches=2, replica_batch_size=4)
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
    with pytest.raises(ConfigError, match="5 rows are not whole examples of 2 views"):
        call(5, 8, train=False, branches=(0, 1))
    with pytest.raises(ConfigError, match="0 rows are not whole examples"):
        call(0, 8, train=True)
    with pytest.raises(ConfigError, match="-1 do not divide 4 examples"):
        call(4, 8, train=True, groups=-1)
    with pytest.raises(ConfigError, match="one number in 0..1 per view"):
        call(4, 8, train=False, branches=(0.5,))
    call(6, 8, train=False)


@pytest.mark.parametrize("shape", [(4, 8, 8, 1), (4, 8, 8, 4), (8, 8, 3)])
def test_images_have_the_channels_of_the_mean(shape):
    model = models.create("wrn_10_1", 10, normalize=RAW)
    image = jax.ShapeDtypeStruct(shape, jnp.uint8)
    with pytest.raises(ConfigError, match=r"has shape .* wrn_10_1 has the mean of 3 channels"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), shapes(model), image)


@pytest.mark.parametrize("name", ["lenet_vrm", "alexnet_vrm", "rolekd_alexnet"])
def test_networks_with_flattened_maps_keep_to_one_image_size(name):
    model = models.create(name, 10, normalize=RAW)
    image = jax.ShapeDtypeStruct((2, 24, 24, 3), jnp.uint8)
    with pytest.raises(ConfigError, match=r"24×24 pixels: params/\w+/kernel has shape .*, not"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), shapes(model), image)


def test_variables_of_another_network_are_listed_by_path():
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)

    def call(model, variables):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)

    model = models.create("resnet8", 10, normalize=RAW)
    with pytest.raises(ConfigError, match="fc/kernel has shape \\(64, 100\\), not \\(64, 10\\)"):
        call(model, shapes(models.create("resnet8", 100, normalize=RAW)))
    with pytest.raises(ConfigError, match="bn1/scale has shape \\(1, 16\\), not \\(2, 16\\)"):
        call(models.create("resnet8", 10, normalize=RAW, num_branches=2), shapes(model))
    with pytest.raises(ConfigError, match="is missing.* and .* more") as caught:
        call(model, {"params": {}, "batch_stats": {}})
    assert caught.value.what.count("is missing") == 10


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 16), None])
def test_running_statistics_of_another_shape_are_listed_by_path(train, shape):
    model = models.create("resnet8", 10, normalize=RAW)
    variables = shapes(model)
    if shape is None:
        del variables["batch_stats"]["bn1"]["mean"]
    else:
        variables["batch_stats"]["bn1"]["mean"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    with pytest.raises(ConfigError) as caught:
        jax.eval_shape(lambda v, x: model.apply(v, x, train=train), variables, image)
    wrong = "is missing" if shape is None else f"has shape {shape}, not (1, 16)"
    assert caught.value.what.endswith(f"32×32 pixels: batch_stats/bn1/mean {wrong}")


def test_networks_that_draw_need_a_key():
    model = models.create("shake26_2x4d", 10, normalize=RAW)
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.uint8)
    with pytest.raises(ConfigError, match="draws at random in training; give a key"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=True), shapes(model, 8), image)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in WITHOUT_NORM])
def test_batchnorm_gets_views_branches_and_groups(name):
    """What every BatchNorm is handed; what it does with that is tested by itself."""
    model = models.create(name, 10, normalize=RAW, num_branches=3, replica_batch_size=2)
    side = model.min_size
    calls, variables = {}, shapes(model, side)

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            calls[context.module.path] = (context.module.num_branches, args[1:])
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((8, side, side, 3), jnp.uint8)
    with nn.intercept_methods(record):
        _, stats = jax.eval_shape(
            lambda v, x: model.apply(v, x, train=True, branches=(2, 0), key=jax.random.key(0)),
            variables,
            image,
        )
    assert set(calls.values()) == {(3, (True, (2, 0), 2, False))}
    assert jax.tree.map(lambda leaf: leaf.shape, stats) == jax.tree.map(
        lambda leaf: leaf.shape, variables["batch_stats"]
    )
    # Shake-Shake's shortcuts that are kept for their weights' sake only.
    unused = 9 if name.startswith("shake") else 0
    assert len(calls) == len(jax.tree.leaves(stats)) // 2 - unused


@pytest.mark.parametrize(
    ("name", "momentum", "epsilon"),
    [
        (name, 0.9, 1e-5)
        for name in KINDS
        if not name.startswith(("rolekd", "efficientnet")) and name not in WITHOUT_NORM
    ]
    + [("rolekd_resnet18", 0.99, 1e-3), ("rolekd_alexnet", 0.99, 1e-3)]
    + [("efficientnet_b0", 0.99, 1e-3)],
)
def test_batchnorm_has_the_originals_constants(name, momentum, epsilon):
    constants = {(norm.momentum, norm.epsilon) for norm in modules(name, BatchNorm).values()}
    assert constants == {(momentum, epsilon)}


def test_fast_autoaugments_momentum_is_an_option():
    norms = modules("wrn_10_1_faa", BatchNorm, bn_momentum=0.1).values()
    assert {norm.momentum for norm in norms} == {0.1}


def modules(name, kind, **options):
    """Returns the modules of one kind that inference of a network passes, by path."""
    modules_by_path = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, kind):
            modules_by_path["/".join(context.module.path)] = context.module
        return call(*args, **kwargs)

    model = models.create(name, 10, normalize=RAW, **options)
    with nn.intercept_methods(record):
        shapes(model, model.min_size)
    return modules_by_path


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        ("resnet18_cifar", {"width": 0.25}, 0.25),
        ("tv_resnet50", {"width": 0.25}, 0.25),
        ("rolekd_resnet18", {"width": 0.25}, 0.25),
        ("rolekd_alexnet", {"width": 0.25}, 0.25),
        ("alexnet_vrm", {"width": 0.25}, 0.25),
    ],
)
def test_width_scales_all_channels(name, options, factor):
    published, narrow = (
        shapes(models.create(name, 10, normalize=RAW, **chosen)) for chosen in ({}, options)
    )
    assert jax.tree.structure(published) == jax.tree.structure(narrow)
    last = lambda tree: [leaf.shape[-1] for leaf in jax.tree.leaves(tree)]  # noqa: E731
    for before, after in zip(last(published), last(narrow), strict=True):
        assert after in (before * factor, before) and (before == 10 or after < before)


def test_efficientnet_takes_other_factors():
    model = models.create("efficientnet_b7", 10, normalize=RAW, width=0.25, depth=0.1)
    small = shapes(model)["params"]
    assert [name for name in small if name.startswith("blocks")] == [
        f"blocks_{stage}_0" for stage in range(7)
    ]
    assert small["conv_stem"]["kernel"].shape[-1] == efficientnet.round_width(0.25 * 32)
    same = shapes(models.create("efficientnet_b0", 10, normalize=RAW, width=1.1, depth=1.2))
    published = shapes(models.create("efficientnet_b2", 10, normalize=RAW))
    assert jax.tree.map(lambda a: a.shape, same) == jax.tree.map(lambda a: a.shape, published)
