"""MobileNetV2 of half width for small images, mobilenetv2, and MobileNet for ImageNet, mobilenetv1.

Sources: Sandler et al., 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", in the
variant of Tian et al., 2020 ("Contrastive Representation Distillation"): ReLU without an upper
bound, and an expansion in every block, also where it does not widen. Howard et al., 2017,
"MobileNets", as the students of distillation from ResNet-50 are.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from kdaug_jax.models.layers import (
    Kit,
    Linear,
    Mode,
    global_average,
    make_kit,
    torch_uniform,
    zeros,
)
from kdaug_jax.types import Outputs

NAMES = ("mobilenetv1", "mobilenetv2")

# Expansion, output channels, blocks and stride of each stage; the widths are half the original's.
_STAGES = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
_TAPPED = {1: "f1", 2: "f2", 4: "f3", 6: "f4"}
# Output channels and stride of each block of the first version, and which end a stage.
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2),
    (1024, 1),
)
_ENDS = {3: "f1", 5: "f2", 11: "f3", 13: "f4"}


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; strides leave one pixel of the first."""
    return (32, 224) if name == "mobilenetv1" else (16, 32)


def build_module(name: str, num_classes: int, num_branches: int, dtype: Any) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: "mobilenetv1" or "mobilenetv2".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.

    Returns:
      A `MobileNetV1`, a `MobileNetV2` or None.
    """
    if name not in NAMES:
        return None
    if name == "mobilenetv2":
        return MobileNetV2(num_classes, make_kit(num_branches, dtype))
    return MobileNetV1(num_classes, make_kit(num_branches, dtype, kernel_init=torch_uniform))


class MobileNetV1(nn.Module):
    """Stem with stride 2, 13 blocks of a depthwise 3×3 and a 1×1 convolution, average, classifier.

    Features: f0 (stem after ReLU), f1, f2, f3, f4 (outputs of blocks 3, 5, 11 and 13, counted from
    1, after their ReLU), f1_pre, f2_pre, f3_pre, f4_pre (before it), pooled.

    Attributes:
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        x = nn.relu(kit.norm("model_0_1")(kit.conv("model_0_0", 32, 3, 2)(x), *mode))
        features = {"f0": x}
        for block, (width, stride) in enumerate(_BLOCKS, start=1):
            channels = x.shape[-1]
            y = kit.conv(f"model_{block}_0", channels, 3, stride, groups=channels)(x)
            y = nn.relu(kit.norm(f"model_{block}_1")(y, *mode))
            y = kit.norm(f"model_{block}_4")(kit.conv(f"model_{block}_3", width, 1)(y), *mode)
            x = nn.relu(y)
            if block in _ENDS:
                features[f"{_ENDS[block]}_pre"], features[_ENDS[block]] = y, x
        features["pooled"] = global_average(x)
        return Outputs(Linear(self.num_classes, name="fc")(features["pooled"]), features)


class MobileNetV2(nn.Module):
    """Stem with stride 2, seven stages of inverted residuals, 1×1 head, average, classifier.

    Features: f0 (stem after ReLU), f1, f2, f3, f4 (linear outputs of stages 1, 2, 4 and 6, counted
    from 0), f5 (average, also called pooled).

    Attributes:
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        x = nn.relu(kit.norm("conv1_1")(kit.conv("conv1_0", 16, 3, 2)(x), *mode))
        features = {"f0": x}
        for stage, (expansion, width, count, stride) in enumerate(_STAGES):
            for block in range(count):
                x = InvertedResidual(
                    expansion,
                    width,
                    stride if block == 0 else 1,
                    kit,
                    name=f"blocks_{stage}_{block}",
                )(x, mode)
            if stage in _TAPPED:
                features[_TAPPED[stage]] = x
        x = nn.relu(kit.norm("conv2_1")(kit.conv("conv2_0", 1280, 1)(x), *mode))
        features["f5"] = features["pooled"] = global_average(x)
        classify = Linear(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=zeros,
            name="classifier_0",
        )
        return Outputs(classify(features["pooled"]), features)


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise 3×3, linear 1×1 projection; a shortcut where shapes allow it.

    Attributes:
      expansion: channels inside, as a multiple of the input's.
      features: output channels.
      stride: of the depthwise convolution.
      kit: what the layers share.
    """

    expansion: int
    features: int
    stride: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,features]`."""
        kit, inside = self.kit, self.expansion * x.shape[-1]
        y = nn.relu(kit.norm("conv_1")(kit.conv("conv_0", inside, 1)(x), *mode))
        y = kit.conv("conv_3", inside, 3, self.stride, groups=inside)(y)
        y = nn.relu(kit.norm("conv_4")(y, *mode))
        y = kit.norm("conv_7")(kit.conv("conv_6", self.features, 1)(y), *mode)
        return x + y if x.shape == y.shape else y
