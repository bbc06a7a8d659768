"""Variables that are not those of a network."""

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from tests.tiny import RAW

IMAGE = np.full((2, 8, 8, 3), 100, np.uint8)


def test_variables_of_a_larger_network_are_refused():
    small, large = (models.create(name, 4, normalize=RAW) for name in ("tapped", "tapped"))
    variables = jax.device_get(large.init(jax.random.key(0), (8, 8)))
    small.apply(variables, IMAGE, train=False)
    variables["params"]["conv3"] = {"kernel": np.zeros((1, 1, 4, 4), np.float32)}
    with pytest.raises(ConfigError, match="variables: of tapped with 4 classes: params/conv3/kern"):
        small.apply(variables, IMAGE, train=False)
    variables["params"].pop("conv3")
    variables["batch_stats"]["bn3"] = {"mean": np.zeros((1, 4), np.float32)}
    with pytest.raises(ConfigError, match="batch_stats/bn3/mean is extra"):
        jax.jit(lambda v: large.apply(v, IMAGE, train=False)[0].logits)(variables)


def test_a_network_with_more_layers_is_another_one():
    deep = models.create("tapped", 4, normalize=RAW)
    shallow = models.create("tiny_wide", 4, normalize=RAW)  # of the same width
    variables = jax.device_get(deep.init(jax.random.key(0), (8, 8)))
    variables["params"]["fc"]["kernel"] = variables["params"]["fc"]["kernel"][:8]
    with pytest.raises(ConfigError, match="conv2/kernel is extra"):
        shallow.apply(variables, IMAGE, train=False)
