"""LeNet with ReLU and max-pooling: lenet_vrm.

Source: LeCun et al., 1998, "Gradient-Based Learning Applied to Document Recognition".
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.models.layers import Conv, Linear, Mode, channels_first, torch_uniform
from kdaug_jax.models.pooling import max_pool
from kdaug_jax.types import Outputs

NAMES = ("lenet_vrm",)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; 16 -> 12 -> 6 -> 2 -> 1 pixels are left."""
    del name
    return 16, 32


def build_module(name: str, num_classes: int, num_branches: int, dtype: Any) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: "lenet_vrm".
      num_classes: width of the logits, C.
      num_branches: has no effect; the network has no BatchNorm.
      dtype: type of the computation.

    Returns:
      A `LeNet` or None.
    """
    del num_branches
    return LeNet(num_classes, dtype) if name in NAMES else None


class LeNet(nn.Module):
    """Two 5×5 convolutions with pooling and three dense layers, without normalisation.

    Works on images of any one size from 16 pixels; the first dense layer depends on it.

    Features: conv1, conv2 (before ReLU), pooled (the 84 inputs of the classifier).

    Attributes:
      num_classes: width of the logits, C.
      dtype: type of the computation.
    """

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        del mode
        features = {}
        for name, channels in (("conv1", 6), ("conv2", 16)):
            convolve = Conv(
                channels,
                5,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=torch_uniform,
                name=name,
            )
            features[name] = convolve(x)
            x = max_pool(nn.relu(features[name]), 2, 2)
        x = channels_first(x)
        x = nn.relu(Linear(120, self.dtype, name="fc1")(x))
        x = nn.relu(Linear(84, self.dtype, name="fc2")(x))
        features["pooled"] = x.astype(jnp.float32)
        logits = Linear(self.num_classes, name="fc3")(features["pooled"])
        return Outputs(logits, features)
