"""Small networks with BatchNorm and features: tests of the machinery compile in a second."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdaug_jax import models
from kdaug_jax.models.layers import BatchNorm, Conv, Linear, global_average
from kdaug_jax.types import Outputs

# Statistics that leave pixels as they are.
RAW = (0.0,) * 3, (1.0,) * 3

# The second convolution of the last has weights that may be cut over devices.
_WIDTHS = {"tiny": 4, "tiny_wide": 8, "tapped": 8, "tapped_wide": 16, "tapped_broad": 32}


def register():
    """Makes the networks known by name in this process."""
    for name, width in _WIDTHS.items():
        models.register(name, functools.partial(_make, width, name.startswith("tapped")))


def _make(width, deep, num_classes, num_branches=1, dtype=jnp.float32):
    return Tiny(num_classes, num_branches, width, dtype, deep)


class Tiny(nn.Module):
    """One convolution, or two for those that have something to learn."""

    num_classes: int
    num_branches: int
    width: int
    dtype: Any = jnp.float32
    deep: bool = False
    min_size = 4
    native_size = 8

    @nn.compact
    def __call__(self, x, mode):
        f0 = Conv(self.width, 3, stride=2, padding=1, dtype=self.dtype, name="conv")(x)
        f1 = last = nn.relu(BatchNorm(self.num_branches, name="bn")(f0, *mode))
        if self.deep:
            last = Conv(4 * self.width, 5, stride=4, padding=1, dtype=self.dtype, name="conv2")(f1)
            last = nn.relu(BatchNorm(self.num_branches, name="bn2")(last, *mode))
        pooled = global_average(last)
        logits = Linear(self.num_classes, name="fc")(pooled)
        return Outputs(logits, {"f0": f0, "f1": f1, "pooled": pooled})
