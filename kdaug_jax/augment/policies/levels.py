"""From a level to a strength, as each source computes it, operation for operation in float64.

A source is a mapping from its op names of ops to functions of a level and an image size. `int`
cuts towards 0, as it does in the sources. Solarize thresholds that are fractions there are
rounded up, which moves no pixel; bits above 8 are written as 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.augment.ops.table import Op, check_op
from kdaug_jax.augment.policies.policy import Levels, Pair, named, plain, signed
from kdaug_jax.errors import ArgumentError
from kdaug_jax.registry import is_import

ENHANCE = {
    "Brightness": "brightness", "Color": "color", "Contrast": "contrast", "Sharpness": "sharpness",
}
SHEAR = {"ShearX": "shear_x", "ShearY": "shear_y"}
TRANSLATE = {"TranslateX": ("translate_x", 1), "TranslateY": ("translate_y", 0)}
WITHOUT = {"AutoContrast": "auto_contrast", "Equalize": "equalize", "Invert": "invert"}
FIXED: Levels = {
    name: lambda level, size, op=op: plain(op) for name, op in WITHOUT.items()
}


class Source(NamedTuple):
    """How one code base reads levels.

    Attributes:
      levels: its functions, by its names of the ops.
      highest: the largest level; the smallest is 0.
      whole: whether levels are whole numbers.
      variant: see `Policy`.
      channels: see `Policy`.
      fill: see `Policy`.
      cutout_fill: see `Policy`.
    """

    levels: Levels
    highest: int
    whole: bool = True
    variant: str = "pillow"
    channels: int = 3
    fill: str | int = "mean"
    cutout_fill: tuple[int, ...] | None = None


def each(names: Mapping[str, Any], pair: Callable[..., Pair]) -> dict[str, Callable[..., Pair]]:
    """Returns `{name: f(level, size)}` where f is `pair(value of the name, level, size)`."""
    return {
        name: lambda level, size, op=op: pair(op, level, size) for name, op in names.items()
    }


def op_levels(
    name: str, levels: Levels, highest: float, size: tuple[int, int], where: str = ""
) -> Callable[[float, tuple[int, int]], Pair]:
    """Returns what an op does at each level 0..highest.

    Args:
      name: of the source's list, or `package.module:attribute` of an op from outside, whose levels
        are spread over the values of its row, see `ops.table.Values`; of a plain function with a
        second argument, that is level / highest.
      levels: the source's list.
      highest: the largest level.
      size: height and width of the images in pixels.
      where: starts the message of an error.

    Raises:
      ArgumentError: no such op; or its function does not return images of uint8 as it is given
        them; or its row has no finite range of values.
    """
    if name in levels or not isinstance(name, str) or not is_import(name):
        return named("op", name, levels, where)
    values = check_op(name, size).values
    if values is None:
        return lambda level, size: plain(name)
    if not (math.isfinite(values.low) and math.isfinite(values.high)):
        raise ArgumentError(
            f"op {name} has no finite range of values", "give its row values with low and high"
        )
    if values.low < 0:
        return lambda level, size: signed(name, level / highest * values.high)
    cast = round if values.whole else float
    return lambda level, size: plain(
        name, cast(values.low + level / highest * (values.high - values.low))
    )


def released(per_pixel: Callable[[tuple[int, int]], float] = lambda size: 1.0) -> Levels:
    """Levels 0..10 of AutoAugment's CIFAR and SVHN code, which PBA shares.

    Args:
      per_pixel: `f(size)`, by what distances in pixels are multiplied; 1 there.

    Source: `augmentation_transforms.py` of tensorflow/models (autoaugment) and arcelien/pba.
    """
    return {
        "Rotate": lambda level, size: signed("rotate", int(level * 30 / 10)),
        **each(SHEAR, lambda op, level, size: signed(op, float(level) * 0.3 / 10)),
        **each(TRANSLATE, lambda op, level, size: signed(
            op[0], int(level * 10 / 10 * per_pixel(size)))),
        **each(ENHANCE, lambda op, level, size: plain(op, float(level) * 1.8 / 10 + 0.1)),
        "Posterize": lambda level, size: plain("posterize", 4 - int(level * 4 / 10)),
        "Solarize": lambda level, size: plain("solarize", 256 - int(level * 256 / 10)),
        "Cutout": lambda level, size: plain("cutout", int(level * 20 / 10 * per_pixel(size))),
        **FIXED,
    }


def paper() -> Levels:
    """Levels 0..10 as AutoAugment's paper ranges them, which its ImageNet policy is written in.

    Source: Cubuk et al. 2019 (AutoAugment), Table 6: bits kept and thresholds grow with the
    level; distances are those of images of 331 pixels. Cut as in timm's policy "original".
    """
    return {
        "Rotate": lambda level, size: signed("rotate", level / 10 * 30),
        **each(SHEAR, lambda op, level, size: signed(op, level / 10 * 0.3)),
        **each(TRANSLATE, lambda op, level, size: signed(
            op[0], level / 10 * 150 / 331 * size[op[1]])),
        **each(ENHANCE, lambda op, level, size: plain(op, level / 10 * 1.8 + 0.1)),
        "Posterize": lambda level, size: plain("posterize", int(level / 10 * 4) + 4),
        "Solarize": lambda level, size: plain("solarize", int(level / 10 * 256)),
        "Cutout": lambda level, size: plain("cutout", int(level / 10 * 60 / 331 * min(size))),
        **FIXED,
    }


def tpu(clean: bool, translate_const: float, cutout_const: float) -> Levels:
    """Levels of EfficientNet's TPU code, which may exceed 10.

    Args:
      clean: False for what that code does beyond its ranges: thresholds wrap modulo 256 (so that
        level 10 inverts), and bits below 1 and above 8 keep 1. True: thresholds stop at 256,
        bits at 1 and 8.
      translate_const: pixels of translation at level 10.
      cutout_const: half the side of squares at level 10, in pixels.

    Source: `level_to_arg` of models/official/efficientnet/autoaugment.py, tensorflow/tpu.
    """

    def posterize(level, size):
        bits = int(level / 10 * 4)
        return plain("posterize", min(max(bits, 1), 8) if clean or bits <= 8 else 1)

    def solarize(level, size):
        threshold = int(level / 10 * 256)
        return plain("solarize", min(threshold, 256) if clean else threshold % 256)

    return {
        **FIXED,
        "Rotate": lambda level, size: signed("rotate", level / 10 * 30),
        "Posterize": posterize,
        "Solarize": solarize,
        **each(ENHANCE, lambda op, level, size: plain(op, level / 10 * 1.8 + 0.1)),
        **each(SHEAR, lambda op, level, size: signed(op, level / 10 * 0.3)),
        **each(TRANSLATE, lambda op, level, size: signed(op[0], level / 10 * translate_const)),
        "Cutout": lambda level, size: plain("cutout", 2 * int(level / 10 * cutout_const)),
        "SolarizeAdd": lambda level, size: plain("solarize_add", int(level / 10 * 110)),
    }


def _bin(number: float, end: float, bins: int, start: float = 0.0) -> float:
    """Returns entry `number` of torch.linspace(start, end, bins), float32 with one rounding."""
    number, first, last = int(number), np.float32(start), np.float32(end)
    step = float((last - first) / np.float32(bins - 1))
    if number < bins // 2:
        return float(np.float32(float(first) + step * number))
    return float(np.float32(float(last) - step * (bins - number - 1)))


class Reach(NamedTuple):
    """How far torchvision's bins reach; None of `translate` is 150/331 of the side."""

    shear: float = 0.3
    translate: float | None = None
    rotate: float = 30.0
    enhance: float = 0.9
    bits: int = 4


def torchvision(bins: int, reach: Reach = Reach()) -> Levels:  # noqa: B008, a plain constant
    """Levels 0..bins-1 of torchvision's AutoAugment, RandAugment and TrivialAugmentWide.

    The sign is drawn for the enhancing ops too. Its translations move the other way than
    Pillow's coefficient.

    Source: `_augmentation_space` of torchvision/transforms/autoaugment.py.
    """

    def translate(op, number, size):
        far = 150.0 / 331.0 * size[op[1]] if reach.translate is None else reach.translate
        return signed(op[0], -int(_bin(number, far, bins)))

    def enhance(op, number, size):
        by = _bin(number, reach.enhance, bins)
        return Op(op, 1.0 + by), Op(op, 1.0 - by)

    def posterize(number, size):
        lost = np.float32(number) / np.float32((bins - 1) / reach.bits)
        return plain("posterize", 8 - int(np.round(lost)))

    return {
        "Identity": lambda number, size: plain("identity"),
        **each(SHEAR, lambda op, number, size: signed(op, _bin(number, reach.shear, bins))),
        **each(TRANSLATE, translate),
        "Rotate": lambda number, size: signed("rotate", _bin(number, reach.rotate, bins)),
        **each(ENHANCE, enhance),
        "Posterize": posterize,
        "Solarize": lambda number, size: plain(
            "solarize", math.ceil(_bin(number, 0.0, bins, start=255.0))),
        **FIXED,
    }


def fast() -> Levels:
    """Levels in [0,1] of Fast AutoAugment: low + level (high - low).

    Source: Lim et al. 2019; `augment_list` of kakaobrain/fast-autoaugment.
    """

    def between(low, high, level):
        return level * (high - low) + low

    return {
        **each(SHEAR, lambda op, level, size: signed(op, between(-0.3, 0.3, level))),
        **each(TRANSLATE, lambda op, level, size: signed(
            op[0], between(-0.45, 0.45, level) * size[op[1]])),
        "Rotate": lambda level, size: signed("rotate", between(-30, 30, level)),
        **FIXED,
        "Solarize": lambda level, size: plain("solarize", math.ceil(between(0, 256, level))),
        "Posterize": lambda level, size: plain("posterize", int(between(4, 8, level))),
        **each(ENHANCE, lambda op, level, size: plain(op, between(0.1, 1.9, level))),
        "Cutout": lambda level, size: plain("cutout_fast", between(0, 0.2, level) * size[1]),
    }


TRANSPARENT = {"channels": 4, "cutout_fill": (125, 122, 113)}
SOURCES = {
    "released": Source(released(), 10, **TRANSPARENT),
    "released_scaled": Source(released(lambda size: min(size) / 32), 10, **TRANSPARENT),
    "paper": Source(paper(), 10, fill=128),
    "tpu": Source(tpu(False, 250, 100), 10, variant="tpu", fill=128),
    "tpu_clean": Source(tpu(True, 250, 100), 10, variant="tpu_clean", fill=128),
    "torchvision": Source(torchvision(10), 9, variant="torchvision", fill="black"),
    "fast": Source(fast(), 1, whole=False, fill="black", cutout_fill=(125, 123, 114)),
}
