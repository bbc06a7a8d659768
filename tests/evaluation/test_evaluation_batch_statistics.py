"""Evaluation with the BatchNorm statistics of each batch, as paper 003's code has it."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import models
from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime import checkpoint
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.training.bench import DATASET, INFO


def test_full_batches_are_normalised_by_themselves(tmp_path):
    section = dict(validation="train", test="")
    config = tiny_config(
        data=section, train=dict(epochs=1.0), eval=dict(batch_size=16, batch_statistics=True)
    )
    results = loop.train(config, tmp_path, stream=io.StringIO())[""]
    stored = checkpoint.load_subtree(tmp_path / "checkpoints", (), print)["0"]
    variables = {
        "params": stored["params"]["student"], "batch_stats": stored["network_state"]["student"],
    }
    model = models.create("tiny", 4, normalize=(INFO.mean, INFO.std))
    split = DATASET.splits["train"]

    @jax.jit
    def logits(image):
        return model.apply(variables, image, train=True)[0].logits

    # 40 examples are two full batches and a part of one, which is left out.
    made = jnp.concatenate([logits(split.image[start : start + 16]) for start in (0, 16)])
    right = jax.nn.log_softmax(made)[np.arange(32), split.label[:32]]
    np.testing.assert_allclose(results["eval/validation/nll"], -right.mean(), rtol=1e-5)
    accuracy = (made.argmax(1) == split.label[:32]).mean()
    np.testing.assert_allclose(results["eval/validation/accuracy"], accuracy, rtol=1e-6)


def test_a_split_that_fills_no_batch_is_named(tmp_path):
    few = dict(validation="train[:6]", test="")
    config = tiny_config(data=few, train=dict(epochs=0.4), eval=dict(batch_statistics=True))
    with pytest.raises(ConfigError, match="the 6 examples of validation fill no batch of 8"):
        loop.train(config, tmp_path, stream=io.StringIO())
