"""VGG with BatchNorm for small images: vgg8, vgg11, vgg13, vgg16, vgg19.

Source: Simonyan and Zisserman, 2015, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", in the variant of Tian et al., 2020 ("Contrastive Representation Distillation"):
five blocks, an average over the image and one dense layer.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from kdaug_jax.models.layers import Kit, Linear, Mode, global_average, make_kit, zeros
from kdaug_jax.models.pooling import max_pool
from kdaug_jax.types import Outputs

_WIDTHS = (64, 128, 256, 512, 512)

# Convolutions in each of the five blocks.
_TABLE = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}

NAMES = tuple(_TABLE)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; three poolings leave one pixel of eight."""
    del name
    return 8, 32


def build_module(name: str, num_classes: int, num_branches: int, dtype: Any) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: such as "vgg8".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.

    Returns:
      A `VGG` or None.
    """
    if name not in _TABLE:
        return None
    return VGG(_TABLE[name], num_classes, make_kit(num_branches, dtype))


class VGG(nn.Module):
    """Five blocks of 3×3 convolutions with BatchNorm, max-pooling between, average, classifier.

    There is no pooling between the last two blocks, but for images of 64 pixels: the original
    knows these two sizes, and its last block works at 4×4 pixels for both.

    Features: f0 … f4 (blocks after the last ReLU), f1_pre … f4_pre (before it), f5 (average, also
    called pooled).

    Attributes:
      blocks: convolutions in each block.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    blocks: tuple[int, ...]
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit, features = self.kit, {}
        pooled_before = (1, 2, 3, 4) if x.shape[1] == 64 else (1, 2, 3)
        for block, (width, count) in enumerate(zip(_WIDTHS, self.blocks, strict=True)):
            if block in pooled_before:
                x = max_pool(x, 2, 2)
            for number in range(count):
                # Convolution, BatchNorm and ReLU count as three layers in PyTorch's names.
                layer = kit.conv(
                    f"block{block}_{3 * number}", width, 3, use_bias=True, bias_init=zeros
                )
                before = kit.norm(f"block{block}_{3 * number + 1}")(layer(x), *mode)
                x = nn.relu(before)
            features[f"f{block}"] = x
            if block > 0:
                features[f"f{block}_pre"] = before
        features["f5"] = features["pooled"] = global_average(x)
        classify = Linear(
            self.num_classes,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=zeros,
            name="classifier",
        )
        return Outputs(classify(features["pooled"]), features)
