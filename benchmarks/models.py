"""Forward pass and training step of a network of each family against PyTorch, on the CPU.

float32, images of 32×32 (efficientnet_b0: 64×64), 100 classes, a batch of made-up images. The
forward pass is inference; the training step is cross entropy and SGD with Nesterov momentum. Ours
is sharded over the host's cores as `main.py` does it, PyTorch runs eagerly in channels_last with as
many threads, each in a process of its own, in turn. One JSON line per network and kind, whose
`ratio` is the median over the rounds of our seconds to PyTorch's.

    pip install torch==2.13.0
    python benchmarks/models.py --network resnet20 --network mobilenetv2
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import sys
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from kd_step import worker

from kdaug_jax import models
from kdaug_jax.runtime import compile_cache, sharding

# Images are made with mean 0 and deviation 1.
RAW = (0.0,) * 3, (1.0,) * 3
CLASSES = 100
KINDS = ("forward", "train")
NAMES = (
    "lenet_vrm", "alexnet_vrm", "resnet20", "resnet18_cifar", "resnet50_cifar", "preresnet20",
    "vgg8", "mobilenetv2", "shufflev2", "pyramidnet29_a48", "efficientnet_b0",
)  # fmt: skip
RATE, MOMENTUM = 0.01, 0.9
TARGET = 1.6


def make_inputs(name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes images `f32[B,H,W,3]`, as a network sees them, and labels."""
    draw = np.random.default_rng(0)
    side = 64 if name.startswith("efficientnet") else 32
    image = draw.normal(size=(batch, side, side, 3)).astype(np.float32)
    return image, draw.integers(0, CLASSES, batch).astype(np.int32)


def make_ours(name: str, kind: str, options: dict[str, Any], batch: int) -> Callable[[int], None]:
    """Prepares our side."""
    compile_cache.use()
    sharding.use_host_cores(batch)
    model = models.create(name, CLASSES, normalize=RAW, **options)
    mesh = sharding.make_mesh(-1, batch)
    image, label = sharding.put_batch(mesh, make_inputs(name, batch))
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

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            if kind == "forward":
                value = forward(state[0], image)[0, 0]
            else:
                state, value = train(state, image, label)
        jax.block_until_ready((state, value))
        assert math.isfinite(value), "the result is not finite"

    return run


def make_torch(name: str, kind: str, parameters: int, batch: int) -> Callable[[int], None]:
    """Prepares PyTorch's side."""
    import torch
    import torch_networks

    torch.set_num_threads(common.cores())
    torch.manual_seed(0)
    net = torch_networks.NETWORKS[name](CLASSES).to(memory_format=torch.channels_last)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == parameters, (name, count, parameters)
    net.train(kind == "train")
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, nesterov=True)
    image, label = make_inputs(name, batch)
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


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds which networks and kinds to measure; all unless given."""
    parser.add_argument("--network", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--kind", action="append", choices=KINDS, help="may be repeated")


def main() -> int:
    """Compares them and returns the exit status, which does not depend on the ratios."""
    options = common.parse(__doc__, add=add_choices)
    if importlib.util.find_spec("torch") is None:
        print("error: models compares with PyTorch: pip install torch==2.13.0", file=sys.stderr)
        return 2
    import torch_networks

    for name in options.network or NAMES:
        ours_options = torch_networks.OPTIONS.get(name, {})
        model = models.create(name, CLASSES, normalize=RAW, **ours_options)
        side = make_inputs(name, 1)[0].shape[1]
        tree = jax.eval_shape(lambda m=model, s=side: m.init(jax.random.key(0), (s, s)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))
        for kind in options.kind or KINDS:
            ours = functools.partial(make_ours, name, kind, ours_options)
            torch = functools.partial(make_torch, name, kind, parameters)
            with (
                worker(ours, options.batch) as ours_worker,
                worker(torch, options.batch) as torch_worker,
            ):
                sides = {"ours": common.remote(ours_worker), "torch": common.remote(torch_worker)}
                result, _ = common.compare(
                    f"models/{name}/{kind}", sides, options, ("jax", "flax", "torch")
                )
            common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
