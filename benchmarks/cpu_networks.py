"""Networks on the CPU against PyTorch: training steps, forward passes, and a distillation step.

float32, 100 classes, a batch of made-up images: 64 of 32×32, of 64×64 for `efficientnet_b0`, and 32
of 224×224 for `efficientnet_b0_224`. The training step is cross entropy and SGD with Nesterov
momentum, the forward pass inference, `kd_step` the step of `kd_step.py`. Ours is sharded over the
host's cores as `main.py` does it; PyTorch runs eagerly in channels_last with as many threads, which
do not spin while they wait (`OMP_WAIT_POLICY=PASSIVE`): that would count against whoever runs
beside. Each side has a process of its own, in turn. One JSON line a network, whose `ratio` is the
median over the rounds of our seconds to PyTorch's, `cpu_ratio` that of CPU-seconds. With `--before`
a third process runs XLA's own convolutions and returns freed memory to the system
(`KDAUG_CONVOLUTIONS=plain KDAUG_POOL_MEMORY=0`), and `before` holds its ratios to PyTorch.
`peak_mb` is the most memory of each process that was resident during its turns. `--kind compile`
times tracing and compiling the training step without a cache, and `ratio` is to XLA's own forms;
`--steps 1 --rounds 1` is enough there.

    pip install torch==2.13.0
    python benchmarks/cpu_networks.py --before --network resnet20 --network mobilenetv2
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import kd_step
import numpy as np
import optax
from kd_step import WARM_UP, worker

from kdaug_jax import models
from kdaug_jax.runtime import compile_cache, sharding

# Images are made with mean 0 and deviation 1.
RAW = (0.0,) * 3, (1.0,) * 3
CLASSES = 100
COMPILE = "compile"
TIMED = ("train", "forward")
KINDS = (*TIMED, COMPILE)
NAMES = (
    "lenet_vrm", "alexnet_vrm", "resnet20", "resnet18_cifar", "resnet50_cifar", "preresnet20",
    "vgg8", "mobilenetv2", "shufflev1", "shufflev2", "pyramidnet29_a48", "efficientnet_b0",
)  # fmt: skip
LARGE, DISTILLATION = "efficientnet_b0_224", "kd_step"
RATE, MOMENTUM = 0.01, 0.9
# Ratios of training steps that are aimed at.
TARGETS = {
    DISTILLATION: 1.1, "mobilenetv2": 1.0, "shufflev2": 1.0, "efficientnet_b0": 1.0, LARGE: 1.0,
    "alexnet_vrm": 1.7, "resnet20": 1.5, "vgg8": 1.2,
}
BEFORE = {"KDAUG_CONVOLUTIONS": "plain", "KDAUG_POOL_MEMORY": "0"}


class Inputs(NamedTuple):
    """The network and the images of a measurement."""

    network: str
    side: int
    batch: int


def inputs_of(name: str, batch: int) -> Inputs:
    """Returns what is measured under a name; images of 224×224 come in half the batch."""
    if name == LARGE:
        return Inputs("efficientnet_b0", 224, max(batch // 2, 1))
    return Inputs(name, 64 if name == "efficientnet_b0" else 32, batch)


def make_inputs(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Makes images `f32[B,H,W,3]`, as a network sees them, and labels."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(inputs.batch, inputs.side, inputs.side, 3)).astype(np.float32)
    return image, draw.integers(0, CLASSES, inputs.batch).astype(np.int32)


def make_ours(
    name: str, kind: str, options: dict[str, Any], environment: dict[str, str], batch: int
) -> Callable[[int], None]:
    """Prepares our side."""
    os.environ.update(environment)
    if name == DISTILLATION:
        return kd_step.make_ours(batch)
    inputs = inputs_of(name, batch)
    name, _, batch = inputs
    if kind != COMPILE:
        compile_cache.use()
    sharding.use_host_cores(batch)
    model = models.create(name, CLASSES, normalize=RAW, **options)
    mesh = sharding.make_mesh(-1, batch)
    image, label = sharding.put_batch(mesh, make_inputs(inputs))
    init = jax.jit(
        lambda key: model.init(key, image.shape[1:3]),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    variables = sharding.put_whole(mesh, init(jax.random.key(0)))
    optimizer = optax.sgd(RATE, MOMENTUM, nesterov=True)
    state = (variables, sharding.put_whole(mesh, optimizer.init(variables["params"])))

    @jax.jit
    def forward(variables, image):
        return model.apply(variables, image, train=False)[0].logits

    @functools.partial(jax.jit, donate_argnums=0)
    def train(state, image, label):
        variables, moments = state

        def loss(params):
            outputs, stats = model.apply(variables | {"params": params}, image, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, label)
            return jnp.mean(losses), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(variables["params"], updates)
        return ({"params": params, "batch_stats": stats}, moments), value

    def compile_steps(count: int) -> None:
        for _ in range(count):
            jax.clear_caches()
            train.lower(state, image, label).compile()

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            if kind == "forward":
                value = forward(state[0], image)[0, 0]
            else:
                state, value = train(state, image, label)
        jax.block_until_ready((state, value))
        assert math.isfinite(value), "the result is not finite"

    return compile_steps if kind == COMPILE else run


def make_torch(name: str, kind: str, parameters: int, batch: int) -> Callable[[int], None]:
    """Prepares PyTorch's side."""
    if name == DISTILLATION:
        return kd_step.make_torch(batch)
    import torch
    import torch_networks

    torch.set_num_threads(common.cores())
    torch.manual_seed(0)
    inputs = inputs_of(name, batch)
    net = torch_networks.NETWORKS[inputs.network](CLASSES).to(memory_format=torch.channels_last)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == parameters, (name, count, parameters)
    net.train(kind == "train")
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, nesterov=True)
    image, label = make_inputs(inputs)
    # Stored as [B,H,W,C], so that this is channels_last without a copy.
    image = torch.from_numpy(image).permute(0, 3, 1, 2)
    label = torch.from_numpy(label).long()

    def step():
        if kind == "forward":
            with torch.no_grad():
                return net(image)[0, 0]
        loss = torch.nn.functional.cross_entropy(net(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    def run(steps: int) -> None:
        for _ in range(steps):
            value = step()
        assert math.isfinite(value.item()), "the result is not finite"

    return run


def parameters_of(name: str, options: dict[str, Any]) -> int:
    """Counts the parameters of our network."""
    network, side, _ = inputs_of(name, 1)
    model = models.create(network, CLASSES, normalize=RAW, **options)
    tree = jax.eval_shape(lambda key: model.init(key, (side, side)), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))


def measure(name: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Lets the sides take turns and returns what is to be reported."""
    import torch_networks

    settings, parameters = {}, 0
    if name != DISTILLATION:
        settings = torch_networks.OPTIONS.get(inputs_of(name, 1).network, {})
        parameters = parameters_of(name, settings)
    makers = {"ours": functools.partial(make_ours, name, kind, settings, {})}
    if kind != COMPILE:
        makers["torch"] = functools.partial(make_torch, name, kind, parameters)
    if options.before or kind == COMPILE:
        makers["before"] = functools.partial(make_ours, name, kind, settings, BEFORE)
    warm_up = 0 if kind == COMPILE else WARM_UP
    with contextlib.ExitStack() as stack:
        connections = {
            side: stack.enter_context(worker(make, options.batch, warm_up))
            for side, make in makers.items()
        }
        sides = {side: common.remote(connection) for side, connection in connections.items()}
        load = os.getloadavg()
        turns = common.take_turns(sides, options)
        peaks = {
            side: common.ask(connection, common.PEAK) for side, connection in connections.items()
        }
    versions = ("jax", "flax", "torch")
    title = f"cpu_networks/{name}/{kind}"

    if kind == COMPILE:
        return common.compared(title, turns, options, versions[:2]) | {"load": common.rounded(load)}

    def against_torch(side):
        pair = {side: turns[side], "torch": turns["torch"]}
        return common.compared(title, pair, options, versions)

    result = against_torch("ours") | {"load": common.rounded(load), "peak_mb": peaks}
    result["batch"] = inputs_of(name, options.batch).batch
    if options.before:
        fields = ("ratio", "cpu_ratio", "wall_seconds", "cpu_seconds", "spread")
        before = against_torch("before")
        result["before"] = {field: before[field] for field in fields}
    return result


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds which networks and kinds to measure; all unless given."""
    names = (*NAMES, LARGE, DISTILLATION)
    parser.add_argument("--network", action="append", choices=names, help="may be repeated")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: train, forward")
    parser.add_argument("--before", action="store_true", help="also with XLA's own convolutions")


def main() -> int:
    """Compares them and returns the exit status, which does not depend on the ratios."""
    options = common.parse(__doc__, add=add_choices)
    if importlib.util.find_spec("torch") is None:
        what = "cpu_networks compares with PyTorch: pip install torch==2.13.0"
        print(f"error: {what}", file=sys.stderr)
        return 2
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read by the processes of the sides
    for name in options.network or (*NAMES, LARGE, DISTILLATION):
        for kind in options.kind or TIMED:
            if name == DISTILLATION and kind != "train":
                continue
            target = TARGETS.get(name) if kind == "train" else None
            common.report(measure(name, kind, options), target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
