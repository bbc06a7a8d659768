"""Wide residual networks, wrn_D_K of depth D and widening factor K, pre-activation.

Source: Zagoruyko and Komodakis, 2016, "Wide Residual Networks", in the variant of Tian et al.,
2020 ("Contrastive Representation Distillation"): a shortcut that changes the number of channels
is a 1×1 convolution of the activated input.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.layers import BatchNorm, Conv, Linear, Mode, global_average
from kdaug_jax.types import Outputs

# The usual ones; `build` takes every legal depth and factor.
NAMES = tuple(
    f"wrn_{depth}_{factor}"
    for depth, factor in ((10, 1), (16, 1), (16, 2), (16, 4), (28, 10), (40, 1), (40, 2))
)

# Two strides of 2: a smaller image would leave less than one pixel to the last stage.
MIN_SIZE = 4


def build(
    name: str, num_classes: int, num_branches: int, dtype: Any, dropout: float = 0.0
) -> nn.Module | None:
    """Gives the network called `name`, or None if that is not `wrn_D_K`.

    Args:
      name: such as "wrn_16_2".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      dropout: rate of the dropout between the two convolutions of each block, in [0, 1).

    Returns:
      A `WideResNet` or None.

    Raises:
      ConfigError: the depth is not 6n+4 with n ≥ 1, or the rate is out of range.
    """
    match = re.fullmatch(r"wrn_([1-9]\d*)_([1-9]\d*)", name)
    if match is None:
        return None
    depth, factor = int(match[1]), int(match[2])
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        lower = 6 * max(blocks, 1) + 4
        raise ConfigError(
            "name",
            f"'{name}' has depth {depth}, which must be 6n+4",
            f"write wrn_{lower}_{factor} or wrn_{lower + 6}_{factor}",
        )
    if not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
        raise ConfigError("dropout", f"is {dropout!r}", "0 ≤ dropout < 1")
    return WideResNet(blocks, factor, num_classes, num_branches, dtype, dropout)


class WideResNet(nn.Module):
    """Stem, three groups of pre-activation blocks, BatchNorm, average, classifier.

    Taps: f0 (bare stem), f1, f2, f3 (sums at the end of the groups), f4 (average, also called
    pooled); f1_pre, f2_pre, f3_pre are f1, f2, f3 after the BatchNorm that follows them, before
    its ReLU.

    Attributes:
      blocks: residual blocks per group.
      factor: widening factor K.
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches.
      dtype: type of the computation.
      dropout: rate of the dropout in the blocks.
    """

    blocks: int
    factor: int
    num_classes: int
    num_branches: int = 1
    dtype: Any = jnp.float32
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and taps."""
        x = Conv(16, 3, padding=1, dtype=self.dtype, name="conv1")(x)
        taps = {"f0": x}
        for group, width in enumerate((16, 32, 64), start=1):
            x, normalised = Group(
                self.blocks,
                width * self.factor,
                1 if group == 1 else 2,
                self.num_branches,
                self.dtype,
                self.dropout,
                name=f"block{group}",
            )(x, mode)
            # The BatchNorm after f(k) is the first one of group k+1.
            if group > 1:
                taps[f"f{group - 1}_pre"] = normalised
            taps[f"f{group}"] = x
        x = taps["f3_pre"] = BatchNorm(self.num_branches, name="bn1")(x, *mode)
        taps["f4"] = taps["pooled"] = global_average(nn.relu(x))
        classify = Linear(self.num_classes, bias_init=nn.initializers.zeros, name="fc")
        return Outputs(logits=classify(taps["pooled"]), taps=taps)


class Group(nn.Module):
    """Blocks of one width, the first of which may shrink the image.

    Attributes:
      blocks: number of blocks.
      features: output channels.
      stride: of the first block.
      num_branches: BatchNorm branches.
      dtype: type of the computation.
      dropout: rate of the dropout in the blocks.
    """

    blocks: int
    features: int
    stride: int
    num_branches: int
    dtype: Any
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`, and normalises `x`.

        Args:
          x: input of the group.
          mode: how to run.

        Returns:
          The output, and `x` after the first block's first BatchNorm.
        """
        for block in range(self.blocks):
            x, normalised = PreactivationBlock(
                self.features,
                self.stride if block == 0 else 1,
                self.num_branches,
                self.dtype,
                self.dropout,
                name=f"layer_{block}",
            )(x, mode)
            if block == 0:
                first = normalised
        return x, first


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU and convolution, twice, with dropout between, and a shortcut.

    Attributes:
      features: output channels.
      stride: of the first convolution.
      num_branches: BatchNorm branches.
      dtype: type of the computation.
      dropout: rate of the dropout.
    """

    features: int
    stride: int
    num_branches: int
    dtype: Any
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Gives `[B*V,H/stride,W/stride,features]`, and `x[B*V,H,W,C_in]` normalised."""
        normalised = BatchNorm(self.num_branches, name="bn1")(x, *mode)
        active = nn.relu(normalised)
        y = Conv(self.features, 3, self.stride, 1, dtype=self.dtype, name="conv1")(active)
        y = nn.relu(BatchNorm(self.num_branches, name="bn2")(y, *mode))
        if self.dropout > 0.0:
            y = nn.Dropout(self.dropout, deterministic=not mode.train, name="dropout")(y)
        y = Conv(self.features, 3, padding=1, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            shortcut = Conv(self.features, 1, self.stride, dtype=self.dtype, name="convShortcut")
            x = shortcut(active)
        return x + y, normalised
