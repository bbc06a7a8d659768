"""What augmenting a batch costs: ours against Pillow, PyTorch on bytes, and a branch under vmap.

Every side applies the same rows of the same policy to the same photographs. `ours` is what a view
does: rows drawn and applied in one compiled call, over all cores; `pillow` takes image after image
in one process, from NumPy array to NumPy array; `torch` likewise, on `u8[3,H,W]` with all threads,
in the arithmetic of torchvision; `naive` is `vmap` of `lax.switch` with a branch for each op by
name, over all cores. One JSON line for each policy, size, batch and other side; `ratio` is ours
to the other's seconds.

    python benchmarks/augment.py --rounds=3
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
import numpy as np
import pillow_ops
from input import photographs
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdaug_jax.augment import apply_policy, engine, policies
from kdaug_jax.augment.policies.pba import LENGTH
from kdaug_jax.runtime import compile_cache, sharding

FILL = np.array([125, 123, 114], np.uint8)
POLICIES = ("randaugment", "autoaugment", "pba")
CASES = ((32, 64), (32, 1024), (224, 64), (224, 1024))
NAIVE = 64  # images that the naive form is given; more take it longer each
TARGETS = {("pillow", 32): 1 / 20, ("pillow", 224): 1 / 3, ("naive", 32): 1 / 60}


def policy_of(name: str, size: tuple[int, int]) -> policies.Policy:
    """Builds one of the policies that are measured."""
    if name == "randaugment":
        return policies.randaugment(2, 9, size=size)
    if name == "autoaugment":
        return policies.autoaugment("cifar10", levels="released_scaled", size=size)
    numbers = np.random.RandomState(0).randint(0, 10, LENGTH)
    return policies.pba(tuple(numbers.tolist()), levels="released_scaled", size=size)


class Sides:
    """One batch and what each side does with it."""

    def __init__(self, name: str, size: int, batch: int):
        self.policy = policy_of(name, (size, size))
        self.images = np.stack(list(photographs(size, size, batch)))
        self.keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), batch)
        self.batch = batch
        draw = jax.jit(jax.vmap(lambda key: self.policy.draw(
            key, {name: hparam.default for name, hparam in self.policy.hparams.items()}
        )))
        self.ops = [
            [self.policy.ops[row] for row in rows] for rows in np.asarray(draw(self.keys)).tolist()
        ]

    def compiled(self, apply: Callable[..., jax.Array], count: int) -> Callable[[int], None]:
        """Returns what augments `count` images over all devices that divide them."""
        devices = jax.device_count() if count % jax.device_count() == 0 else 1
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
        )
        here = NamedSharding(mesh, PartitionSpec("data"))
        given = jax.device_put((self.keys[:count], self.images[:count]), here)
        run = jax.jit(sharding.within(mesh, apply), out_shardings=here).lower(*given).compile()
        return lambda steps: [run(*given).block_until_ready() for _ in range(steps)]

    def ours(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Applies the policy as a training step does."""
        return apply_policy(self.policy, keys, images, FILL)

    def naive(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Applies the policy image by image under `vmap`, with a branch for each op."""
        table = engine.build_table(self.policy.ops, images.shape[1:3], self.policy.variant)
        colours = engine.Colours(FILL, FILL)
        names = sorted({op.name for op in self.policy.ops})
        branch = np.array([names.index(op.name) for op in self.policy.ops], np.int32)
        defaults = {name: hparam.default for name, hparam in self.policy.hparams.items()}

        def of(name: str) -> Callable[..., jax.Array]:
            ids = np.flatnonzero(branch == names.index(name))
            place = np.searchsorted(ids, np.arange(len(branch))).clip(0, len(ids) - 1)
            ops = [self.policy.ops[row] for row in ids]
            rows = engine.build_table(ops, table.size, table.variant)

            def apply(image, row, offset):
                return engine.apply_ops(
                    image[None], jnp.asarray(place, jnp.int32)[row][None, None], offset[None, None],
                    rows, colours, implementation="switch",
                )[0]

            return apply

        branches = [of(name) for name in names]

        def augment(key, image):
            offsets = policies.square_offsets(key, self.policy.stages)
            for row, offset in zip(self.policy.draw(key, defaults), offsets, strict=True):
                image = jax.lax.switch(jnp.asarray(branch)[row], branches, image, row, offset)
            return image

        return jax.vmap(augment)(keys, images)

    def pillow(self, steps: int) -> None:
        """Applies the same rows with Pillow."""
        fill = tuple(FILL.tolist())
        for _ in range(steps):
            np.stack([
                pillow_ops.augment(image, ops, fill)
                for image, ops in zip(self.images, self.ops, strict=True)
            ])

    def torch(self) -> Callable[[int], None]:
        """Returns what applies the same rows with PyTorch."""
        import torch
        import torch_ops

        images = torch.from_numpy(self.images).permute(0, 3, 1, 2).contiguous()
        fill = torch.from_numpy(FILL).float()[:, None, None]

        def run(steps: int) -> None:
            for _ in range(steps):
                torch.stack([
                    torch_ops.augment(image, ops, fill)
                    for image, ops in zip(images, self.ops, strict=True)
                ])

        return run


def per_image(run: Callable[[int], None], images: int) -> Callable[[int], common.Turn]:
    """Times a side in seconds an image."""
    return lambda steps: common.Turn(*(value / images for value in common.timed(run, steps)))


def main() -> int:
    """Measures all cases and returns the exit status, which does not depend on the target."""
    options = common.parse(__doc__, rounds=3, steps=2)
    compile_cache.use()
    sharding.use_host_cores(64)
    torch_there = importlib.util.find_spec("torch") is not None
    cases = CASES if options.batch == 64 else tuple((size, options.batch) for size, _ in CASES)
    for name in POLICIES:
        for size, batch in cases:
            sides = Sides(name, size, batch)
            few = min(batch, NAIVE)
            others = {
                "pillow": (sides.pillow, batch),
                **({"torch": (sides.torch(), batch)} if torch_there else {}),
                "naive": (sides.compiled(sides.naive, few), few),
            }
            ours = sides.compiled(sides.ours, batch)
            for other, (run, count) in others.items():
                ours(1), run(1)
                result, _ = common.compare(
                    f"augment {name} {size}x{size} against {other}",
                    {"ours": per_image(ours, batch), other: per_image(run, count)}, options,
                    ("jax", "Pillow", *(("torch",) if other == "torch" else ())),
                )
                result |= {"batch": batch, "images_per_second": {
                    side: round(1 / seconds) for side, seconds in result["wall_seconds"].items()
                }}
                common.report(result, TARGETS.get((other, size)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
