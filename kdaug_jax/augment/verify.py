"""Compares all rows of the op table on this device with the reference, bit for bit.

The first command to run on a new kind of device. Each row is applied in both of two stages, each
after and before another row, by the implementation that this device uses; the reference is the
form `loop`, computed by the CPU of the host. Both must agree bit for bit.

    python -m kdaug_jax.augment.verify --size=32x32,224x224 --variant=pillow
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax.augment.engine import Colours, apply_ops, build_table
from kdaug_jax.augment.engine.apply import IMPLEMENTATIONS, resolved, slow_rows
from kdaug_jax.augment.ops.table import OPS, VARIANTS, Op
from kdaug_jax.errors import ArgumentError, ConfigError, UserError, suggest
from kdaug_jax.runtime import commands
from kdaug_jax.runtime.console import table as text_table
from kdaug_jax.runtime.platform import target_platform

SIZES = ((32, 32), (40, 52), (224, 224), (600, 600))
METHODS = ("nearest", "bilinear", "bicubic")
FACTORS = (0.1, 0.73, 1.9)
ANGLES = (2.7, 30.0, -44.99, 45.0, -45.0, 81.0, 90.0, 120.0, 180.0)
# Fused, the long sums of filters would be computed anew for each use, and compile for minutes.
UNFUSED = {"xla_disable_hlo_passes": "fusion", "xla_backend_optimization_level": 0}
SHEARS = (0.09, -0.3, 0.99, -1.0, 1.3)


class Difference(NamedTuple):
    """What became of the images that an op was applied to.

    Attributes:
      op: its name.
      filter: of a geometric op, else "".
      form: how it was computed: "kernel", or another implementation.
      images: how many had it in a stage.
      different: how many of them are not the reference's.
    """

    op: str
    filter: str
    form: str
    images: int
    different: int


def values_of(size: tuple[int, int]) -> Mapping[str, Sequence[float | int | None]]:
    """Returns the strengths at which each op of the table is compared.

    Args:
      size: height and width of the images in pixels.
    """
    side = max(size)
    shifts = (1, -1, side // 3, -(side // 3), 2.5, -9.25, side - 1)
    return {
        "identity": (None,), "invert": (None,), "auto_contrast": (None,), "equalize": (None,),
        "smooth": (None,), "blur": (None,),
        "solarize": (0, 77, 256), "solarize_add": (-30, 60), "posterize": (0, 1, 4),
        "brightness": FACTORS, "contrast": FACTORS, "color": FACTORS, "sharpness": FACTORS,
        "rotate": ANGLES, "shear_x": SHEARS, "shear_y": SHEARS,
        "translate_x": shifts, "translate_y": shifts,
        "cutout": (2, size[0] // 3), "erase_square": (3, size[0] // 2), "cutout_fast": (4.4,),
    }


def rows_of(
    size: tuple[int, int], variant: str, methods: Iterable[str] = METHODS
) -> tuple[Op, ...]:
    """Returns rows with all ops of the table.

    Args:
      size: height and width of the images in pixels.
      variant: whose arithmetic; the TPU variants know nearest pixels only.
      methods: the filters of geometric ops.
    """
    methods = tuple(methods)
    if variant.startswith("tpu"):
        methods = tuple(method for method in methods if method == "nearest")
    return tuple(
        Op(name, value, method)
        for name, values in values_of(size).items()
        for value in values
        for method in (methods if OPS[name].geometric else ("nearest",))
    )


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Returns images with few values and with many, flat, dark, and with gradients.

    Args:
      count: how many.
      size: height and width in pixels.
      seed: of the noise.

    Returns:
      `u8[count,H,W,3]`.
    """
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *size, 3), np.uint8)
    for number, image in enumerate(images):
        if number % 6 == 1:
            image[...] = image // 3 + 40
        elif number % 6 == 2:
            image[...] = 77
        elif number % 6 == 3:
            image[...] = np.clip(random.normal(128, 20, image.shape), 0, 255)
        elif number % 6 == 4:
            image[..., 0] = image[..., 0] // 16 * 5 + 3
            image[..., 1] = image[..., 1] % 2
            image[..., 2] = np.arange(size[1])[None] * 255 // size[1]
    return images


def compare(
    ops: Sequence[Op], size: tuple[int, int], variant: str = "pillow",
    implementation: str = "auto", seed: int = 0,
) -> list[Difference]:
    """Applies each op in both of two stages, by an implementation and by the reference.

    Args:
      ops: the rows.
      size: height and width of the images in pixels.
      variant: whose arithmetic.
      implementation: see `engine.apply_ops`.
      seed: of images and of the ops that share an image.

    Returns:
      One entry for each op and filter, in the order of `ops`.
    """
    random, count = np.random.default_rng(seed), len(ops)
    table, colours = build_table(ops, size, variant), Colours(*np.array(
        [[125, 123, 114], [7, 8, 9]], np.uint8
    ))
    images = pictures(count, size, seed)
    op_ids = np.stack([np.arange(count), random.permutation(count)], axis=1).astype(np.int32)
    offsets = random.integers(0, 2**32, (count, 2, 2), np.uint32)

    def made(implementation: str) -> np.ndarray:
        def apply(images, op_ids, offsets):
            return apply_ops(
                images, op_ids, offsets, table, colours, implementation=implementation
            )

        interpreted = implementation == "kernel" and target_platform() == "cpu"
        return np.asarray(jax.jit(
            apply, compiler_options=UNFUSED if interpreted else None
        )(images, op_ids, offsets))

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        expected = made("loop")
    different = (made(implementation) != expected).any(axis=(1, 2, 3))
    chosen = resolved(implementation, target_platform(), table)
    slow = slow_rows(table)

    def form(number: int) -> str:
        return "gather" if chosen == "kernel" and slow[number] else chosen

    kinds = [(op.name, op.resample if OPS[op.name].geometric else "") for op in ops]
    results = []
    for kind in dict.fromkeys(kinds):
        numbers = [number for number, other in enumerate(kinds) if other == kind]
        users = np.isin(op_ids, numbers).any(axis=1)
        forms = sorted({form(number) for number in numbers})
        results.append(
            Difference(*kind, "+".join(forms), int(users.sum()), int(different[users].sum()))
        )
    return results


def report(results: Mapping[tuple[str, str], Sequence[Difference]]) -> str:
    """Returns a table of differences, by variant and size."""
    rows = [["variant", "size", "op", "filter", "form", "images", "different"]]
    rows += [
        [variant, size, *map(str, entry)] for (variant, size), entries in results.items()
        for entry in entries
    ]
    return text_table(rows)


def _sizes(text: str) -> list[tuple[int, int]]:
    try:
        sides = [tuple(map(int, part.split("x"))) for part in text.split(",")]
        if any(len(side) != 2 or min(side) < 8 for side in sides):
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            "--size", f"{text!r} is no list of sizes of 8 pixels and more", "use 32x32,224x224"
        ) from error
    return [(height, width) for width, height in sides]


def _run(options: argparse.Namespace) -> int:
    if options.implementation not in ("auto", *IMPLEMENTATIONS):
        raise ConfigError(
            "--implementation", f"{options.implementation!r} is unknown",
            suggest(options.implementation, ("auto", *IMPLEMENTATIONS)),
        )
    variants = VARIANTS if options.variant == "all" else options.variant.split(",")
    for variant in variants:
        if variant not in VARIANTS:
            raise ConfigError("--variant", f"{variant!r} is unknown", suggest(variant, VARIANTS))
    sizes = _sizes(options.size)
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise ConfigError(
            "JAX_PLATFORMS", "leaves out cpu, which computes the reference",
            "add it: JAX_PLATFORMS=tpu,cpu",
        ) from error
    device = jax.devices()[0]
    print(f"{len(jax.devices())} × {device.device_kind} ({device.platform})")
    results: dict[tuple[str, str], Any] = {}
    for variant in variants:
        for size in sizes:
            started = time.perf_counter()
            name = f"{size[1]}×{size[0]}"
            try:
                results[variant, name] = compare(
                    rows_of(size, variant), size, variant, options.implementation
                )
            except ArgumentError as error:
                raise ConfigError("--implementation", error.what, error.remedy) from error
            print(f"{variant} {name}: {time.perf_counter() - started:.0f} s", flush=True)
    print(report(results))
    wrong = sum(entry.different > 0 for entries in results.values() for entry in entries)
    rows = sum(len(entries) for entries in results.values())
    print(f"{rows - wrong} of {rows} rows agree bit for bit" + (
        "" if wrong else ": this device augments as the reference does"
    ))
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 1 where anything differs."""
    parser = commands.Parser(prog="verify", description=__doc__.splitlines()[0])
    sizes = ",".join(f"{width}x{height}" for height, width in SIZES)
    parser.add_argument("--size", default=sizes, help="sizes of images, such as 32x32,224x224")
    parser.add_argument("--variant", default="all", help=f"of {', '.join(VARIANTS)}, or all")
    parser.add_argument("--implementation", default="auto", help="see apply_ops")
    try:
        return _run(parser.parse_args(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    commands.run(main)
