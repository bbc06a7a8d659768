"""EfficientNet-B0 to -B8 and -L2.

Source: Tan and Le, 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks"; B8 and L2 from Xie et al., 2020 ("Adversarial Examples Improve Image Recognition" and
"Self-training with Noisy Student improves ImageNet classification").
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.models.convolutions.apply import keep_results
from kdaug_jax.models.layers import (
    Initializer,
    Kit,
    Linear,
    Mode,
    check_factor,
    check_rate,
    global_average,
    make_kit,
    uniform_within,
    zeros,
)
from kdaug_jax.types import Outputs


class _Scale(NamedTuple):
    """How a member is scaled: factors of width and depth, image side, dropout before the end."""

    width: float
    depth: float
    size: int
    dropout: float


_TABLE = {
    f"efficientnet_{name}": _Scale(*scale)
    for name, scale in {
        "b0": (1.0, 1.0, 224, 0.2),
        "b1": (1.0, 1.1, 240, 0.2),
        "b2": (1.1, 1.2, 260, 0.3),
        "b3": (1.2, 1.4, 300, 0.3),
        "b4": (1.4, 1.8, 380, 0.4),
        "b5": (1.6, 2.2, 456, 0.4),
        "b6": (1.8, 2.6, 528, 0.5),
        "b7": (2.0, 3.1, 600, 0.5),
        "b8": (2.2, 3.6, 672, 0.5),
        "l2": (4.3, 5.3, 800, 0.5),
    }.items()
}

NAMES = tuple(_TABLE)

# Blocks, kernel, stride, expansion and output channels of each stage of B0.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

# N(0, 2 / (k·k)): each output of a depthwise convolution counts for itself alone.
_depthwise_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

# Of BatchNorm, by variant.
_EPSILON = {"tf": 1e-3, "timm": 1e-5, "torchvision": 1e-3}

# What a block keeps for the backward pass; everything else in it is computed again.
_REMAT = {
    "none": None,
    "convolutions": keep_results,
    "blocks": lambda *_, **__: False,
}


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest image side, one pixel for the last stage, and the native one."""
    return 32, _TABLE[name].size


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    dropout: float | None = None,
    drop_connect: float = 0.2,
    remat: str = "none",
    width: float | None = None,
    depth: float | None = None,
    variant: str = "tf",
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: such as "efficientnet_b0".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      dropout: rate before the classifier, in [0, 1); None for that of the variant.
      drop_connect: probability with which the last block would be dropped, in [0, 1); block i of
        N, counted from 0, is dropped with i/N of it.
      remat: what each block keeps for the backward pass: "none" for everything, "convolutions"
        for the results of its convolutions, "blocks" for its input only. Less memory, more work.
      width: factor of B0's channels, above 0; None for that of the variant.
      depth: factor of B0's blocks in each stage, above 0; None for that of the variant.
      variant: of equal names and shapes: "tf" pads as TensorFlow does, with more at the end, and
        has the epsilon 1e-3, as the paper's code and timm's `tf_efficientnet_*`; "timm" pads both
        sides alike and has the epsilon 1e-5, as timm's `efficientnet_*`; "torchvision" pads so and
        has the epsilon 1e-3, as torchvision's B5 to B7.

    Returns:
      An `EfficientNet` or None.

    Raises:
      ConfigError: a rate or a factor is out of range, or `remat` or `variant` is unknown.
    """
    if name not in _TABLE:
        return None
    scale = _TABLE[name]
    rate = check_rate("dropout", scale.dropout if dropout is None else dropout)
    scale = scale._replace(
        width=check_factor("width", scale.width if width is None else width),
        depth=check_factor("depth", scale.depth if depth is None else depth),
    )
    check_rate("drop_connect", drop_connect)
    if not isinstance(remat, str) or remat not in _REMAT:
        raise ConfigError("remat", f"unknown choice '{remat}'", suggest(str(remat), _REMAT))
    if not isinstance(variant, str) or variant not in _EPSILON:
        raise ConfigError("variant", f"unknown choice '{variant}'", suggest(str(variant), _EPSILON))
    kit = make_kit(num_branches, dtype, momentum=0.99, epsilon=_EPSILON[variant])
    return EfficientNet(scale, rate, drop_connect, remat, num_classes, kit, variant == "tf")


def round_width(width: float) -> int:
    """Rounds channels to a multiple of 8, but not by more than a tenth down."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class EfficientNet(nn.Module):
    """Stem, seven stages of MBConv blocks, 1×1 head, average, dropout, classifier.

    Features: stem, stage0 … stage6 (linear outputs), head_1x1 (after the activation), pooled
    (before dropout).

    Attributes:
      scale: how the member is scaled.
      dropout: rate before the classifier.
      drop_connect: probability with which the last block would be dropped.
      remat: what blocks keep for the backward pass.
      num_classes: width of the logits, C.
      kit: what the layers share.
      same: whether convolutions pad as TensorFlow does, instead of both sides alike.
    """

    scale: _Scale
    dropout: float
    drop_connect: float
    remat: str
    num_classes: int
    kit: Kit
    same: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit, width = self.kit, self.scale.width
        x = kit.conv("conv_stem", round_width(32 * width), 3, 2, **_padding(self.same))(x)
        x = nn.swish(kit.norm("bn1")(x, *mode))
        features = {"stem": x}
        policy = _REMAT[self.remat]
        block_of = nn.remat(MBConv, static_argnums=(2,), policy=policy) if policy else MBConv
        repeats = [math.ceil(stage[0] * self.scale.depth) for stage in _STAGES]
        number = 0
        for stage, (_, size, stride, expansion, channels) in enumerate(_STAGES):
            for block in range(repeats[stage]):
                x = block_of(
                    round_width(channels * width),
                    size,
                    stride if block == 0 else 1,
                    expansion,
                    self.drop_connect * number / sum(repeats),
                    kit,
                    self.same,
                    name=f"blocks_{stage}_{block}",
                )(x, mode)
                number += 1
            features[f"stage{stage}"] = x
        x = kit.conv("conv_head", round_width(1280 * width), 1)(x)
        x = features["head_1x1"] = nn.swish(kit.norm("bn2")(x, *mode))
        x = features["pooled"] = global_average(x)
        if self.dropout > 0.0:
            x = nn.Dropout(self.dropout, deterministic=not mode.train, name="dropout")(x)
        classify = Linear(
            self.num_classes,
            kernel_init=uniform_within(1 / math.sqrt(self.num_classes)),
            bias_init=zeros,
            name="classifier",
        )
        return Outputs(logits=classify(x), features=features)


class MBConv(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, linear projection, shortcut.

    Attributes:
      features: output channels.
      size: side of the depthwise kernel.
      stride: of the depthwise convolution.
      expansion: channels inside, as a multiple of the input's; 1 leaves the expansion out.
      drop: probability with which an image skips the block, where there is a shortcut.
      kit: what the layers share.
      same: see `EfficientNet`.
    """

    features: int
    size: int
    stride: int
    expansion: int
    drop: float
    kit: Kit
    same: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        kit, channels = self.kit, x.shape[-1]
        inside = channels * self.expansion
        # Names count the layers that are there.
        inner_norm, last_norm, last_conv = "bn1", "bn2", "conv_pw"
        y = x
        if self.expansion != 1:
            inner_norm, last_norm, last_conv = "bn2", "bn3", "conv_pwl"
            y = nn.swish(kit.norm("bn1")(kit.conv("conv_pw", inside, 1)(y), *mode))
        depthwise = kit.conv(
            "conv_dw",
            inside,
            self.size,
            self.stride,
            groups=inside,
            kernel_init=_depthwise_normal,
            **_padding(self.same),
        )
        y = nn.swish(kit.norm(inner_norm)(depthwise(y), *mode))
        y = SqueezeExcite(max(1, channels // 4), kit, name="se")(y)
        y = kit.norm(last_norm)(kit.conv(last_conv, self.features, 1)(y), *mode)
        if x.shape != y.shape:
            return y
        if mode.train and self.drop > 0.0:
            y = drop_images(self.make_rng("dropout"), y, self.drop)
        return x + y


def _padding(same: bool) -> dict[str, str]:
    return {"padding": "SAME"} if same else {}


class SqueezeExcite(nn.Module):
    """Scales channels by what two 1×1 convolutions make of their means.

    Attributes:
      width: channels between the two convolutions.
      kit: what the layers share.

    Source: Hu et al., 2018, "Squeeze-and-Excitation Networks".
    """

    width: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape and type of `x[B*V,H,W,C]`."""
        kit = self.kit
        mean = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
        bias = {"use_bias": True, "bias_init": zeros}
        gate = nn.swish(kit.conv("conv_reduce", self.width, 1, **bias)(mean))
        return x * nn.sigmoid(kit.conv("conv_expand", x.shape[-1], 1, **bias)(gate))


def drop_images(key: jax.Array, x: jax.Array, drop: float) -> jax.Array:
    """Sets whole images of `x[B,...]` to zero, and divides the others by the chance to stay.

    Args:
      key: random key.
      x: `[B,...]`.
      drop: probability in [0, 1).

    Returns:
      Array of the shape and type of `x`, with x as its expectation.

    Source: Huang et al., 2016, "Deep Networks with Stochastic Depth".
    """
    stays = jax.random.bernoulli(key, 1.0 - drop, (x.shape[0], *[1] * (x.ndim - 1)))
    return jnp.where(stays, x / (1.0 - drop), jnp.zeros_like(x))
