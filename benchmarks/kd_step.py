"""Our distillation step against the same step in PyTorch, on the CPU.

A frozen WRN-40-2 (inference mode) teaches a WRN-16-2: 64 images of 32×32 as stored, 100 classes,
float32, 0.1 · cross entropy + 0.9 · KL at temperature 4, SGD with Nesterov momentum 0.9 and weight
decay 5e-4. Ours is sharded over the host's cores as `main.py` does it, PyTorch runs eagerly in
channels_last with as many threads. Each side has a process of its own; one works while the other
waits, so both see the same neighbours. One JSON line: `ratio` is the median over the rounds of our
seconds to PyTorch's, `cpu_ratio` that of CPU-seconds of all threads.

    pip install torch==2.13.0
    python benchmarks/kd_step.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import common
import numpy as np

from kdaug_jax.runtime import compile_cache, sharding

TARGET = 1.6
WARM_UP = 3


def make_ours(batch: int) -> Callable[[int], None]:
    """Prepares our side."""
    compile_cache.use()
    sharding.use_host_cores(batch)
    return common.Ours(batch)


def make_torch(batch: int) -> Callable[[int], None]:
    """Prepares PyTorch's side: the same networks, losses and optimiser, written as usual there."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = None
            if inputs != outputs:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

        def forward(self, x):
            active = functional.relu_(self.bn1(x))
            y = self.conv2(functional.relu_(self.bn2(self.conv1(active))))
            return y + (x if self.shortcut is None else self.shortcut(active))

    def wrn(name):
        depth, factor = map(int, name.split("_")[1:])
        layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
        for group in range(3):
            for block in range((depth - 4) // 6):
                wider = 16 * factor * 2**group
                layers.append(Block(width, wider, 2 if group and not block else 1))
                width = wider
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, common.CLASSES)]
        net = nn.Sequential(*layers)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        return net.to(memory_format=torch.channels_last)

    torch.set_num_threads(common.cores())
    torch.manual_seed(0)
    student, teacher = wrn(common.STUDENT), wrn(common.TEACHER).eval()
    count = sum(parameter.numel() for parameter in student.parameters())
    assert count == common.PARAMETERS, count
    optimizer = torch.optim.SGD(
        student.parameters(), common.RATE, common.MOMENTUM, nesterov=True,
        weight_decay=common.DECAY,
    )
    size = 4 * batch
    images = torch.randint(0, 256, (size, common.SIZE, common.SIZE, 3), dtype=torch.uint8)
    labels = torch.arange(size) % common.CLASSES
    random = np.random.default_rng(0)

    def step():
        index = torch.from_numpy(random.permutation(size)[:batch])
        # Stored as [B,H,W,C], so that this is channels_last without a copy.
        image = (images[index].permute(0, 3, 1, 2).float() - 127.5) / 64.0
        with torch.no_grad():
            taught = functional.softmax(teacher(image) / common.TEMPERATURE, dim=1)
        logits = student(image)
        log_p = functional.log_softmax(logits / common.TEMPERATURE, dim=1)
        kl = functional.kl_div(log_p, taught, reduction="batchmean") * common.TEMPERATURE**2
        ce = functional.cross_entropy(logits, labels[index])
        loss = common.CE_WEIGHT * ce + common.KD_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def run(steps):
        for _ in range(steps):
            loss = step()
        assert math.isfinite(loss.item()), "the loss is not finite"

    return run


def serve(
    connection: Connection, make: Callable[[int], Callable[[int], None]], batch: int, warm_up: int
):
    """Prepares a side in its process, then receives numbers of steps and sends times.

    In answer to `common.PEAK` it sends the most memory that was resident since it was warm.
    """
    run = make(batch)
    run(warm_up)
    common.reset_peak()
    connection.send(None)
    # The parent closes its end after the last turn.
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv()
            answer = common.peak() if request == common.PEAK else common.timed(run, request)
            connection.send(answer)


@contextlib.contextmanager
def worker(
    make: Callable[[int], Callable[[int], None]], batch: int, warm_up: int = WARM_UP
) -> Iterator[Connection]:
    """Starts the process of a side, and waits until it has run that many steps."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, make, batch, warm_up))
    process.start()
    theirs.close()
    try:
        with ours:
            ours.recv()
            yield ours
    finally:
        process.join()


def main() -> int:
    """Compares the two and returns the exit status, which does not depend on the ratio."""
    options = common.parse(__doc__)
    if importlib.util.find_spec("torch") is None:
        print("error: kd_step compares with PyTorch: pip install torch==2.13.0", file=sys.stderr)
        return 2

    with worker(make_ours, options.batch) as ours, worker(make_torch, options.batch) as torch:
        sides = {"ours": common.remote(ours), "torch": common.remote(torch)}
        result, _ = common.compare("kd_step", sides, options, ("jax", "flax", "torch"))
    common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
