"""PyramidNet with bottlenecks, with and without ShakeDrop: pyramidnetD_aA, …_shakedrop.

Sources: Han et al., 2017, "Deep Pyramidal Residual Networks"; Yamada et al., 2019, "ShakeDrop
Regularization for Deep Residual Learning", with gates drawn for each image.
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
    pad_channels,
    random_factors,
    shrink,
)
from kdaug_jax.types import Outputs

# The usual ones; `build_module` takes every legal depth and widening.
NAMES = (
    "pyramidnet272_a200",
    "pyramidnet272_a200_shakedrop",
    "pyramidnet200_a240",
    "pyramidnet200_a240_shakedrop",
    "pyramidnet29_a48_shakedrop_tiny",
)

_NAME = re.compile(r"pyramidnet([1-9]\d*)_a([1-9]\d*)(_shakedrop(?:_tiny)?)?")


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; two strides of 2 leave one pixel of four."""
    del name
    return 4, 32


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    drop: float = 0.5,
    bits: Any = (FULL, FULL),
) -> nn.Module | None:
    """Returns the network called `name`, or None if that is not `pyramidnetD_aA`.

    Args:
      name: such as "pyramidnet272_a200_shakedrop": depth and the channels added up to the end.
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      drop: of `_shakedrop`, the probability with which the last block is dropped, in [0, 1);
        that of block l of L is l/L of it. Without `_shakedrop` no block is.
      bits: of weights and of activations inside the blocks, see `layers.Kit`. The input of a
        block's first convolution has passed no ReLU; quantised, it is clipped to [0, 1] too.

    Returns:
      A `PyramidNet` or None.

    Raises:
      ConfigError: the depth is not 9n+2 with n ≥ 1, the probability is out of range, or `bits`
        do not exist.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    blocks, rest = divmod(int(match[1]) - 2, 9)
    if rest or blocks < 1:
        lower = 9 * max(blocks, 1) + 2
        raise ConfigError(
            "name",
            f"'{name}' has depth {match[1]}, which must be 9n+2",
            f"write a depth of {lower} or {lower + 9}",
        )
    check_rate("drop", drop)
    kit = make_kit(num_branches, dtype, bits)
    return PyramidNet(blocks, int(match[2]), drop if match[3] else 0.0, num_classes, kit)


class PyramidNet(nn.Module):
    """Stem, three stages of ever wider bottlenecks, BatchNorm, average, classifier.

    Features: bn1 (stem, no ReLU), layer1, layer2, layer3 (raw sums at the ends of stages),
    layer1_post, layer2_post, layer3_post (the same after the BatchNorm that follows and a ReLU,
    which the network has after the last alone), pooled.

    Attributes:
      blocks: bottlenecks in each stage.
      widening: channels that a bottleneck's inside has at the end above the stem's 16.
      drop: probability with which the last block is dropped.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    blocks: int
    widening: int
    drop: float
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit, count = self.kit, 3 * self.blocks
        x = kit.norm("bn1")(kit.conv("conv1", 16, 3, bits=FULL)(x), *mode)
        features = {"bn1": x}
        for number in range(1, count + 1):
            stage, block = divmod(number - 1, self.blocks)
            x, normalised = PyramidBlock(
                round(16 + number * self.widening / count),
                2 if stage > 0 and block == 0 else 1,
                self.drop * number / count,
                kit,
                name=f"layer{stage + 1}_{block}",
            )(x, mode)
            if stage > 0 and block == 0:
                features[f"layer{stage}_post"] = nn.relu(normalised)
            if block == self.blocks - 1:
                features[f"layer{stage + 1}"] = x
        x = features["layer3_post"] = nn.relu(kit.norm("bn_final")(x, *mode))
        features["pooled"] = global_average(x)
        return Outputs(Linear(self.num_classes, name="fc")(features["pooled"]), features)


class PyramidBlock(nn.Module):
    """Pre-activation bottleneck that starts and ends with BatchNorm, dropped at random.

    Attributes:
      width: channels inside; the output has four times as many.
      stride: of the 3×3 convolution.
      drop: probability with which the block is dropped.
      kit: what the layers share.
    """

    width: int
    stride: int
    drop: float
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Returns `[B*V,H/stride,W/stride,4*width]`, and `x[B*V,H,W,C_in]` normalised."""
        kit = self.kit
        normalised = kit.norm("bn1")(x, *mode)
        y = kit.quantize(normalised)
        y = kit.norm("bn2")(kit.conv("conv1", self.width, 1)(y), *mode)
        y = kit.conv("conv2", self.width, 3, self.stride)(kit.quantize(nn.relu(y)))
        y = kit.quantize(nn.relu(kit.norm("bn3")(y, *mode)))
        y = kit.norm("bn4")(kit.conv("conv3", 4 * self.width, 1)(y), *mode)
        if self.drop > 0.0:
            key = self.make_rng("dropout") if mode.train else None
            y = shake_drop(key, y, self.drop)
        return y + pad_channels(shrink(x, self.stride), 4 * self.width), normalised


def shake_drop(key: jax.Array | None, x: jax.Array, drop: float) -> jax.Array:
    """Keeps images, or distorts those that are dropped, with other factors for the gradient.

    With a gate b that is 1 with probability 1 - drop, α in U(-1, 1) and β in U(0, 1), all drawn
    for each image, the factor is b + α - bα, that of the gradient b + β - bβ.

    Args:
      key: random key; None in inference, where the factor is its expectation, 1 - drop.
      x: `[B,...]`.
      drop: probability in [0, 1].

    Returns:
      Array of the shape and type of `x`.

    Source: Yamada et al., 2019, "ShakeDrop Regularization for Deep Residual Learning".
    """
    if key is None:
        return x * (1.0 - drop)
    gate_key, alpha_key, beta_key = jax.random.split(key, 3)
    rows = x.shape[:1]
    gate = jax.random.bernoulli(gate_key, 1.0 - drop, rows).astype("float32")
    alpha = jax.random.uniform(alpha_key, rows, minval=-1.0, maxval=1.0)
    beta = jax.random.uniform(beta_key, rows)
    return random_factors(x, gate + alpha - gate * alpha, gate + beta - gate * beta)
