"""Pre-activation residual networks: preresnet20 .. preresnet164, preact_resnet18_cifar.

Source: He et al., 2016, "Identity Mappings in Deep Residual Networks".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from kdaug_jax.models.layers import (
    FULL,
    Initializer,
    Kit,
    Linear,
    Mode,
    global_average,
    kaiming_normal,
    make_kit,
    torch_uniform,
)
from kdaug_jax.types import Outputs


class _Form(NamedTuple):
    """What distinguishes the networks.

    Attributes:
      stem: width of the stem.
      widths: of the stages.
      blocks: in each stage.
      bottleneck: whether the blocks are bottlenecks of four times the width.
      of_active: whether the projection shortcut takes the activated tensor, not the raw one.
      final_norm: whether BatchNorm and ReLU follow the last block.
      shortcut: name of the projection.
      classifier: name of the last layer.
      kernel_init: initialiser of convolutions.
    """

    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    bottleneck: bool = False
    of_active: bool = False
    final_norm: bool = True
    shortcut: str = "downsample_0"
    classifier: str = "fc"
    kernel_init: Initializer = kaiming_normal


def _cifar(depth: int, bottleneck: bool = False) -> _Form:
    blocks = (depth - 2) // (9 if bottleneck else 6)
    return _Form(16, (16, 32, 64), (blocks,) * 3, bottleneck)


# A depth such as 56 fits both kinds of block; without a word in the name it is the basic one, but
# for 164, which is always meant as a bottleneck.
_TABLE = (
    {f"preresnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)}
    | {"preresnet164": _cifar(164, bottleneck=True)}
    | {f"preresnet{depth}_bottleneck": _cifar(depth, bottleneck=True) for depth in (56, 110)}
    | {
        "preact_resnet18_cifar": _Form(
            64,
            (64, 128, 256, 512),
            (2, 2, 2, 2),
            of_active=True,
            final_norm=False,
            shortcut="shortcut_0",
            classifier="linear",
            kernel_init=torch_uniform,
        )
    }
)

NAMES = tuple(_TABLE)


def sizes(name: str) -> tuple[int, int]:
    """Returns the smallest and usual image side; strides of 2 leave one pixel of the first."""
    return 2 ** (len(_TABLE[name].widths) - 1), 32


def build_module(
    name: str, num_classes: int, num_branches: int, dtype: Any, bits: Any = (FULL, FULL)
) -> nn.Module | None:
    """Returns the network called `name`, or None if it is not in `NAMES`.

    Args:
      name: such as "preresnet56".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      bits: of weights and of activations inside the blocks, see `layers.Kit`. A projection of the
        raw tensor has quantised weights and takes activations as they are, negative ones too.

    Returns:
      A `PreResNet` or None.

    Raises:
      ConfigError: `bits` do not exist.
    """
    if name not in _TABLE:
        return None
    form = _TABLE[name]
    kit = make_kit(num_branches, dtype, bits, kernel_init=form.kernel_init)
    return PreResNet(form, num_classes, kit)


class PreResNet(nn.Module):
    """Bare stem, stages of pre-activation blocks, BatchNorm, average, classifier.

    Features: conv1 (bare stem), layer1, layer2, … (raw sums at the end of the stages, which no
    activation has passed yet), layer1_post, layer2_post, … (the same after the BatchNorm and the
    ReLU that follow; not of the last stage where nothing follows), pooled.

    Attributes:
      form: what distinguishes the network.
      num_classes: width of the logits, C.
      kit: what the layers share.
    """

    form: _Form
    num_classes: int
    kit: Kit = Kit()

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> Outputs:
        """Maps normalised images `[B*V,H,W,3]` to logits `f32[B*V,C]` and features."""
        form, kit = self.form, self.kit
        x = kit.conv("conv1", form.stem, 3, bits=FULL)(x)
        features = {"conv1": x}
        for stage, (width, count) in enumerate(zip(form.widths, form.blocks, strict=True), start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                x, active = PreactivationBlock(
                    form, width, stride, kit, name=f"layer{stage}_{block}"
                )(x, mode)
                if stage > 1 and block == 0:
                    features[f"layer{stage - 1}_post"] = active
            features[f"layer{stage}"] = x
        if form.final_norm:
            x = features[f"layer{stage}_post"] = nn.relu(kit.norm("bn")(x, *mode))
        features["pooled"] = global_average(x)
        classify = Linear(self.num_classes, name=form.classifier)
        return Outputs(classify(features["pooled"]), features)


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU and convolution, two or three times, and a shortcut.

    Attributes:
      form: what distinguishes the network.
      width: output channels, or a quarter of them in a bottleneck.
      stride: of the first 3×3 convolution.
      kit: what the layers share.
    """

    form: _Form
    width: int
    stride: int
    kit: Kit

    @nn.compact
    def __call__(self, x: jax.Array, mode: Mode) -> tuple[jax.Array, jax.Array]:
        """Returns `[B*V,H/stride,W/stride,C_out]`, and `x[B*V,H,W,C_in]` normalised and active."""
        kit, width = self.kit, self.width
        convolutions = [(width, 3, self.stride), (width, 3, 1)]
        if self.form.bottleneck:
            convolutions = [(width, 1, 1), (width, 3, self.stride), (4 * width, 1, 1)]
        y, features = x, convolutions[-1][0]
        for number, (channels, size, stride) in enumerate(convolutions, start=1):
            rectified = nn.relu(kit.norm(f"bn{number}")(y, *mode))
            active = kit.quantize(rectified)
            y = kit.conv(f"conv{number}", channels, size, stride)(active)
            if number == 1:
                first, entered = active, rectified
        if self.stride != 1 or x.shape[-1] != features:
            source = first if self.form.of_active else x
            x = kit.conv(self.form.shortcut, features, 1, self.stride)(source)
        return x + y, entered
