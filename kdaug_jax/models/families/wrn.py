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

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.layers import (
    FULL,
    Kit,
    Linear,
    Mode,
    check_rate,
    global_average,
    make_kit,
    zeros,
)
from kdaug_jax.types import Outputs

# The usual ones; `build_module` takes every legal depth and factor.
NAMES = tuple(
    f"wrn_{depth}_{factor}"
    for depth, factor in ((10, 1), (16, 1), (16, 2), (16, 4), (28, 10), (40, 1), (40, 2))
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
    bits: Any = (FULL, FULL),
) -> nn.Module | None:
    """Returns the network called `name`, or None if that is not `wrn_D_K`.

    Args:
      name: such as "wrn_16_2".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      dropout: rate of the dropout between the two convolutions of each block, in [0, 1).
      bits: of weights and of activations inside the blocks, see `layers.Kit`.

    Returns:
      A `WideResNet` or None.

    Raises:
      ConfigError: the depth is not 6n+4 with n ≥ 1, the rate is out of range, or `bits` do not
        exist.
    """
    match = re.fullmatch(r"wrn_([1-9]\d*)_([1-9]\d*)", name)
    if match is None:
        return None
    blocks, factor = blocks_of(name, int(match[1])), int(match[2])
    check_rate("dropout", dropout)
    return WideResNet(blocks, factor, num_classes, make_kit(num_branches, dtype, bits), dropout)


def blocks_of(name: str, depth: int) -> int:
    """Returns the blocks per group of a wide residual network of `depth` layers.

    Raises:
      ConfigError: the depth is not 6n+4 with n ≥ 1.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        lower = 6 * max(blocks, 1) + 4
        legal = [name.replace(f"_{depth}_", f"_{better}_", 1) for better in (lower, lower + 6)]
        raise ConfigError(
            "name",
            f"'{name}' has depth {depth}, which must be 6n+4",
            "write " + " or ".join(legal),
        )
    return blocks


class WideResNet(nn.Module):
    """Stem, three groups of pre-activation blocks, BatchNorm, average, classifier.

    Features: f0 (bare stem), f1, f2, f3 (sums at the end of the groups), f4 (average, also called
    pooled); f1_pre, f2_pre, f3_pre are f1, f2, f3 after the BatchNorm that follows them, before
    its ReLU, and f1_post, f2_post, f3_post after it.

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
        x = self.kit.conv("conv1", 16, 3, bits=FULL)(x)
        features = {"f0": x}
        for group, width in enumerate((16, 32, 64), start=1):
            x, normalised = Group(
                self.blocks,
                width * self.factor,
                1 if group == 1 else 2,
                self.kit,
                self.dropout,
                name=f"block{group}",
            )(x, mode)
            # The BatchNorm after f(k) is the first one of group k+1.
            if group > 1:
                features[f"f{group - 1}_pre"] = normalised
                features[f"f{group - 1}_post"] = nn.relu(normalised)
            features[f"f{group}"] = x
        x = features["f3_pre"] = self.kit.norm("bn1")(x, *mode)
        x = features["f3_post"] = nn.relu(x)
        features["f4"] = features["pooled"] = global_average(x)
        classify = Linear(self.num_classes, bias_init=zeros, name="fc")
        return Outputs(classify(features["pooled"]), features)


class Group(nn.Module):
    """Blocks of one width, the first of which may shrink the image.

    Attributes:
      blocks: number of blocks.
      features: output channels.
      stride: of the first block.
      kit: what the layers share.
      dropout: rate of the dropout in the blocks.
    """

    blocks: int
    features: int
    stride: int
    kit: Kit
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
                self.kit,
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
      kit: what the layers share.
      dropout: rate of the dropout.
    """

    features: int
    stride: int
    kit: Kit
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Returns `[B*V,H/stride,W/stride,features]`, and `x[B*V,H,W,C_in]` normalised."""
        kit = self.kit
        normalised = kit.norm("bn1")(x, *mode)
        active = kit.quantize(nn.relu(normalised))
        y = kit.conv("conv1", self.features, 3, self.stride)(active)
        y = kit.quantize(nn.relu(kit.norm("bn2")(y, *mode)))
        if self.dropout > 0.0:
            y = nn.Dropout(self.dropout, deterministic=not mode.train, name="dropout")(y)
        y = kit.conv("conv2", self.features, 3)(y)
        if x.shape[-1] != self.features:
            x = kit.conv("convShortcut", self.features, 1, self.stride)(active)
        return x + y, normalised
