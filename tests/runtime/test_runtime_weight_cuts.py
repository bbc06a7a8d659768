"""Which weights are cut over devices, and that they are read bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime import sharding, weight_cuts

KERNEL = ("params", "blocks_1", "expand", "kernel")


@pytest.mark.parametrize(
    "path, shape, parts, axis",
    [
        # The largest axis, the last of several that are as large.
        (KERNEL, (1, 1, 640, 3840), 4, 3),
        (KERNEL, (1, 1, 3840, 640), 4, 2),
        (KERNEL, (3, 3, 512, 512), 4, 3),
        (KERNEL, (5, 5, 1, 8256), 16, 3),
        (("params", "fc", "kernel"), (5504, 1000), 16, 0),
        (("params", "0", "fc", "kernel"), (5504, 1000), 16, 0),  # of an average of several
        (("params", "embedding"), (1000, 512), 8, 0),
        # Else the largest that can be shared evenly.
        (("params", "fc", "kernel"), (2049, 1000), 8, 1),
        (KERNEL, (3, 3, 510, 255), 2, 2),
        # Whole: few elements, too few axes, no axis that can be shared, one device.
        (KERNEL, (1, 1, 255, 256), 4, None),
        (KERNEL, (1, 1, 256, 256), 4, 3),
        (("params", "fc", "weights"), (1 << 20,), 4, None),
        (KERNEL, (7, 7, 63, 63), 2, None),
        (KERNEL, (1, 1, 640, 3840), 1, None),
        (KERNEL, (0, 1 << 20), 4, None),
        # Whole by name: biases, and BatchNorm with many branches.
        (("params", "fc", "bias"), (16, 8192), 4, None),
        (("params", "bn", "scale"), (16, 8192), 4, None),
        (("batch_stats", "bn", "mean"), (16, 8192), 4, None),
        (("batch_stats", "bn", "moments"), (16, 8192), 4, None),
    ],
)
def test_the_axis_that_is_cut(path, shape, parts, axis):
    assert weight_cuts.axis_to_cut(path, shape, parts) == axis


@pytest.mark.slow
@pytest.mark.parametrize("name, share", [("efficientnet_l2", 0.98), ("efficientnet_b7", 0.94)])
def test_the_rule_cuts_nearly_all_of_large_networks(name, share):
    model = models.create(name, 1000, normalize=((0.0,) * 3, (1.0,) * 3))
    variables = jax.eval_shape(lambda key: model.init(key, (64, 64)), jax.random.key(0))
    sizes = [
        (leaf.size, weight_cuts.axis_to_cut(weight_cuts.path_names(path), leaf.shape, 16))
        for path, leaf in jax.tree.leaves_with_path(variables)
    ]
    cut = sum(size for size, axis in sizes if axis is not None)
    assert cut > share * sum(size for size, _ in sizes)


@pytest.mark.parametrize(
    "group, shard, axis", [(1, "auto", "data"), (2, "auto", "model"), (2, "data", "data")]
)
def test_the_devices_over_which_weights_are_cut(group, shard, axis):
    mesh = sharding.make_mesh(-1, 4, group=group)
    (cut,) = weight_cuts.cuts_of(mesh, shard, {"fc": {"kernel": np.ones((256, 512))}}).values()
    assert (cut.axis, cut.over) == (1, axis)
    assert weight_cuts.cuts_of(mesh, "", {"fc": {"kernel": np.ones((256, 512))}}) == {}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_cut_weights_are_read_bit_for_bit(group, platform, monkeypatch):
    """In both forms: all by one collective, as on a CPU, and each by its own."""
    monkeypatch.setattr(weight_cuts, "SMALLEST", 8)
    monkeypatch.setattr(weight_cuts, "target_platform", lambda: platform)
    random = np.random.default_rng(0)
    variables = {
        "params": {
            "conv": {"kernel": random.standard_normal((3, 3, 4, 8), np.float32)},
            "fc": {"kernel": random.standard_normal((16, 3), np.float32), "bias": np.ones(3)},
            "codes": random.integers(-9, 9, (4, 4), np.int32),
        },
        "batch_stats": {"bn": {"mean": -np.zeros((2, 64), np.float32)}},
    }
    variables["params"]["fc"]["kernel"][0] = -0.0, np.nan, np.inf
    mesh = sharding.make_mesh(-1, 4, group=group)
    put = weight_cuts.put(mesh, "auto", variables)
    parts = 4 // group if group == 1 else group
    kernel = put["params"]["conv"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 3, 4, 8 // parts)
    assert put["batch_stats"]["bn"]["mean"].is_fully_replicated

    def read(variables):
        return weight_cuts.gathered("auto", variables)

    whole = jax.jit(sharding.within(mesh, read))(put)
    for made, given in zip(jax.tree.leaves(whole), jax.tree.leaves(put), strict=True):
        assert made.is_fully_replicated
        assert np.asarray(made).tobytes() == np.asarray(given).tobytes()
    # Outside of a program for a mesh nothing is cut.
    assert read(variables) is variables


def test_gradients_of_cut_weights_are_those_of_whole_ones(monkeypatch):
    monkeypatch.setattr(weight_cuts, "SMALLEST", 8)
    random = np.random.default_rng(0)
    weights = {"kernel": random.standard_normal((8, 4), np.float32)}
    images = random.standard_normal((16, 8)).astype(np.float32)
    mesh = sharding.make_mesh(-1, 16, group=2)
    cut = weight_cuts.put(mesh, "auto", weights)

    def loss(weights, images):
        kernel = weight_cuts.gathered("auto", weights)["kernel"]
        return jnp.sum(jnp.tanh(images @ kernel) ** 2)

    gradient = jax.jit(sharding.within(mesh, jax.grad(loss)))
    made = gradient(cut, sharding.put_batch(mesh, images))["kernel"]
    expected = jax.jit(jax.grad(loss))(weights, images)["kernel"]
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_what_is_cut_is_said(monkeypatch):
    variables = {"params": {"kernel": np.ones((512, 1000), np.float32), "bias": np.ones(1000)}}
    mesh = sharding.make_mesh(-1, 4, group=2)
    assert weight_cuts.describe(mesh, "auto", variables) == "2.0 of 2.1 MB cut over 2 devices"
    assert weight_cuts.describe(mesh, "", variables) == ""
    alone = sharding.make_mesh(1, 4)
    assert weight_cuts.describe(alone, "auto", variables) == "0.0 of 2.1 MB cut over 1 device"


def test_all_devices_share_a_batch_whatever_their_groups():
    images = np.arange(24.0).reshape(2, 12)
    by_group = [
        sharding.put_batch(sharding.make_mesh(-1, 12, group=group), images, axis=1)
        for group in (1, 2, 4)
    ]
    for array in by_group:
        np.testing.assert_array_equal(array, images)
        assert [shard.data.shape for shard in array.addressable_shards] == [(2, 3)] * 4
    mesh = sharding.make_mesh(2, 4, group=2)
    assert mesh.shape == {"data": 2, "model": 2}
    np.testing.assert_array_equal(sharding.local_rows(mesh, 4), np.arange(4))
    # Programs of a mesh without groups are those of versions that had none.
    assert sharding.make_mesh(-1, 4).axis_names == ("data",)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1, 12, 3), "mesh.model: 3 does not divide the 4 devices; use a divisor: 1, 2, 4"),
        ((2, 12, 3), "mesh.model: 3 does not divide the 4 devices; use a divisor: 1, 2, 4"),
        ((3, 12, 2), "mesh.data: asks for 3 × 2 devices of 4; use -1 for all"),
        ((-1, 8, 8), "mesh.model: 8 does not divide the 4 devices; use a divisor: 1, 2, 4"),
        ((-1, 6, 2), "data.batch_size: 6 cannot be shared by 4 devices; use 4 or 8, or set mesh.d"),
    ],
)
def test_groups_that_do_not_fit(arguments, message):
    devices, batch, group = arguments
    with pytest.raises(ConfigError) as caught:
        sharding.make_mesh(devices, batch, group=group)
    assert str(caught.value).startswith(message)
    assert sharding.make_mesh(1, 3, group=3).size == 3
