"""The names of every network lead to PyTorch's and back."""

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.models.foreign.fitting import convert
from kdaug_jax.models.weights import to_torch
from tests.tiny import RAW

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", models.names())
def test_weights_come_back(name):
    model = models.create(name, 11, normalize=RAW)
    side = model.native_size
    shapes = jax.eval_shape(lambda key: model.init(key, (side, side)), jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    # Each array holds a number of its own; one value repeated takes no memory.
    numbered = jax.tree.unflatten(tree, [
        np.broadcast_to(np.float32(number), leaf.shape) for number, leaf in enumerate(leaves)
    ])
    found, count = convert(to_torch(numbered), "memory", name)
    assert count == 11
    assert jax.tree.structure(found) == tree
    for wanted, array in zip(jax.tree.leaves(numbered), jax.tree.leaves(found), strict=True):
        assert array.shape == wanted.shape and array.flat[0] == wanted.flat[0] == array.flat[-1]
