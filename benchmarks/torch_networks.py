"""Some of our networks in PyTorch, written as is usual there, to compare speeds with.

Each is built from the same few pieces; a benchmark checks that it has as many parameters as ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Sum(nn.Module):
    """Adds what branches make of the input."""

    def __init__(self, *branches: nn.Module, after: nn.Module | None = None):
        super().__init__()
        self.branches, self.after = nn.ModuleList(branches), after

    def forward(self, x):
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        return y if self.after is None else self.after(y)


class Pad(nn.Module):
    """Averages over stride×stride pixels and widens with zero channels."""

    def __init__(self, stride: int, missing: int):
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x):
        if self.stride > 1:
            x = nn.functional.avg_pool2d(x, self.stride)
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.missing))


class Excite(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, width, 1), nn.SiLU(inplace=True),
            nn.Conv2d(width, channels, 1), nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.gate(x)


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: splits channels or keeps all, and deals them out in the end."""

    def __init__(self, left: nn.Module | None, right: nn.Module):
        super().__init__()
        self.left, self.right, self.deal = left, right, Deal(2)

    def forward(self, x):
        first, second = (x, x) if self.left else x.chunk(2, dim=1)
        return self.deal(
            torch.cat([self.left(first) if self.left else first, self.right(second)], dim=1)
        )


class Deal(nn.Module):
    """Deals out the channels of groups."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x):
        batch, channels, height, width = x.shape
        y = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return y.reshape(batch, channels, height, width)


class Beside(nn.Module):
    """ShuffleNet's unit of stride 2: the averaged input beside the result, then ReLU."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x):
        averaged = nn.functional.avg_pool2d(x, 3, 2, 1)
        return torch.relu_(torch.cat([self.body(x), averaged], dim=1))


def unit(inputs, outputs, size=3, stride=1, groups=1, act=nn.ReLU, bias=False, eps=1e-5):
    """Returns convolution, BatchNorm and perhaps an activation."""
    layers = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs, eps),
    ]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


def active(inputs, outputs, size=3, stride=1):
    """Returns BatchNorm, ReLU and convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
    )


def end(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def resnet(widths, blocks, classes, bottleneck=False):
    layers, inputs = [unit(3, widths[0])], widths[0]
    for stage, (width, count) in enumerate(zip(widths[1:], blocks, strict=True)):
        for block in range(count):
            stride, outputs = 2 if stage and not block else 1, width
            body = [unit(inputs, width, 3, stride), unit(width, width, act=None)]
            if bottleneck:
                outputs = 4 * width
                body = [unit(inputs, width, 1), unit(width, width, 3, stride)]
                body.append(unit(width, outputs, 1, act=None))
            shortcut = nn.Identity()
            if stride != 1 or inputs != outputs:
                shortcut = unit(inputs, outputs, 1, stride, act=None)
            layers.append(Sum(nn.Sequential(*body), shortcut, after=nn.ReLU(inplace=True)))
            inputs = outputs
    return nn.Sequential(*layers, *end(inputs, classes))


def preresnet(blocks, classes):
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = nn.Identity()
            if inputs != width:
                shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)
            body = nn.Sequential(active(inputs, width, 3, stride), active(width, width))
            layers.append(Sum(body, shortcut))
            inputs = width
    return nn.Sequential(*layers, nn.BatchNorm2d(64), nn.ReLU(inplace=True), *end(64, classes))


def pyramidnet(blocks, widening, classes):
    layers, inputs, count = [unit(3, 16, act=None)], 16, 3 * blocks
    for number in range(1, count + 1):
        stride = 2 if number in (blocks + 1, 2 * blocks + 1) else 1
        width = round(16 + number * widening / count)
        body = nn.Sequential(
            nn.BatchNorm2d(inputs), unit(inputs, width, 1), unit(width, width, 3, stride),
            unit(width, 4 * width, 1, act=None),
        )
        layers.append(Sum(body, Pad(stride, 4 * width - inputs)))
        inputs = 4 * width
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *end(inputs, classes))


def vgg8(classes):
    layers, inputs = [], 3
    for block, width in enumerate((64, 128, 256, 512, 512)):
        layers += [nn.MaxPool2d(2)] if block in (1, 2, 3) else []
        layers.append(unit(inputs, width, bias=True))
        inputs = width
    return nn.Sequential(*layers, *end(512, classes))


def mobilenetv2(classes):
    layers, inputs = [unit(3, 16, 3, 2)], 16
    for expansion, width, count, first in (
        (1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2),
        (6, 160, 1, 1),
    ):
        for block in range(count):
            stride, inside = first if not block else 1, inputs * expansion
            body = nn.Sequential(
                unit(inputs, inside, 1), unit(inside, inside, 3, stride, groups=inside),
                unit(inside, width, 1, act=None),
            )
            layers.append(
                Sum(body, nn.Identity()) if stride == 1 and inputs == width else body
            )
            inputs = width
    return nn.Sequential(*layers, unit(160, 1280, 1), *end(1280, classes))


def shufflev1(classes):
    layers, inputs = [unit(3, 24, 1)], 24
    for outputs, count in ((240, 4), (480, 8), (960, 4)):
        for block in range(count):
            width = outputs if block else outputs - inputs
            inside, groups = width // 4, 1 if inputs == 24 else 3
            body = nn.Sequential(
                unit(inputs, inside, 1, groups=groups), Deal(groups),
                unit(inside, inside, 3, 1 if block else 2, groups=inside),
                unit(inside, width, 1, groups=3, act=None),
            )
            plain = Sum(body, nn.Identity(), after=nn.ReLU(inplace=True)) if block else None
            layers.append(plain or Beside(body))
            inputs = outputs
    return nn.Sequential(*layers, *end(960, classes))


def shufflev2(classes):
    layers, inputs = [unit(3, 24, 1)], 24
    for width, count in ((116, 4), (232, 8), (464, 4)):
        half = width // 2
        for block in range(count):
            outer, stride = (inputs, 2) if not block else (half, 1)
            left = nn.Sequential(
                unit(inputs, inputs, 3, 2, groups=inputs, act=None), unit(inputs, half, 1)
            ) if not block else None
            right = nn.Sequential(
                unit(outer, half, 1), unit(half, half, 3, stride, groups=half, act=None),
                unit(half, half, 1),
            )
            layers.append(Shuffle(left, right))
        inputs = width
    return nn.Sequential(*layers, unit(464, 1024, 1), *end(1024, classes))


def efficientnet_b0(classes):
    """Without dropout and dropped images; odd images would be padded otherwise than ours."""
    layers, inputs = [unit(3, 32, 3, 2, act=nn.SiLU, eps=1e-3)], 32
    for count, size, first, expansion, width in (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
    ):
        for block in range(count):
            stride, inside = first if not block else 1, inputs * expansion
            expand = [unit(inputs, inside, 1, act=nn.SiLU, eps=1e-3)] if expansion > 1 else []
            body = nn.Sequential(
                *expand, unit(inside, inside, size, stride, inside, nn.SiLU, eps=1e-3),
                Excite(inside, inputs // 4), unit(inside, width, 1, act=None, eps=1e-3),
            )
            layers.append(
                Sum(body, nn.Identity()) if stride == 1 and inputs == width else body
            )
            inputs = width
    return nn.Sequential(*layers, unit(320, 1280, 1, act=nn.SiLU, eps=1e-3), *end(1280, classes))


def lenet_vrm(classes):
    act = nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), act, nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), act, nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), act, nn.Linear(120, 84), act, nn.Linear(84, classes),
    )


def alexnet_vrm(classes):
    """Without dropout."""
    act, layers, inputs = nn.ReLU(inplace=True), [], 3
    for width, padding, pool in (
        (64, 2, 2), (192, 2, 2), (384, 1, 0), (256, 1, 0), (256, 1, 3),
    ):
        layers += [nn.Conv2d(inputs, width, 3, 1, padding), act]
        layers += [nn.MaxPool2d(pool, 2)] if pool else []
        inputs = width
    layers += [nn.Flatten(), nn.Linear(4096, 2048), act, nn.Linear(2048, 2048), act]
    return nn.Sequential(*layers, nn.Linear(2048, classes))


_WIDTHS = (64, 64, 128, 256, 512)

# By our names; options that make ours the same.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "lenet_vrm": lenet_vrm,
    "alexnet_vrm": alexnet_vrm,
    "resnet20": lambda classes: resnet((16, 16, 32, 64), (3, 3, 3), classes),
    "resnet18_cifar": lambda classes: resnet(_WIDTHS, (2, 2, 2, 2), classes),
    "resnet50_cifar": lambda classes: resnet(_WIDTHS, (3, 4, 6, 3), classes, bottleneck=True),
    "preresnet20": lambda classes: preresnet(3, classes),
    "vgg8": vgg8,
    "mobilenetv2": mobilenetv2,
    "shufflev1": shufflev1,
    "shufflev2": shufflev2,
    "pyramidnet29_a48": lambda classes: pyramidnet(3, 48, classes),
    "efficientnet_b0": efficientnet_b0,
}
OPTIONS = {
    "alexnet_vrm": {"dropout": 0.0},
    "efficientnet_b0": {"dropout": 0.0, "drop_connect": 0.0},
}
