"""AlexNet without BatchNorm: alexnet_vrm for small images, tv_alexnet for ImageNet.

Sources: Krizhevsky et al., 2012, "ImageNet Classification with Deep Convolutional Neural
Networks"; Das et al., 2020, "An Empirical Analysis of the Impact of Data Augmentation on
Knowledge Distillation".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.models.layers import (
    Conv,
    Linear,
    Mode,
    channels_first,
    check_factor,
    check_rate,
    scaled,
    torch_uniform,
)
from kdaug_jax.models.pooling import max_pool
from kdaug_jax.types import Outputs


class _Form(NamedTuple):
    """What distinguishes the two.

    Attributes:
      convolutions: (number in PyTorch's names, channels, kernel, stride, padding) of each.
      pool: side of the window of max-pooling after convolutions 1 and 2; the last is 3; stride 2.
      hidden: width of the two hidden dense layers.
      dense: name and numbers of the dense layers in PyTorch's names.
      dropout: usual rate of the dropout before each hidden layer.
      feature: name of the feature after the last pooling.
    """

    convolutions: tuple[tuple[int, int, int, int, int], ...]
    pool: int
    hidden: int
    dense: tuple[str, ...]
    dropout: float
    feature: str


_TABLE = {
    "alexnet_vrm": _Form(
        ((0, 64, 3, 1, 2), (3, 192, 3, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1),
         (10, 256, 3, 1, 1)),
        2, 2048, ("fc_layers_1", "fc_layers_4", "fc_layers_6"), 0.6, "conv5pool",
    ),
    "tv_alexnet": _Form(
        ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1),
         (10, 256, 3, 1, 1)),
        3, 4096, ("classifier_1", "classifier_4", "classifier_6"), 0.5, "features",
    ),
}  # fmt: skip

NAMES = tuple(_TABLE)

# Side that the adaptive pooling of the ImageNet form asks for; see `average_to`.
_ADAPTED = 6


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest image side (the last pooling has one full window) and the usual."""
    return (63, 224) if name == "tv_alexnet" else (6, 32)


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    dropout: float | None = None,
    width: float = 1.0,
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: "alexnet_vrm" or "tv_alexnet".
      num_classes: width of the logits, C.
      num_branches: has no effect; the network has no BatchNorm.
      dtype: type of the computation.
      dropout: rate before each of the two hidden dense layers, in [0, 1); None for the usual 0.6
        (alexnet_vrm) or 0.5 (tv_alexnet).
      width: factor of all channels and hidden units, above 0.

    Returns:
      An `AlexNet` or None.

    Raises:
      ConfigError: the rate or the factor is out of range.
    """
    del num_branches
    if name not in _TABLE:
        return None
    form = _TABLE[name]
    rate = check_rate("dropout", form.dropout if dropout is None else dropout)
    return AlexNet(form, rate, num_classes, dtype, check_factor("width", width))


class AlexNet(nn.Module):
    """Five convolutions with max-pooling and three dense layers, all with biases and ReLU.

    The dense layers of alexnet_vrm depend on the image size, so it keeps to one; tv_alexnet first
    averages the last map to 6×6 pixels.

    Features: the map after the last pooling, called conv5pool or features; pooled (the inputs of
    the last dense layer).

    Attributes:
      form: what distinguishes the network.
      dropout: rate before each hidden dense layer.
      num_classes: width of the logits, C.
      dtype: type of the computation.
      width: factor of the published channels.
    """

    form: _Form
    dropout: float
    num_classes: int
    dtype: Any = jnp.float32
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        form = self.form
        for place, (number, width, size, stride, padding) in enumerate(form.convolutions):
            convolve = Conv(
                scaled(width, self.width),
                size,
                stride,
                padding,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=torch_uniform,
                name=f"features_{number}",
            )
            x = nn.relu(convolve(x))
            if place < 2:
                x = max_pool(x, form.pool, 2)
        x = max_pool(x, 3, 2)
        features = {form.feature: x}
        if form.feature == "features":
            x = average_to(x, _ADAPTED)
        x = channels_first(x)
        for name in form.dense[:2]:
            if self.dropout > 0.0:
                dropout = nn.Dropout(self.dropout, name=f"dropout_before_{name}")
                x = dropout(x, deterministic=not mode.train)
            x = nn.relu(Linear(scaled(form.hidden, self.width), self.dtype, name=name)(x))
        features["pooled"] = x.astype(jnp.float32)
        classify = Linear(self.num_classes, name=form.dense[2])
        return Outputs(classify(features["pooled"]), features)


def average_to(x: jax.Array, side: int) -> jax.Array:
    """Averages `x[B,H,W,C]` to `[B,side,side,C]`, over windows that overlap if they must."""
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (_windows(extent, side).astype(x.dtype) for extent in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def _windows(extent: int, count: int) -> np.ndarray:
    """Returns `[count, extent]`: window i averages from floor(i·extent/count) to the next ceil."""
    weights = np.zeros((count, extent), np.float32)
    for window in range(count):
        start, end = window * extent // count, -(-(window + 1) * extent // count)
        weights[window, start:end] = 1 / (end - start)
    return weights
