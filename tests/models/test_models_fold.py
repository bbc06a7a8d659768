"""Folding BatchNorm away, and taking one of its branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.models.variables import flatten
from tests.models.tracing import shapes
from tests.tiny import RAW

QUICK = {"xla_backend_optimization_level": 0}


def made_up(model, size, seed=0):
    """Variables whose BatchNorm does something."""
    draw = np.random.default_rng(seed)

    def make(path, leaf):
        values = draw.normal(size=leaf.shape)
        if path.endswith(("/scale", "/var")):
            values = draw.uniform(0.5, 2.0, leaf.shape)
        elif path.endswith("/kernel"):
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(values, leaf.dtype)

    leaves = flatten(shapes(model, size))
    made = {path: make(path, leaf) for path, leaf in leaves.items()}
    return models.variables.unflatten(made)


def run(model, variables, image):
    inference = jax.jit(lambda v, x: model.apply(v, x, train=False)[0], compiler_options=QUICK)
    return inference(variables, image)


IMAGE = jnp.asarray(np.random.default_rng(5).normal(size=(2, 8, 8, 3)), jnp.float32)


# BatchNorm layers that are left: those after a sum, or the first of a pre-activation network.
@pytest.mark.parametrize(
    ("name", "options", "left"),
    [
        ("resnet8", {}, 0),
        ("vgg8", {}, 0),
        ("wrn_10_1", {}, 4),
        ("rolekd_alexnet", {}, 0),
        ("rolekd_alexnet", {"bits": (2, 32)}, 6),  # all but that after the first layer
    ],
)
def test_folded_networks_say_the_same(name, options, left):
    model = models.create(name, 10, normalize=RAW, **options)
    variables = made_up(model, 8)
    folded = models.fold_batchnorm(model, variables, size=(8, 8))
    assert len(jax.tree.leaves(folded["batch_stats"])) == 2 * left
    before, after = run(model, variables, IMAGE), run(model, folded, IMAGE)
    assert set(before.features) == set(after.features)
    for expected, folded_leaf in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        scale = float(np.std(expected))
        np.testing.assert_allclose(folded_leaf, expected, rtol=0, atol=1e-4 * scale)


def test_all_of_efficientnets_batchnorm_folds_inside_rematerialised_blocks():
    model = models.create("efficientnet_b0", 10, normalize=RAW, remat="blocks")
    folded = models.fold_batchnorm(model, made_up(model, 32), size=(32, 32))
    assert folded["batch_stats"] == {}
    assert sum(path.endswith("/shift") for path in flatten(folded)) == 49


def test_folded_kernels_can_be_kept_in_bfloat16():
    model = models.create("resnet8", 10, normalize=RAW, dtype="bfloat16")
    variables = made_up(model, 8)
    folded = models.fold_batchnorm(model, variables, dtype="bfloat16")
    kinds = {path.rpartition("/")[2]: leaf.dtype for path, leaf in flatten(folded).items()}
    assert kinds == {"kernel": jnp.bfloat16, "bias": jnp.float32, "shift": jnp.float32}
    before, after = run(model, variables, IMAGE).logits, run(model, folded, IMAGE).logits
    # Eight bits of mantissa through nine layers.
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_quantised_kernels_are_not_rounded_before():
    model = models.create("rolekd_alexnet", 10, normalize=RAW, bits=(8, 32), dtype="bfloat16")
    variables = made_up(model, 8)
    folded = models.fold_batchnorm(model, variables, dtype="bfloat16", size=(8, 8))
    kept = {path for path, leaf in flatten(folded).items()
            if path.endswith("/kernel") and leaf.dtype == jnp.float32}
    inner = ("conv1", "conv2", "conv3", "conv4", "fc0", "fc1")
    assert kept == {f"params/{layer}/kernel" for layer in inner}
    before, after = run(model, variables, IMAGE).logits, run(model, folded, IMAGE).logits
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_folded_networks_are_not_trained_or_folded_again():
    model = models.create("resnet8", 10, normalize=RAW)
    folded = models.fold_batchnorm(model, made_up(model, 8))
    with pytest.raises(ConfigError, match="are folded already"):
        models.fold_batchnorm(model, folded)
    with pytest.raises(ConfigError, match="train the unfolded weights"):
        jax.eval_shape(lambda v: model.apply(v, IMAGE, train=True), folded)
    branched = models.create("resnet8", 10, normalize=RAW, num_branches=2)
    with pytest.raises(ConfigError, match="2 BatchNorm branches; take one"):
        models.fold_batchnorm(branched, made_up(branched, 8))
    with pytest.raises(ConfigError, match="unknown type 'float16'; did you mean bfloat16"):
        models.fold_batchnorm(model, made_up(model, 8), dtype="float16")


@pytest.mark.parametrize("branch", [0, 2])
def test_one_branch_is_a_network_of_its_own(branch):
    many, single = (models.create("wrn_10_1", 10, normalize=RAW, num_branches=n) for n in (3, 1))
    variables = made_up(many, 8)
    taken = models.take_branch(variables, branch)
    assert jax.tree.map(jnp.shape, taken) == jax.tree.map(jnp.shape, shapes(single, 8))
    expected = jax.jit(
        lambda v: many.apply(v, IMAGE, train=False, branches=(branch,))[0], compiler_options=QUICK
    )(variables)
    np.testing.assert_array_equal(run(single, taken, IMAGE).logits, expected.logits)


def test_there_is_no_such_branch():
    many = models.create("resnet8", 10, normalize=RAW, num_branches=2)
    with pytest.raises(ConfigError, match=r"branch: is 2; 0\.\.1 exist"):
        models.take_branch(made_up(many, 8), 2)
    lenet = models.create("lenet_vrm", 10, normalize=RAW)
    variables = made_up(lenet, 32)
    jax.tree.map(np.testing.assert_array_equal, models.take_branch(variables, 0), variables)
