"""The ops of a policy by PyTorch on bytes, in the arithmetic of torchvision, for comparison."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nn
from torch import Tensor

from kdaug_jax.augment.policies import Op


def _blend(start: Tensor, image: Tensor, factor: float) -> Tensor:
    return (factor * image + (1.0 - factor) * start).clamp(0, 255).to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    red, green, blue = image.unbind(0)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[None]


def _smooth(image: Tensor) -> Tensor:
    kernel = torch.ones(3, 3)
    kernel[1, 1] = 5.0
    kernel = (kernel / kernel.sum()).expand(3, 1, 3, 3)
    inner = nn.conv2d(image.float()[None], kernel, groups=3)[0].round().to(torch.uint8)
    result = image.clone()
    result[:, 1:-1, 1:-1] = inner
    return result


def _auto_contrast(image: Tensor) -> Tensor:
    low, high = (find(image, (1, 2), keepdim=True).float() for find in (torch.amin, torch.amax))
    scale = 255.0 / (high - low)
    flat = ~torch.isfinite(scale)
    low[flat], scale[flat] = 0.0, 1.0
    return ((image - low) * scale).clamp(0, 255).to(torch.uint8)


def _equalize(image: Tensor) -> Tensor:
    channels = []
    for channel in image:
        counts = torch.bincount(channel.reshape(-1), minlength=256)
        some = counts[counts != 0]
        step = (some.sum() - some[-1]) // 255
        if step == 0:
            channels.append(channel)
            continue
        table = (torch.cumsum(counts, 0) + step // 2) // step
        table = nn.pad(table, [1, 0])[:-1].clamp(0, 255).to(torch.uint8)
        channels.append(table[channel.long()])
    return torch.stack(channels)


def _affine(image: Tensor, matrix: tuple[float, ...], fill: Tensor) -> Tensor:
    _, height, width = image.shape
    x = torch.arange(width) + 0.5
    y = torch.arange(height) + 0.5
    a, b, c, d, e, f = matrix
    across = a * x[None] + b * y[:, None] + c
    down = d * x[None] + e * y[:, None] + f
    grid = torch.stack([2 * across / width - 1, 2 * down / height - 1], -1)[None]
    planes = torch.cat([image.float(), torch.ones(1, height, width)])[None]
    moved = nn.grid_sample(planes, grid, mode="nearest", align_corners=False)[0]
    return torch.where(moved[3:] > 0.5, moved[:3], fill).to(torch.uint8)


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def apply(image: Tensor, op: Op, fill: Tensor) -> Tensor:
    """Applies one op to `u8[3,H,W]`; of erased squares, one in the middle."""
    v = op.value
    if op.name == "identity":
        return image
    if op.name == "cutout":
        result, (_, height, width) = image.clone(), image.shape
        top, left = (height - v) // 2, (width - v) // 2
        result[:, top : top + v, left : left + v] = fill.to(torch.uint8)
        return result
    moves = {
        "shear_x": lambda: (1, v, 0, 0, 1, 0), "shear_y": lambda: (1, 0, 0, v, 1, 0),
        "translate_x": lambda: (1, 0, v, 0, 1, 0), "translate_y": lambda: (1, 0, 0, 0, 1, v),
        "rotate": lambda: _rotation(v, *image.shape[1:]),
    }
    if op.name in moves:
        return _affine(image, moves[op.name](), fill)
    others = {
        "invert": lambda: 255 - image,
        "solarize": lambda: torch.where(image >= v, 255 - image, image),
        "posterize": lambda: image & (256 - (1 << (8 - v))),
        "brightness": lambda: _blend(torch.zeros_like(image), image, v),
        "color": lambda: _blend(_grey(image), image, v),
        "contrast": lambda: _blend(_grey(image).float().mean(), image, v),
        "sharpness": lambda: _blend(_smooth(image), image, v),
        "auto_contrast": lambda: _auto_contrast(image),
        "equalize": lambda: _equalize(image),
    }
    return others[op.name]()


def augment(image: Tensor, ops: list[Op], fill: Tensor) -> Tensor:
    """Applies some ops in turn to `u8[3,H,W]`."""
    for op in ops:
        image = apply(image, op, fill)
    return image
