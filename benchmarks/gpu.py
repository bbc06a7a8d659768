"""What a GPU makes of augmentation, of training steps and of teachers, beside what it could.

Images are made up and lie on the device; steps compute in bfloat16. Two kinds of rows, one JSON
line each. Rows of two sides take turns: RandAugment(2, 9) of a batch and two copies of it; a step
with and without that policy; many steps a call and one; a step that computes activations anew and
one that keeps them; a folded teacher in bfloat16 and one as it was trained in float32. The others
train by themselves: `ratio` is how many times longer a step takes than the multiplications, or the
bytes, of its network need on an H200 (790 TFLOP/s, 4.3 TB/s), reckoned from its multiplications and
the sizes of its activations.

A row begins only while fewer than `--minutes` have passed, compiling included; rows left out are
named in the end. `--smoke` takes small networks of the same families and tiny images, to try the
script where there is no GPU.

    python benchmarks/gpu.py
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --smoke --rounds=1 --only=aug.ra224,kd_wrn16.b64
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from configs import efficientnet_b0_kd, efficientnet_b7_kd
from kdaug_jax import models
from kdaug_jax.augment import apply_policy, policies
from kdaug_jax.experiment.sections import ConfigDict
from kdaug_jax.models.fold import fold_batchnorm
from kdaug_jax.runtime import compile_cache

POLICY = "randaugment(2, 9)"
FILL = np.array([125, 123, 114], np.uint8)
SMALL_BATCH = 8
# A network of the same family that compiles in seconds.
SMALLER = {
    "wrn_28_10": "wrn_16_2", "wrn_40_2": "wrn_16_2", "tv_resnet50": "tv_resnet18",
    "efficientnet_b7": "efficientnet_b0",
}


class Size(NamedTuple):
    """How large the work of a row is: images a step, their side in pixels, whether a trial."""

    batch: int
    side: int
    smoke: bool

    def network(self, name: str) -> str:
        """Returns a network, or a smaller one of its family for a trial."""
        return SMALLER.get(name, name) if self.smoke else name


def repeated(call: Callable[[], Any], times: int = 1) -> Callable[[int], None]:
    """Returns `run(steps)`: calls `times` times a step, one behind the other, and waits."""

    def run(steps: int) -> None:
        for _ in range(steps * times):
            result = call()
        jax.block_until_ready(result)

    return run


def synthetic(side: int, classes: int, batch: int) -> str:
    """Returns a source of made-up images: four batches, and at least one of each class."""
    return f"synthetic:{side}x{side},{classes},{max(4 * batch, classes)}"


def step_of(size: Size, student: str, *, teacher: str = "", view: str = "", steps: int = 1,
            classes: int = 1000) -> common.Ours:
    """Builds the training step of a network on made-up images that lie on the device."""
    config = common.get_config(size.batch, distill=bool(teacher))
    with config.unlocked():
        config.data.source = synthetic(size.side, classes, size.batch)
        config.data.device_gb = 64.0
        config.precision = "bfloat16"
        config.views.x = view
        config.networks.student.name = size.network(student)
        if teacher:
            config.networks.teacher.name = size.network(teacher)
    return common.Ours(size.batch, config=config, steps=steps)


def step_of_experiment(size: Size, module: Any, remat: str = "") -> common.Ours:
    """Builds the step of an experiment as its file has it, on made-up images of one size."""
    config: ConfigDict = module.get_config("smoke" if size.smoke else "")
    # Stored larger than the crop, as photographs are.
    side = size.side * 8 // 7
    with config.unlocked():
        config.data.source = synthetic(side, 60 if size.smoke else 1000, size.batch)
        config.data.test = "test"
        config.data.crop = "device"
        config.data.batch_size, config.data.device_gb = size.batch, 64.0
        config.train.replica_batch_size = 0
        config.precision = "bfloat16"
        for network in config.networks.values():
            network.trainable = True  # the step's builder freezes the teacher as it was initialised
            if remat:
                network.options.remat = remat
    return common.Ours(size.batch, config=config)


def augmentation(size: Size) -> dict[str, Callable[[int], None]]:
    """Returns a policy, and two copies of the same images."""
    policy = policies.randaugment(2, 9, size=(size.side, size.side))
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), size.batch)
    shape = (size.batch, size.side, size.side, 3)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    augment = jax.jit(lambda keys, images: apply_policy(policy, keys, images, FILL))
    # A number that is not known while compiling, so that nothing is left out.
    copy, nothing = jax.jit(jnp.bitwise_xor), jnp.uint8(0)
    return {
        "augmented": repeated(lambda: augment(keys, images)),
        "copied": repeated(lambda: copy(images, nothing), times=2),
    }


def augmented_steps(size: Size) -> dict[str, Callable[[int], None]]:
    """Returns steps of a ResNet-50 with and without a policy."""
    return {
        "augmented": step_of(size, "tv_resnet50", view=POLICY),
        "plain": step_of(size, "tv_resnet50"),
    }


def scanned_steps(size: Size) -> dict[str, Callable[[int], None]]:
    """Returns a small distillation step, many a call and one a call."""
    many = 4 if size.smoke else 48
    pair = {"student": "wrn_16_2", "teacher": "wrn_40_2", "classes": 100}
    one = step_of(size, **pair)
    return {
        f"{many} a call": step_of(size, **pair, steps=many),
        "1 a call": one,
    }


def remat_steps(size: Size) -> dict[str, Callable[[int], None]]:
    """Returns steps of EfficientNet-B7 that compute activations anew, and that keep them."""
    return {
        "remat": step_of_experiment(size, efficientnet_b7_kd, "blocks"),
        "kept": step_of_experiment(size, efficientnet_b7_kd, "none"),
    }


def teachers(size: Size) -> dict[str, Callable[[int], None]]:
    """Returns forward passes of a folded teacher in bfloat16, and of one as it was trained."""
    shape = (size.side, size.side)
    images = jnp.zeros((size.batch, *shape, 3), np.uint8)

    def forward(precision: str, folded: bool) -> Callable[[int], None]:
        model = models.create(
            size.network("tv_resnet50"), 1000, normalize="imagenet", dtype=precision
        )
        variables = jax.jit(model.init, static_argnums=1)(jax.random.key(0), shape)
        if folded:
            variables = fold_batchnorm(model, variables, precision, size=shape)

        @jax.jit
        def answer(variables, images):
            return model.apply(variables, images, train=False)

        return repeated(lambda: answer(variables, images))

    return {"bfloat16, folded": forward("bfloat16", True), "float32": forward("float32", False)}


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      batch: images a step.
      side: of the images in pixels.
      make: `f(size)` gives the sides that take turns, or the only one.
      target: what `ratio` should not exceed.
      floor: microseconds that the chip needs for an image at least; 0 for rows of two sides.
      steps: of a turn.
    """

    batch: int
    side: int
    make: Callable[[Size], Any]
    target: float | None
    floor: float = 0.0
    steps: int = 8


# Floors are the larger of multiplications at 790 TFLOP/s and of 14 bytes an activation, 4 in a
# forward pass alone, at 4.3 TB/s.
ROWS = {
    "aug.ra224": Row(1024, 224, augmentation, 2.5, steps=16),
    "aug.share": Row(256, 224, augmented_steps, 1.03),
    "rn50.b256": Row(256, 224, lambda size: step_of(size, "tv_resnet50"), 5.44, 36.8),
    "teacher": Row(256, 224, teachers, 0.4),
    "kd_wrn16.b64": Row(64, 32, scanned_steps, 0.67, steps=48),
    "wrn28.b128": Row(
        128, 32, lambda size: step_of(size, "wrn_28_10", classes=100), 2.5, 41.6
    ),
    "wrn28.b1024": Row(
        1024, 32, lambda size: step_of(size, "wrn_28_10", classes=100), 2.5, 40.0
    ),
    "effb0.b1024": Row(
        1024, 224, lambda size: step_of_experiment(size, efficientnet_b0_kd), 5.9, 28.3
    ),
    "effb7": Row(64, 600, remat_steps, None, steps=4),
}


def measure(name: str, options: argparse.Namespace) -> None:
    """Measures and prints a row."""
    row = ROWS[name]
    size = Size(row.batch, row.side, False)
    if options.smoke:
        size = Size(SMALL_BATCH, min(row.side, 32), True)
    made = row.make(size)
    sides = made if isinstance(made, dict) else {"step": made}
    steps = 4 if options.smoke else row.steps
    for run in sides.values():
        run(steps)  # compiles, and fills what is kept between calls
    turns = {
        side: (lambda steps, run=run: common.timed(run, steps)) for side, run in sides.items()
    }
    given = argparse.Namespace(rounds=options.rounds, steps=steps, batch=size.batch)
    device = jax.devices()[0]
    if len(turns) == 1:
        floor = row.floor * 1e-6 * size.batch
        turns["floor"] = lambda steps: common.Turn(floor, floor)
    result, _ = common.compare(f"gpu.{name}", turns, given, ("jax",))
    seconds = result["wall_seconds"][next(iter(turns))]
    common.report({
        **result, "device": device.device_kind, "side": size.side,
        "images_per_second": round(size.batch / seconds), "smoke": options.smoke,
    }, row.target)


def main() -> int:
    """Prints the rows and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--minutes", type=float, default=9.0, help="no row begins later")
    parser.add_argument("--only", default=",".join(ROWS), help="names of rows")
    parser.add_argument("--smoke", action="store_true", help="a trial on small networks")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--only: unknown row '{unknown[0]}', choose from {', '.join(ROWS)}")
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    platform = jax.default_backend()
    if platform != "gpu" and not options.smoke:
        parser.error(f"there is no GPU here ({platform}); --smoke tries the script without one")
    compile_cache.use()
    began, left = time.perf_counter(), []
    for name in names:
        if time.perf_counter() - began > 60 * options.minutes:
            left.append(name)
            continue
        measure(name, options)
    if left:
        print(f"left out after {options.minutes:g} minutes: {', '.join(left)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
