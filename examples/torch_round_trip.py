"""From PyTorch and back: a teacher trained there, distilled here, the student used there again.

    python examples/torch_round_trip.py --workdir=runs/round_trip

1. A ResNet-8 learns the digits in PyTorch and is saved as a safetensors file.
2. `import_weights` makes a teacher directory of it, after comparing every name, shape and type.
3. A LeNet is trained here with it, by the experiment of configs/digits_kd.py.
4. `export_weights` writes the student in PyTorch's names; a LeNet of PyTorch loads it (strict).

In the end the student's accuracy in PyTorch must be what the run measured here, image for image.
Needs PyTorch (pip install torch) and takes some minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for configs/

from configs import digits_kd
from kdaug_jax import data
from kdaug_jax.errors import UserError
from kdaug_jax.models import export_weights, import_weights
from kdaug_jax.runtime.model_card import ModelCard
from kdaug_jax.training import loop, teachers

# Of pixels 0..1; any numbers will do if both sides use the same.
MEAN, STD = (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)


class Block(nn.Module):
    """Two convolutions and a shortcut, named as in RepDistiller."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B,C_in,H,W]` to `[B,width,H/stride,W/stride]`."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet8(nn.Module):
    """The teacher, our `resnet8`."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps normalised images `[B,3,32,32]` to logits `[B,C]`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class LeNet(nn.Module):
    """The student, our `lenet_vrm`."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 120), nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps normalised images `[B,3,32,32]` to logits `[B,C]`."""
        for layer in (self.conv1, self.conv2):
            x = torch.max_pool2d(torch.relu(layer(x)), 2)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


def normalised(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turns `u8[B,H,W,3]` into what a network of PyTorch takes; statistics are of pixels 0..255."""
    pixels = (image.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def train_teacher(split: data.Split, epochs: int) -> ResNet8:
    """Trains the teacher in PyTorch, on images shifted by up to four pixels."""
    torch.manual_seed(0)
    network = ResNet8(10)
    images = normalised(split.image, *([255 * value for value in each] for each in (MEAN, STD)))
    labels = torch.from_numpy(split.label.astype(np.int64))
    steps = epochs * (len(labels) // 60)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (60,))
        shift = tuple(torch.randint(-4, 5, (2,)).tolist())
        loss = nn.functional.cross_entropy(
            network(images[rows].roll(shift, (2, 3))), labels[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def accuracy(network: nn.Module, split: data.Split, card: ModelCard) -> float:
    """Returns the share of a split that a network of PyTorch classifies rightly."""
    with torch.no_grad():
        logits = network(normalised(split.image, card.mean, card.std))
    return float((logits.argmax(1).numpy() == split.label).mean())


def checked(status: int) -> None:
    """Ends the example where a command failed; it has printed why."""
    if status:
        raise SystemExit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="folder that is not there yet")
    parser.add_argument("--teacher_epochs", type=int, default=20)
    parser.add_argument("--epochs", type=float, default=50.0, help="of the student")
    options = parser.parse_args(argv)
    root = options.workdir
    root.mkdir(parents=True)
    splits = data.load("digits", {use: use for use in ("train", "validation", "test")}).splits

    teacher = train_teacher(splits["train"], options.teacher_epochs)
    save_file(teacher.state_dict(), root / "teacher.safetensors")
    statistics = [f"--{name}=" + ",".join(map(str, values)) for name, values in
                  (("mean", MEAN), ("std", STD))]
    file = root / "teacher.safetensors"
    checked(import_weights.main(
        ["--arch=resnet8", f"--from={file}", f"--to={root / 'teacher'}", *statistics]
    ))
    card, _ = import_weights.import_file(file, "resnet8", mean=MEAN, std=STD)
    there = accuracy(teacher, splits["validation"], card)
    print(f"teacher in PyTorch: validation accuracy {100 * there:.2f} %")

    config = digits_kd.get_config()
    with config.unlocked():
        config.networks.teacher.checkpoint = str(root / "teacher")
        config.train.epochs = options.epochs
        config.optim.schedule.warmup = min(1.0, options.epochs / 4)
    full = teachers.ensure(config, root / "run")
    results = loop.train(full, root / "run")[""]

    checked(export_weights.main([f"--from={root / 'run'}", f"--to={root / 'student.safetensors'}"]))
    student = LeNet(10)
    student.load_state_dict(load_file(root / "student.safetensors"), strict=True)
    # The card in the file holds the mean and deviation of its images.
    card, _ = import_weights.import_file(root / "student.safetensors", "lenet_vrm")
    here, there = results["eval/test/accuracy"], accuracy(student.eval(), splits["test"], card)
    print(f"student: test accuracy {100 * here:.2f} % here, {100 * there:.2f} % in PyTorch")
    return int(abs(here - there) > 1e-6)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
