"""Variables that are not those of a network."""

import jax
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.models.foreign import torch_file
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


def test_weights_beside_others_in_one_file_are_told(torch, tmp_path):
    file = tmp_path / "trained.pth"
    raw = {"fc.weight": torch.zeros(2, 2)}
    averaged = {"fc.weight": torch.ones(2, 2), "fc.count": torch.zeros(1)}
    torch.save({"model": raw, "model_ema": averaged, "epoch": 3}, file)
    said = []
    assert not torch_file.read(file, say=said.append)["fc.weight"].any()
    assert said == [
        f"{file}: weights of 'model' are taken; it holds others, too: --entry=model_ema"
    ]
    said.clear()
    assert torch_file.read(file, "model_ema", say=said.append)["fc.weight"].all()
    assert said == []
