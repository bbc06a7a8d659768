"""Residual networks of four stages, ResNet-18 to ResNet-200, with a small or a large stem.

`resnet18_cifar` and its like keep CIFAR's resolution (3×3 stem); `tv_resnet18` and its like, and
`resnet200`, shrink ImageNet's four times (7×7 stem and max-pooling). The stride of a bottleneck
lies on its 3×3 convolution.

Source: He et al., 2016, "Deep Residual Learning for Image Recognition".
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.layers import (
    FULL,
    Initializer,
    Kit,
    Linear,
    Mode,
    check_factor,
    global_average,
    kaiming_normal,
    make_kit,
    scaled,
    torch_uniform,
)
from kdaug_jax.models.pooling import max_pool
from kdaug_jax.types import Outputs

_WIDTHS = (64, 128, 256, 512)


class _Form(NamedTuple):
    """What distinguishes the networks that were published under like names.

    Attributes:
      large_stem: 7×7 with stride 2 and max-pooling, instead of 3×3.
      features: names of the features of stem, stages and average, in order.
      shortcut: name of the projection's layers.
      classifier: name of the last layer.
      kernel_init: initialiser of convolutions.
    """

    large_stem: bool
    features: tuple[str, ...]
    shortcut: str
    classifier: str
    kernel_init: Initializer


_LAYERS = ("layer1", "layer2", "layer3", "layer4", "pooled")
_CIFAR = _Form(False, ("stem", *_LAYERS), "shortcut", "linear", torch_uniform)
_TIAN = _Form(False, ("f0", "f1", "f2", "f3", "f4", "f5"), "shortcut", "linear", kaiming_normal)
_IMAGENET = _Form(True, ("maxpool", *_LAYERS), "downsample", "fc", kaiming_normal)

# Whether the blocks are bottlenecks, their number in each stage, and the form. resnet18_cifar is
# as in Das et al., 2020 (PyTorch's default initialisation); those with features f0 … f5 as in
# Tian et al., 2020.
_TABLE: dict[str, tuple[bool, tuple[int, ...], _Form]] = {
    "resnet18_cifar": (False, (2, 2, 2, 2), _CIFAR),
    "resnet34_cifar": (False, (3, 4, 6, 3), _CIFAR),
    "resnet18_cifar_rd": (False, (2, 2, 2, 2), _TIAN),
    "resnet34_cifar_rd": (False, (3, 4, 6, 3), _TIAN),
    "resnet50_cifar": (True, (3, 4, 6, 3), _TIAN),
    "tv_resnet18": (False, (2, 2, 2, 2), _IMAGENET),
    "tv_resnet34": (False, (3, 4, 6, 3), _IMAGENET),
    "tv_resnet50": (True, (3, 4, 6, 3), _IMAGENET),
    "tv_resnet101": (True, (3, 4, 23, 3), _IMAGENET),
    "tv_resnet152": (True, (3, 8, 36, 3), _IMAGENET),
    "resnet200": (True, (3, 24, 36, 3), _IMAGENET),
}

NAMES = tuple(_TABLE)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side: the product of the strides, and the data's."""
    return (32, 224) if _TABLE[name][2].large_stem else (8, 32)


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    bits: Any = (FULL, FULL),
    zero_gamma: bool = False,
    width: float = 1.0,
    variant: str = "v1.5",
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: such as "resnet18_cifar" or "tv_resnet50".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      bits: of weights and of activations inside the blocks, see `layers.Kit`.
      zero_gamma: whether the last BatchNorm of each block starts with scale 0, so that the block
        starts as its shortcut.
      width: factor of all channels, above 0.
      variant: of bottlenecks: "v1.5" has the stride on the 3×3 convolution, as torchvision; "v1"
        on the first 1×1, as He et al., 2016, and Caffe's weights.

    Returns:
      A `FourStageResNet` or None.

    Raises:
      ConfigError: `bits` or the variant do not exist, or `width` is out of range.
    """
    if name not in _TABLE:
        return None
    bottleneck, blocks, form = _TABLE[name]
    kit = make_kit(num_branches, dtype, bits, kernel_init=form.kernel_init)
    width = check_factor("width", width)
    if not isinstance(variant, str) or variant not in ("v1.5", "v1"):
        raise ConfigError("variant", f"unknown choice '{variant}'", "'v1.5' or 'v1'")
    if variant == "v1" and not bottleneck:
        raise ConfigError("variant", f"{name} has no bottlenecks", "leave it out")
    early = variant == "v1"
    return FourStageResNet(bottleneck, blocks, form, num_classes, kit, zero_gamma, width, early)


class FourStageResNet(nn.Module):
    """Stem, four stages, average over the image, classifier.

    Features: f0 or stem (after ReLU; before max-pooling) and maxpool (after it); f1 … f4 or
    layer1 … layer4 (stages); each of these with `_pre`, before the last ReLU; the average as f5
    and pooled.

    Attributes:
      bottleneck: whether blocks are bottlenecks of four times the width.
      blocks: blocks in each stage.
      form: which published form.
      num_classes: width of the logits, C.
      kit: what the layers share.
      zero_gamma: whether blocks start as their shortcuts.
      width: factor of the published channels.
      early_stride: whether the stride of a bottleneck lies on its first convolution.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    form: _Form
    num_classes: int
    kit: Kit = Kit()
    zero_gamma: bool = False
    width: float = 1.0
    early_stride: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit, form = self.kit, self.form
        size, stride = (7, 2) if form.large_stem else (3, 1)
        stem, *widths = (scaled(channels, self.width) for channels in (64, *_WIDTHS))
        x = kit.conv("conv1", stem, size, stride, bits=FULL)(x)
        x = nn.relu(kit.norm("bn1")(x, *mode))
        features = {"stem": x} if form.large_stem else {}
        if form.large_stem:
            x = max_pool(x, 3, 2, padding=1)
        features[form.features[0]] = x
        block_of = BasicBlock
        if self.bottleneck:
            block_of = functools.partial(Bottleneck, early_stride=self.early_stride)
        for stage, (width, count) in enumerate(zip(widths, self.blocks, strict=True), start=1):
            for block in range(count):
                before = block_of(
                    width,
                    2 if stage > 1 and block == 0 else 1,
                    form.shortcut,
                    kit,
                    self.zero_gamma,
                    name=f"layer{stage}_{block}",
                )(x, mode)
                x = nn.relu(before)
            features |= {f"{form.features[stage]}_pre": before, form.features[stage]: x}
        features[form.features[5]] = features["pooled"] = global_average(x)
        classify = Linear(self.num_classes, name=form.classifier)
        return Outputs(classify(features["pooled"]), features)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut; the last ReLU is the caller's.

    Attributes:
      width: output channels.
      stride: of the first convolution.
      shortcut: name of the projection's layers.
      kit: what the layers share.
      zero_gamma: whether the block starts as its shortcut.
    """

    width: int
    stride: int
    shortcut: str
    kit: Kit
    zero_gamma: bool

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,width]`, before the ReLU."""
        kit = self.kit
        x = kit.quantize(x)
        y = kit.conv("conv1", self.width, 3, self.stride)(x)
        y = kit.quantize(nn.relu(kit.norm("bn1")(y, *mode)))
        y = kit.conv("conv2", self.width, 3)(y)
        y = kit.norm("bn2", **_last_scale(self.zero_gamma))(y, *mode)
        return y + _project(kit, self.shortcut, x, self.width, self.stride, mode)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with BatchNorm and a shortcut; the last ReLU is the caller's.

    Attributes:
      width: channels of the first two convolutions; the output has four times as many.
      stride: of the 3×3 convolution.
      shortcut: name of the projection's layers.
      kit: what the layers share.
      zero_gamma: whether the block starts as its shortcut.
      early_stride: whether the stride lies on the first convolution instead.
    """

    width: int
    stride: int
    shortcut: str
    kit: Kit
    zero_gamma: bool
    early_stride: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,4*width]`, before the ReLU."""
        kit = self.kit
        x = kit.quantize(x)
        first, second = (self.stride, 1) if self.early_stride else (1, self.stride)
        y = kit.norm("bn1")(kit.conv("conv1", self.width, 1, first)(x), *mode)
        y = kit.conv("conv2", self.width, 3, second)(kit.quantize(nn.relu(y)))
        y = kit.quantize(nn.relu(kit.norm("bn2")(y, *mode)))
        y = kit.conv("conv3", 4 * self.width, 1)(y)
        y = kit.norm("bn3", **_last_scale(self.zero_gamma))(y, *mode)
        return y + _project(kit, self.shortcut, x, 4 * self.width, self.stride, mode)


def _last_scale(zero_gamma: bool) -> dict[str, Initializer]:
    return {"scale_init": nn.initializers.zeros} if zero_gamma else {}


def _project(
    kit: Kit, name: str, x: jax.Array, features: int, stride: int, mode: Mode
) -> jax.Array:
    """Returns the shortcut: `x` itself if it fits, else its 1×1 projection with BatchNorm."""
    if stride == 1 and x.shape[-1] == features:
        return x
    return kit.norm(f"{name}_1")(kit.conv(f"{name}_0", features, 1, stride)(x), *mode)
