"""The rule that brings PyTorch's weights to ours, and what it says when they do not fit."""

import jax
import numpy as np
import pytest

from kdaug_jax.errors import CheckpointError
from kdaug_jax.models.weights import from_torch
from tests import golden_models as golden
from tests.models.tracing import trace


@pytest.fixture
def state():
    return golden.read(golden.STORED / "resnet8x4.npz")[1]


def shapes(name="resnet8x4", num_classes=100, **kwargs):
    return trace(name, num_classes, **kwargs).variables


def test_layouts(state):
    state["bn1.num_batches_tracked"] = np.int64(3)
    variables = from_torch(state, shapes())
    block = variables["params"]["layer1_0"]
    np.testing.assert_array_equal(
        block["downsample_0"]["kernel"][0, 0, 5, 7],
        state["layer1.0.downsample.0.weight"][7, 5, 0, 0],
    )
    np.testing.assert_array_equal(
        block["downsample_1"]["scale"][0], state["layer1.0.downsample.1.weight"]
    )
    np.testing.assert_array_equal(variables["params"]["fc"]["kernel"].T, state["fc.weight"])
    np.testing.assert_array_equal(
        variables["batch_stats"]["bn1"]["var"][0], state["bn1.running_var"]
    )
    assert jax.tree.structure(variables) == jax.tree.structure(shapes())


def test_all_branches_start_alike(state):
    variables = from_torch(state, shapes(num_branches=3))
    scale = variables["params"]["bn1"]["scale"]
    assert scale.shape == (3, 32)
    np.testing.assert_array_equal(scale, np.stack([state["bn1.weight"]] * 3))


def test_mismatches_are_listed(state):
    del state["conv1.weight"]
    state["bn9.weight"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as caught:
        from_torch(state, shapes(num_classes=10))
    message = str(caught.value)
    assert "params/conv1/kernel is missing" in message
    assert "params/bn9/scale is extra" in message
    assert "params/fc/kernel has shape (256, 100), not (256, 10)" in message


def test_only_ten_mismatches_are_listed(state):
    with pytest.raises(CheckpointError, match="and .* more"):
        from_torch(state, shapes("wrn_10_1"))
    with pytest.raises(CheckpointError) as caught:
        from_torch({}, shapes("wrn_10_1"))
    assert caught.value.what.count("is missing") == 10
