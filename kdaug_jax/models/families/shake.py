"""Shake-Shake networks: shake26_2xWd of depth 26, two branches and W channels.

Source: Gastaldi, 2017, "Shake-Shake regularization", in the variant of Lim et al., 2019 ("Fast
AutoAugment"). `_aa` is the variant of Cubuk et al., 2019 ("AutoAugment"): BatchNorm after the
stem, no ReLU before the shortcut, and other random weights of the branches.
"""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.models.layers import (
    Kit,
    Linear,
    Mode,
    global_average,
    make_kit,
    random_factors,
    zeros,
)
from kdaug_jax.types import Outputs

# The usual ones; `build_module` takes every width.
NAMES = tuple(f"shake26_2x{width}d{end}" for end in ("", "_aa") for width in (32, 96, 112))

_BLOCKS = 4


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; two strides of 2 leave one pixel of four."""
    del name
    return 4, 32


def build_module(name: str, num_classes: int, num_branches: int, dtype: Any) -> nn.Module | None:
    """Returns the network called `name`, or None if that is not `shake26_2xWd` with an even W.

    Args:
      name: such as "shake26_2x96d".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.

    Returns:
      A `ShakeShake` or None.
    """
    match = re.fullmatch(r"shake26_2x(\d*[02468])d(_aa)?", name)
    if match is None or int(match[1]) == 0:
        return None
    kit = make_kit(num_branches, dtype)
    return ShakeShake(int(match[1]), match[2] is not None, num_classes, kit)


class ShakeShake(nn.Module):
    """Stem, three stages of four two-branch blocks, ReLU, average, classifier.

    In training each block and image weighs its branches at random, independently in the forward
    and the backward pass; in inference both weigh ½.

    Features: c_in (stem), layer1, layer2, layer3 (raw sums at the end of the stages), pooled.

    Attributes:
      width: channels of the first stage.
      autoaugment: whether it is the variant `_aa`.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    width: int
    autoaugment: bool
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        x = self.kit.conv("c_in", 16, 3, use_bias=not self.autoaugment)(x)
        if self.autoaugment:
            x = self.kit.norm("bn_in")(x, *mode)
        features = {"c_in": x}
        for stage in range(3):
            for block in range(_BLOCKS):
                x = ShakeBlock(
                    self.width * 2**stage,
                    2 if stage > 0 and block == 0 else 1,
                    self.autoaugment,
                    self.kit,
                    name=f"layer{stage + 1}_{block}",
                )(x, mode)
            features[f"layer{stage + 1}"] = x
        features["pooled"] = global_average(nn.relu(x))
        classify = Linear(self.num_classes, bias_init=zeros, name="fc_out")
        return Outputs(classify(features["pooled"]), features)


class ShakeBlock(nn.Module):
    """Two branches of two convolutions, weighed at random in training, and a shortcut.

    Attributes:
      features: output channels.
      stride: of the first convolutions.
      autoaugment: whether it is the variant `_aa`.
      kit: what the layers share.
    """

    features: int
    stride: int
    autoaugment: bool
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        first, second = (self._branch(f"branch{number}", x, mode) for number in (1, 2))
        if mode.train:
            draw = _quotients if self.autoaugment else jax.random.uniform
            alpha, beta = (
                draw(key, x.shape[:1]) for key in jax.random.split(self.make_rng("dropout"))
            )
            mixed = random_factors(first, alpha, beta) + random_factors(
                second, 1.0 - alpha, 1.0 - beta
            )
        else:
            mixed = 0.5 * (first + second)
        shortcut = SkewedShortcut(
            self.features, self.stride, not self.autoaugment, self.kit, name="shortcut"
        )
        if x.shape[-1] != self.features:
            x = shortcut(x, mode)
        elif self.is_initializing():
            # The original makes a shortcut in every block and uses those that change the width.
            # The others are kept, so that sizes and stored weights are the original's.
            shortcut(x, mode)
        return x + mixed

    def _branch(self, name: str, x: jax.Array, mode: Mode) -> jax.Array:
        """Returns one branch; ReLUs count as layers in PyTorch's names."""
        kit = self.kit
        y = kit.conv(f"{name}_1", self.features, 3, self.stride)(nn.relu(x))
        y = nn.relu(kit.norm(f"{name}_2")(y, *mode))
        return kit.norm(f"{name}_5")(kit.conv(f"{name}_4", self.features, 3)(y), *mode)


class SkewedShortcut(nn.Module):
    """Two 1×1 convolutions side by side, the second of the image moved by one pixel.

    Attributes:
      features: output channels.
      stride: in both directions.
      activate: whether a ReLU comes first.
      kit: what the layers share.
    """

    features: int
    stride: int
    activate: bool
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        kit, half = self.kit, self.features // 2
        if self.activate:
            x = nn.relu(x)
        moved = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
        here = kit.conv("conv1", half, 1, self.stride)(x)
        there = kit.conv("conv2", half, 1, self.stride)(moved)
        return kit.norm("bn")(jnp.concatenate([here, there], axis=-1), *mode)


def _quotients(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws u/(u+v) of two uniform numbers u, v: nearer to ½ than a uniform number."""
    u, v = jax.random.uniform(key, (2, *shape), minval=jnp.finfo(jnp.float32).tiny)
    return u / (u + v)
