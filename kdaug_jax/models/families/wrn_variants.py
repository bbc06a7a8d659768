"""Wide residual networks as others trained them: wrn_D_K_faa, wrn_D_K_aa.

`_faa` has biases in the convolutions, the stride on the second convolution of a block and a
convolved shortcut of the raw tensor (Lim et al., 2019, "Fast AutoAugment"). `_aa` has shortcuts
without weights, and further ones around each group and around all groups (Cubuk et al., 2019,
"AutoAugment"; Ho et al., 2019, "Population Based Augmentation").
"""

from __future__ import annotations

import math
import re
from typing import Any

import flax.linen as nn
import jax

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.families.wrn import blocks_of
from kdaug_jax.models.layers import (
    Kit,
    Linear,
    Mode,
    check_rate,
    global_average,
    make_kit,
    pad_channels,
    shrink,
    torch_uniform,
    uniform_within,
    zeros,
)
from kdaug_jax.types import Outputs

# The usual ones; `build_module` takes every legal depth and factor.
NAMES = tuple(
    f"wrn_{depth}_{factor}_{variant}"
    for variant in ("faa", "aa")
    for depth, factor in ((28, 10), (40, 2))
)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; two strides of 2 leave one pixel of four."""
    del name
    return 4, 32


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    dropout: float = 0.0,
    bn_momentum: float = 0.9,
) -> nn.Module | None:
    """Returns the network called `name`, or None if that is not `wrn_D_K_faa` or `wrn_D_K_aa`.

    Args:
      name: such as "wrn_40_2_aa".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      dropout: rate of the dropout between the two convolutions of each block, in [0, 1).
      bn_momentum: share of the old running statistics that one update keeps, in (0, 1). The
        published code of `_faa` ran 0.1, which was meant to be AutoAugment's 0.9.

    Returns:
      A `BiasedWideResNet`, a `PaddedWideResNet` or None.

    Raises:
      ConfigError: the depth is not 6n+4 with n ≥ 1, or a number is out of range.
    """
    match = re.fullmatch(r"wrn_([1-9]\d*)_([1-9]\d*)_(faa|aa)", name)
    if match is None:
        return None
    blocks, factor = blocks_of(name, int(match[1])), int(match[2])
    check_rate("dropout", dropout)
    if not isinstance(bn_momentum, float) or not 0.0 < bn_momentum < 1.0:
        raise ConfigError("bn_momentum", f"is {bn_momentum!r}", "0 < bn_momentum < 1")
    kit = make_kit(num_branches, dtype, momentum=bn_momentum)
    if match[3] == "aa":
        return PaddedWideResNet(blocks, factor, num_classes, kit, dropout)
    kit = kit._replace(kernel_init=torch_uniform)
    return BiasedWideResNet(blocks, factor, num_classes, kit, dropout)


class BiasedWideResNet(nn.Module):
    """Stem, three groups of pre-activation blocks, BatchNorm, average, classifier.

    Features: conv1 (bare stem), layer1, layer2, layer3 (raw sums at the end of the groups), pooled.

    Attributes:
      blocks: residual blocks per group.
      factor: widening factor K.
      num_classes: width of the logits, C.
      kit: what the layers share.
      dropout: rate of the dropout in the blocks.
    """

    blocks: int
    factor: int
    num_classes: int
    kit: Kit = Kit()
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        x = kit.conv("conv1", 16, 3, use_bias=True)(x)
        features = {"conv1": x}
        for group, width in enumerate((16, 32, 64), start=1):
            for block in range(self.blocks):
                x = BiasedBlock(
                    width * self.factor,
                    2 if group > 1 and block == 0 else 1,
                    kit,
                    self.dropout,
                    name=f"layer{group}_{block}",
                )(x, mode)
            features[f"layer{group}"] = x
        x = nn.relu(kit.norm("bn1")(x, *mode))
        features["pooled"] = global_average(x)
        return Outputs(Linear(self.num_classes, name="linear")(features["pooled"]), features)


class BiasedBlock(nn.Module):
    """BatchNorm, ReLU and convolution, twice; the second convolution has the stride.

    Attributes:
      features: output channels.
      stride: of the second convolution.
      kit: what the layers share.
      dropout: rate of the dropout.
    """

    features: int
    stride: int
    kit: Kit
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        kit = self.kit
        y = nn.relu(kit.norm("bn1")(x, *mode))
        y = kit.conv("conv1", self.features, 3, use_bias=True)(y)
        if self.dropout > 0.0:
            y = nn.Dropout(self.dropout, deterministic=not mode.train, name="dropout")(y)
        y = nn.relu(kit.norm("bn2")(y, *mode))
        y = kit.conv("conv2", self.features, 3, self.stride, use_bias=True)(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = kit.conv("shortcut_0", self.features, 1, self.stride, use_bias=True)(x)
        return x + y


class PaddedWideResNet(nn.Module):
    """Stem, three groups of blocks with further shortcuts, BatchNorm, average, classifier.

    The input of a group is added to its output, and the stem to that of the last group, each
    averaged and padded with zero channels to fit.

    Features: conv1 (bare stem), group1, group2, group3 (sums at the end of the groups), pooled.

    Attributes:
      blocks: residual blocks per group.
      factor: widening factor K.
      num_classes: width of the logits, C.
      kit: what the layers share.
      dropout: rate of the dropout in the blocks.
    """

    blocks: int
    factor: int
    num_classes: int
    kit: Kit = Kit()
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        stem = x = kit.conv("init_conv", 16, 3, padding="SAME")(x)
        features = {"conv1": x}
        for group, width in enumerate((16, 32, 64), start=1):
            before, stride = x, 1 if group == 1 else 2
            for block in range(self.blocks):
                x = PaddedBlock(
                    width * self.factor,
                    stride if block == 0 else 1,
                    group == 1 and block == 0,
                    kit,
                    self.dropout,
                    name=f"unit_{group}_{block}",
                )(x, mode)
            x = x + fit(before, x.shape[-1], stride)
            features[f"group{group}"] = x
        x = x + fit(stem, x.shape[-1], 4)
        x = nn.relu(kit.norm("final_bn")(x, *mode))
        features["pooled"] = global_average(x)
        classify = Linear(
            self.num_classes,
            kernel_init=uniform_within(1 / math.sqrt(self.num_classes)),
            bias_init=zeros,
            name="fc",
        )
        return Outputs(classify(features["pooled"]), features)


class PaddedBlock(nn.Module):
    """BatchNorm, ReLU and convolution, twice, and a shortcut without weights.

    Attributes:
      features: output channels.
      stride: of the first convolution.
      of_active: whether the shortcut takes the activated tensor, not the raw one.
      kit: what the layers share.
      dropout: rate of the dropout.
    """

    features: int
    stride: int
    of_active: bool
    kit: Kit
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        kit = self.kit
        active = nn.relu(kit.norm("init_bn")(x, *mode))
        y = kit.conv("conv1", self.features, 3, self.stride, padding="SAME")(active)
        y = nn.relu(kit.norm("bn2")(y, *mode))
        if self.dropout > 0.0:
            y = nn.Dropout(self.dropout, deterministic=not mode.train, name="dropout")(y)
        y = kit.conv("conv2", self.features, 3, padding="SAME")(y)
        return fit(active if self.of_active else x, self.features, self.stride) + y


def fit(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Averages `x[B,H,W,C]` over stride×stride pixels and pads channels, half on each side."""
    x = shrink(x, stride)
    return pad_channels(x, features, (features - x.shape[-1]) // 2)
