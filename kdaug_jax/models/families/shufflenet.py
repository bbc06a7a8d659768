"""ShuffleNet for small images: shufflev1, shufflev2.

Sources: Zhang et al., 2018, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices"; Ma et al., 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN
Architecture Design"; both with the 1×1 stem of Tian et al., 2020 ("Contrastive Representation
Distillation").
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.models.layers import Kit, Linear, Mode, global_average, make_kit, torch_uniform
from kdaug_jax.types import Outputs

NAMES = ("shufflev1", "shufflev2")

# Output channels and blocks of each stage, the first block with stride 2.
_V1_STAGES = ((240, 4), (480, 8), (960, 4))
_V2_STAGES = ((116, 4), (232, 8), (464, 4))
_V1_GROUPS = 3


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; three strides of 2 leave one pixel of eight."""
    del name
    return 8, 32


def build_module(name: str, num_classes: int, num_branches: int, dtype: Any) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: "shufflev1" or "shufflev2".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.

    Returns:
      A `ShuffleNet` or None.
    """
    if name not in NAMES:
        return None
    kit = make_kit(num_branches, dtype, kernel_init=torch_uniform)
    return ShuffleNet(1 if name == "shufflev1" else 2, num_classes, kit)


class ShuffleNet(nn.Module):
    """1×1 stem, three stages, in version 2 a 1×1 head, average, classifier.

    Features: f0 (stem after ReLU), f1, f2, f3 (stages), f4 (average, also called pooled); f1_pre,
    f2_pre, f3_pre are the stages before their last ReLU, in version 2 also before the last
    shuffle, so in another order of channels.

    Attributes:
      version: 1 or 2.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    version: int
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        kit = self.kit
        x = nn.relu(kit.norm("bn1")(kit.conv("conv1", 24, 1)(x), *mode))
        features = {"f0": x}
        for stage, (width, count) in enumerate(
            _V1_STAGES if self.version == 1 else _V2_STAGES, start=1
        ):
            for block in range(count):
                name = f"layer{stage}_{block}"
                if self.version == 1:
                    unit = GroupedBottleneck(width, block == 0, kit, name=name)
                else:
                    unit = (DownUnit if block == 0 else SplitUnit)(width, kit, name=name)
                x, before = unit(x, mode)
            features |= {f"f{stage}": x, f"f{stage}_pre": before}
        if self.version == 2:
            x = nn.relu(kit.norm("bn2")(kit.conv("conv2", 1024, 1)(x), *mode))
        features["f4"] = features["pooled"] = global_average(x)
        return Outputs(Linear(self.num_classes, name="linear")(features["pooled"]), features)


class GroupedBottleneck(nn.Module):
    """Unit of version 1: grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; sum or concatenation.

    Attributes:
      features: output channels.
      down: whether it halves the image; the averaged input is then put beside the result.
      kit: what the layers share.
    """

    features: int
    down: bool
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Maps `x[B*V,H,W,C_in]` to `[B*V,H',W',features]` after and before the last ReLU."""
        kit, stride = self.kit, 2 if self.down else 1
        width = self.features - x.shape[-1] if self.down else self.features
        inside = width // 4
        # The 24 channels of the stem are too few to be split.
        groups = 1 if x.shape[-1] == 24 else _V1_GROUPS
        y = nn.relu(kit.norm("bn1")(kit.conv("conv1", inside, 1, groups=groups)(x), *mode))
        y = kit.conv("conv2", inside, 3, stride, groups=inside)(shuffle(y, groups))
        y = nn.relu(kit.norm("bn2")(y, *mode))
        y = kit.norm("bn3")(kit.conv("conv3", width, 1, groups=_V1_GROUPS)(y), *mode)
        if self.down:
            y = jnp.concatenate([y, _average(x)], axis=-1)
        else:
            y = y + x
        return nn.relu(y), y


class SplitUnit(nn.Module):
    """Unit of version 2: half the channels pass, the others go through three convolutions.

    Attributes:
      features: channels of input and output.
      kit: what the layers share.
    """

    features: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Returns `[B*V,H,W,features]`, and the same before the last ReLU and the shuffle."""
        kit, half = self.kit, self.features // 2
        left, right = jnp.split(x, 2, axis=-1)
        y = nn.relu(kit.norm("bn1")(kit.conv("conv1", half, 1)(right), *mode))
        y = kit.norm("bn2")(kit.conv("conv2", half, 3, groups=half)(y), *mode)
        y = kit.norm("bn3")(kit.conv("conv3", half, 1)(y), *mode)
        before = jnp.concatenate([left, y], axis=-1)
        return shuffle(jnp.concatenate([left, nn.relu(y)], axis=-1), 2), before


class DownUnit(nn.Module):
    """Unit of version 2 that halves the image: two paths over all channels, side by side.

    Attributes:
      features: output channels.
      kit: what the layers share.
    """

    features: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Returns `[B*V,H/2,W/2,features]`, and the same before the last ReLU and the shuffle."""
        kit, half, channels = self.kit, self.features // 2, x.shape[-1]
        left = kit.norm("bn1")(kit.conv("conv1", channels, 3, 2, groups=channels)(x), *mode)
        left = kit.norm("bn2")(kit.conv("conv2", half, 1)(left), *mode)
        right = nn.relu(kit.norm("bn3")(kit.conv("conv3", half, 1)(x), *mode))
        right = kit.norm("bn4")(kit.conv("conv4", half, 3, 2, groups=half)(right), *mode)
        right = kit.norm("bn5")(kit.conv("conv5", half, 1)(right), *mode)
        before = jnp.concatenate([left, right], axis=-1)
        return shuffle(nn.relu(before), 2), before


def shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of `x[...,C]` out: channel `g·C/groups + i` goes to `i·groups + g`."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)


def _average(x: jax.Array) -> jax.Array:
    """Averages over 3×3 pixels at every second one; zeros beyond the border count too."""
    zero, around = np.zeros((), x.dtype), ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, zero, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), around) / 9.0
