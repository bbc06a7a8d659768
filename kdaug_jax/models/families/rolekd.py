"""ResNet-18 and AlexNet for quantised students: rolekd_resnet18, rolekd_alexnet.

TensorFlow's conventions: "SAME" padding, BatchNorm with decay 0.99 and epsilon 1e-3.

Source: Fu et al., 2020, "Role-Wise Data Augmentation for Knowledge Distillation"; quantisation
from Zhou et al., 2016, "DoReFa-Net".
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from kdaug_jax.models.layers import (
    FULL,
    Initializer,
    Kit,
    Linear,
    Mode,
    check_factor,
    global_average,
    make_kit,
    scaled,
    zeros,
)
from kdaug_jax.models.pooling import max_pool
from kdaug_jax.types import Outputs

NAMES = ("rolekd_resnet18", "rolekd_alexnet")

# U(±sqrt(6 / (fan_in + fan_out))) (Glorot and Bengio, 2010).
_xavier: Initializer = nn.initializers.xavier_uniform()


def _truncated(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """N(0, 1.3 · 2/fan_in) before it is cut off at two standard deviations."""
    spread = math.sqrt(1.3 * 2 / math.prod(shape[:-1]))
    return nn.initializers.truncated_normal(spread)(key, shape, dtype)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; three halvings leave one pixel of eight."""
    del name
    return 8, 32


def build_module(
    name: str,
    num_classes: int,
    num_branches: int,
    dtype: Any,
    bits: Any = (FULL, FULL),
    width: float = 1.0,
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: "rolekd_resnet18" or "rolekd_alexnet".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      bits: of weights and of activations, see `layers.Kit`. The first convolution and the last
        dense layer keep full precision.
      width: factor of all channels and hidden units, above 0.

    Returns:
      A `QuantResNet`, a `QuantAlexNet` or None.

    Raises:
      ConfigError: `bits` do not exist, or `width` is out of range.
    """
    if name not in NAMES:
        return None
    kit = make_kit(num_branches, dtype, bits, kernel_init=_truncated, momentum=0.99, epsilon=1e-3)
    network = QuantResNet if name == "rolekd_resnet18" else QuantAlexNet
    return network(num_classes, kit, check_factor("width", width))


class QuantResNet(nn.Module):
    """3×3 stem, four stages of two basic blocks, average over the image, classifier.

    Features: stem (after ReLU), feat0 … feat3 (stages after the last ReLU, not quantised),
    feat0_pre … feat3_pre (before it), pooled.

    Attributes:
      num_classes: width of the logits, C.
      kit: what the layers share.
      width: factor of the published channels.
    """

    num_classes: int
    kit: Kit = Kit()
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        stem, *widths = (scaled(channels, self.width) for channels in (64, 64, 128, 256, 512))
        x = kit.conv("base_conv", stem, 3, padding="SAME", bits=FULL)(x)
        x = nn.relu(kit.norm("bn0")(x, *mode))
        features = {"stem": x}
        for stage, width in enumerate(widths):
            before = QuantStage(width, 1 if stage == 0 else 2, kit, name=f"Resblock{stage}")(
                x, mode
            )
            x = nn.relu(before)
            features |= {f"feat{stage}_pre": before, f"feat{stage}": x}
        features["pooled"] = global_average(x)
        classify = Linear(self.num_classes, kernel_init=_xavier, bias_init=zeros, name="full")
        return Outputs(classify(features["pooled"]), features)


class QuantStage(nn.Module):
    """Two basic blocks; the last ReLU is the caller's.

    Attributes:
      width: output channels.
      stride: of the first block.
      kit: what the layers share.
    """

    width: int
    stride: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,width]`, before the ReLU."""
        x = nn.relu(QuantBlock(self.width, self.stride, self.kit, name="BasicBlock0")(x, mode))
        return QuantBlock(self.width, 1, self.kit, name="BasicBlock1")(x, mode)


class QuantBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm; quantised activations enter them and the shortcut.

    Attributes:
      width: output channels.
      stride: of the first convolution.
      kit: what the layers share.
    """

    width: int
    stride: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> jax.Array:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H/stride,W/stride,width]`, before the ReLU."""
        kit = self.kit
        x = kit.quantize(x)
        y = kit.conv("conv0", self.width, 3, self.stride, padding="SAME")(x)
        y = kit.quantize(nn.relu(kit.norm("bn0")(y, *mode)))
        y = kit.norm("bn1")(kit.conv("conv1", self.width, 3, padding="SAME")(y), *mode)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = kit.conv("conv2", self.width, 1, self.stride, padding="SAME")(x)
            x = kit.norm("bn2")(x, *mode)
        return x + y


class QuantAlexNet(nn.Module):
    """Five convolutions with max-pooling and three dense layers, BatchNorm instead of biases.

    The dense layers depend on the image size, so it keeps to one. They read the last map row by
    row with the channels innermost.

    Features: feat0, feat1, feat2, feat3 (after the second pooling, the third and fourth convolution
    and the last pooling, quantised like what the next layer reads), fc1 (the inputs of the
    classifier, also called pooled).

    Attributes:
      num_classes: width of the logits, C.
      kit: what the layers share.
      width: factor of the published channels.
    """

    num_classes: int
    kit: Kit = Kit()
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit, features = self.kit, {}

        def activate(name, x):
            return nn.relu(kit.norm(name)(x, *mode))

        def convolve(number, x, width, size, **settings):
            x = kit.conv(f"conv{number}", scaled(width, self.width), size, **settings)(x)
            return kit.quantize(activate(f"bn{number}", x))

        def pool(x):
            return max_pool(x, 2, 2)

        x = pool(convolve(0, x, 64, 11, padding=5, bits=FULL))
        x = features["feat0"] = pool(convolve(1, x, 192, 5))
        x = features["feat1"] = convolve(2, x, 384, 3)
        x = features["feat2"] = convolve(3, x, 256, 3)
        x = features["feat3"] = pool(convolve(4, x, 256, 3))
        x = x.reshape(x.shape[0], -1)
        dense = {"use_bias": False, "kernel_init": _xavier}
        hidden = {"dtype": kit.dtype, "bits": kit.bits[0], **dense}
        units = scaled(4096, self.width)
        x = kit.quantize(activate("bn_fc0", Linear(units, name="fc0", **hidden)(x)))
        x = activate("bn_fc1", Linear(units, name="fc1", **hidden)(x))
        features["fc1"] = features["pooled"] = x.astype("float32")
        return Outputs(Linear(self.num_classes, name="fct", **dense)(features["fc1"]), features)
