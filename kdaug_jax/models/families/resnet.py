"""CIFAR residual networks, post-activation: resnet8 .. resnet110, resnet8x4, resnet32x4.

Source: He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2, in the
variant of Tian et al., 2020 ("Contrastive Representation Distillation"): projection shortcuts
with BatchNorm, and the x4 widths.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from kdaug_jax.models.layers import FULL, Kit, Linear, Mode, global_average, make_kit
from kdaug_jax.types import Outputs

_PLAIN = (16, 16, 32, 64)
_TIMES_FOUR = (32, 64, 128, 256)

# Blocks in each of the three stages, and widths of the stem and the stages. The depth is
# 6 blocks + 2. Other depths are left out on purpose: a resnet50 or resnet200 of this kind would
# be taken for the ImageNet network of that name.
_TABLE = {f"resnet{6 * n + 2}": (n, _PLAIN) for n in (1, 2, 3, 5, 7, 9, 18)} | {
    f"resnet{6 * n + 2}x4": (n, _TIMES_FOUR) for n in (1, 5)
}

NAMES = tuple(_TABLE)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; two strides of 2 leave one pixel of four."""
    del name
    return 4, 32


def build_module(
    name: str, num_classes: int, num_branches: int, dtype: Any, bits: Any = (FULL, FULL)
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: such as "resnet20" or "resnet8x4".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      bits: of weights and of activations inside the blocks, see `layers.Kit`.

    Returns:
      A `ResNet` or None.

    Raises:
      ConfigError: `bits` do not exist.
    """
    if name not in _TABLE:
        return None
    blocks, widths = _TABLE[name]
    return ResNet(blocks, widths, num_classes, make_kit(num_branches, dtype, bits))


class ResNet(nn.Module):
    """Stem, three stages of basic blocks, average over the image, classifier.

    Features: f0 (stem after ReLU), f1, f2, f3 (stages), f4 (average, also called pooled);
    f1_pre, f2_pre, f3_pre are f1, f2, f3 before the last ReLU.

    Attributes:
      blocks: residual blocks per stage.
      widths: channels of the stem and of the three stages.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    blocks: int
    widths: tuple[int, ...]
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        x = self.kit.conv("conv1", self.widths[0], 3, bits=FULL)(x)
        x = nn.relu(self.kit.norm("bn1")(x, *mode))
        features = {"f0": x}
        for stage, width in enumerate(self.widths[1:], start=1):
            for block in range(self.blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                before = BasicBlock(width, stride, self.kit, name=f"layer{stage}_{block}")(x, mode)
                x = nn.relu(before)
            features |= {f"f{stage}_pre": before, f"f{stage}": x}
        features["f4"] = features["pooled"] = global_average(x)
        return Outputs(Linear(self.num_classes, name="fc")(features["pooled"]), features)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut; the last ReLU is the caller's.

    Quantised activations enter both the first convolution and the shortcut.

    Attributes:
      features: output channels.
      stride: of the first convolution.
      kit: what the layers share.
    """

    features: int
    stride: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`, before the ReLU."""
        kit = self.kit
        x = kit.quantize(x)
        y = kit.conv("conv1", self.features, 3, self.stride)(x)
        y = kit.quantize(nn.relu(kit.norm("bn1")(y, *mode)))
        y = kit.norm("bn2")(kit.conv("conv2", self.features, 3)(y), *mode)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = kit.conv("downsample_0", self.features, 1, self.stride)(x)
            x = kit.norm("downsample_1")(x, *mode)
        return x + y
