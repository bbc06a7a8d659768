"""Networks of PyTorch whose weights have the names of the published ones, a small one a layout."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, size, stride=1, bias=False, groups=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


class Basic(nn.Module):
    """The block of torchvision, RepDistiller and pytorch-cifar, which name shortcuts otherwise."""

    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.name = shortcut if stride != 1 or inputs != width else ""
        if self.name:
            layers = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))
            setattr(self, shortcut, layers)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (getattr(self, self.name)(x) if self.name else x))


def stages(block, inputs, widths, counts, *settings):
    """Returns `layer1`, `layer2`, … as a dict of Sequentials."""
    layers = {}
    for number, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        blocks = []
        for position in range(count):
            stride = 2 if number > 1 and position == 0 else 1
            blocks.append(block(inputs, width, stride, *settings))
            inputs = width
        layers[f"layer{number}"] = nn.Sequential(*blocks)
    return layers


class ResNet(nn.Module):
    def __init__(self, widths, counts, shortcut, classifier, classes, large=False):
        super().__init__()
        stem = widths[0]
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False) if large else conv(3, stem, 3)
        self.bn1, self.large, self.last = nn.BatchNorm2d(stem), large, classifier
        self.stages = stages(Basic, stem, widths[1:], counts, shortcut)
        for name, layers in self.stages.items():
            setattr(self, name, layers)
        setattr(self, classifier, nn.Linear(widths[-1], classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.large else x
        for layers in self.stages.values():
            x = layers(x)
        return getattr(self, self.last)(x.mean((2, 3)))


class Before(nn.Module):
    """BatchNorm and ReLU before each convolution; what the shortcut takes is told by `kind`."""

    def __init__(self, inputs, width, stride, kind):
        super().__init__()
        biased = kind == "faa"
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, width, 3, 1 if biased else stride, biased)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride if biased else 1, biased)
        self.kind, self.fits = kind, stride == 1 and inputs == width
        if self.fits:
            return
        project = conv(inputs, width, 1, stride, biased)
        if kind == "rd":
            self.convShortcut = project
        else:
            setattr(self, "shortcut" if biased else "downsample", nn.Sequential(project))

    def forward(self, x):
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        if self.fits:
            return x + y
        if self.kind == "rd":
            return self.convShortcut(active) + y
        return (self.shortcut if self.kind == "faa" else self.downsample)(x) + y


class Wide(nn.Module):
    """RepDistiller's wide network, whose groups hold their blocks in `layer`."""

    def __init__(self, factor, count, classes):
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        widths = [16 * factor, 32 * factor, 64 * factor]
        for number, layers in enumerate(stages(Before, 16, widths, [count] * 3, "rd").values(), 1):
            group = nn.Module()
            group.layer = layers
            setattr(self, f"block{number}", group)
        self.bn1, self.fc = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.conv1(x)
        for group in (self.block1, self.block2, self.block3):
            x = group.layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class Preactivated(nn.Module):
    """Fast AutoAugment's wide network ("faa") or pytorch-classification's ("bp")."""

    def __init__(self, kind, widths, counts, classes):
        super().__init__()
        self.kind = kind
        self.conv1 = conv(3, 16, 3, bias=kind == "faa")
        self.stages = stages(Before, 16, widths, counts, kind)
        for name, layers in self.stages.items():
            setattr(self, name, layers)
        norm, last = ("bn1", "linear") if kind == "faa" else ("bn", "fc")
        setattr(self, norm, nn.BatchNorm2d(widths[-1]))
        setattr(self, last, nn.Linear(widths[-1], classes))
        self.ends = norm, last

    def forward(self, x):
        x = self.conv1(x)
        for layers in self.stages.values():
            x = layers(x)
        norm, last = (getattr(self, name) for name in self.ends)
        return last(F.relu(norm(x)).mean((2, 3)))


class VGG8(nn.Module):
    def __init__(self, classes):
        super().__init__()
        inputs = 3
        for number, width in enumerate((64, 128, 256, 512, 512)):
            layers = nn.Sequential(conv(inputs, width, 3, bias=True), nn.BatchNorm2d(width))
            setattr(self, f"block{number}", layers)
            inputs = width
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        for number in range(5):
            x = F.max_pool2d(x, 2) if number in (1, 2, 3) else x
            x = F.relu(getattr(self, f"block{number}")(x))
        return self.classifier(x.mean((2, 3)))


def same(x, layer):
    """Pads as TensorFlow does, more at the end."""
    size, stride = layer.kernel_size[0], layer.stride[0]
    pads = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[2:]]
    high, wide = pads
    return layer(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


class Inverted(nn.Module):
    """timm's blocks: the first stage has no expansion, so its layers have other numbers."""

    def __init__(self, inputs, outputs, size, stride, expansion):
        super().__init__()
        inside = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        norm = [nn.BatchNorm2d(width, 1e-3) for width in (inside, inside, outputs)]
        depthwise = nn.Conv2d(inside, inside, size, stride, groups=inside, bias=False)
        if self.expands:
            self.conv_pw, self.bn1 = conv(inputs, inside, 1), norm[0]
            self.conv_dw, self.bn2 = depthwise, norm[1]
            self.conv_pwl, self.bn3 = conv(inside, outputs, 1), norm[2]
        else:
            self.conv_dw, self.bn1 = depthwise, norm[1]
            self.conv_pw, self.bn2 = conv(inside, outputs, 1), norm[2]
        self.se = nn.Module()
        self.se.conv_reduce = conv(inside, inputs // 4, 1, bias=True)
        self.se.conv_expand = conv(inputs // 4, inside, 1, bias=True)

    def forward(self, x):
        y = x
        if self.expands:
            y = F.silu(self.bn1(self.conv_pw(y)))
        y = F.silu((self.bn2 if self.expands else self.bn1)(same(y, self.conv_dw)))
        gate = self.se.conv_expand(F.silu(self.se.conv_reduce(y.mean((2, 3), keepdim=True))))
        y = y * torch.sigmoid(gate)
        y = self.bn3(self.conv_pwl(y)) if self.expands else self.bn2(self.conv_pw(y))
        return x + y if self.adds else y


class EfficientNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32, 1e-3)
        groups, inputs = [], 32
        for count, size, first, expansion, width in (
            (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
        ):
            blocks = []
            for number in range(count):
                stride = first if number == 0 else 1
                blocks.append(Inverted(inputs, width, size, stride, expansion))
                inputs = width
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.conv_head, self.bn2 = conv(320, 1280, 1), nn.BatchNorm2d(1280, 1e-3)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.blocks(F.silu(self.bn1(same(x, self.conv_stem))))
        return self.classifier(F.silu(self.bn2(self.conv_head(x))).mean((2, 3)))


class LeNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 120), nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


_WIDTHS = (64, 64, 128, 256, 512)

# By our names: what builds it, and the side of the images to compare on.
NETWORKS = {
    "tv_resnet18": (
        lambda c: ResNet(_WIDTHS, (2, 2, 2, 2), "downsample", "fc", c, large=True), 64
    ),
    "efficientnet_b0": (EfficientNet, 37),
    "resnet8": (lambda c: ResNet((16, 16, 32, 64), (1, 1, 1), "downsample", "fc", c), 32),
    "wrn_16_1": (lambda c: Wide(1, 2, c), 32),
    "vgg8": (VGG8, 32),
    "wrn_16_2_faa": (lambda c: Preactivated("faa", (32, 64, 128), (2, 2, 2), c), 32),
    "resnet18_cifar": (lambda c: ResNet(_WIDTHS, (2, 2, 2, 2), "shortcut", "linear", c), 16),
    "preresnet20": (lambda c: Preactivated("bp", (16, 32, 64), (3, 3, 3), c), 32),
    "lenet_vrm": (LeNet, 32),
}


def randomise(network, seed):
    """Fills a network with weights and statistics at which no layer can be left out unseen."""
    # Gates halve what passes, so that at the usual size images would not be told apart.
    gain = 2.0 if isinstance(network, EfficientNet) else 1.0
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.dtype == torch.int64:
                tensor.fill_(7)
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.1 * noise.abs())
            elif tensor.ndim > 1:
                tensor.copy_(noise * gain * (2.0 / tensor[0].numel()) ** 0.5)
            else:
                rank_one = name.endswith("weight")
                tensor.copy_(float(rank_one) + 0.1 * noise)
    return network.eval()
