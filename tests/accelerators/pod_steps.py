"""Compiles the four kinds of training step for v5e:16x16; prints what the compiler says as JSON.

`python -m tests.accelerators.pod_steps COMPILERS [NAME ...]`. A process of its own, since a process
that compiles for devices that are not there computes on the CPU alone. The networks are those of
the tests, which compile in seconds; what surrounds them is what runs have.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax

from configs import efficientnet_b0_kd, wang2020_cifar100
from kdaug_jax.compile import assumed, compilers, hlo, programs, topologies
from kdaug_jax.experiment import config as configs
from tests import tiny

TOPOLOGY, A_CHIP = "v5e:16x16", 64
SMALL = {"networks.student.name": "tapped", "networks.teacher.name": "tapped_wide"}
APART = {"train.replica_batch_size": A_CHIP}  # groups as large as what a chip holds
IMAGENET = {"precision": "bfloat16", **APART}
NAMELESS = {"networks.student.options": {}, "networks.teacher.options": {}}
# A kind of step: config, its option, classes and side of its images, and what is changed.
STEPS = {
    "kd": (
        wang2020_cifar100, "smoke,da=standard", (10, 16), {**SMALL, "train.reduce": "bfloat16"},
    ),
    "cutmix_pick": (wang2020_cifar100, "smoke", (10, 16), {**SMALL, **APART}),
    "crd": (
        wang2020_cifar100, "smoke,da=standard,loss=crd", (10, 16),
        {**SMALL, **APART, "terms.crd.negatives": 4096},
    ),
    "imagenet": (
        efficientnet_b0_kd, "smoke", (60, 32), {**SMALL, **NAMELESS, **IMAGENET},
    ),
    "efficientnet": (efficientnet_b0_kd, "smoke", (60, 32), IMAGENET),
}
HOST = ("infeed", "outfeed", "send", "recv")


def main(directory: str, *names: str) -> None:
    """Prints a line for each step."""
    tiny.register()
    compilers.use("tpu", compilers.find("tpu", directory))
    devices = topologies.devices_of(topologies.parse(TOPOLOGY))
    for name in names or STEPS:
        print(json.dumps({"step": name, **compiled(devices, *STEPS[name])}), flush=True)


def compiled(devices, module, option, shape, changes) -> dict[str, Any]:
    """Compiles the training call of an experiment and counts what is in it."""
    batch, (classes, side) = A_CHIP * len(devices), shape
    config = configs.plain(module.get_config(option))
    for path, value in {**changes, "data.batch_size": batch}.items():
        config = configs.set_path(config, path, value)
    dataset = assumed.dataset_of(assumed.Assumption(2 * batch, classes, (side, side)))
    job = programs.plan(configs.validate(config), dataset, devices, Path("absent").absolute())
    work = programs.training(job)[0]
    began = time.process_time()
    program = work.function.lower(*work.arguments).compile()
    seconds, text, sizes = time.process_time() - began, program.as_text(), program.memory_analysis()
    profile, computations = hlo.profile(text), hlo.parse(text)[0]
    instructions = [item for items in computations.values() for item in items]
    return {
        "cpu_seconds": round(seconds, 1),
        "steps": work.steps,
        "float64": sum("f64[" in item.shape for item in instructions),
        "host": sorted({item.operation for item in instructions if item.operation in HOST}),
        "donated": donated(text, work.arguments[0]),
        "bytes": sizes.argument_size_in_bytes + sizes.temp_size_in_bytes,
        "moved_images": moved(instructions, side),
        "collectives": profile.collectives,
        "gathered": profile.gathered, "scattered": profile.scattered,
        "custom_calls": dict(Counter(
            re.search(r'custom_call_target="([^"]*)"', item.rest)[1] for item in instructions
            if item.operation == "custom-call"
        )),
        "kernels": profile.kernels,
        "reduced_types": sorted({
            kind for item in instructions if item.operation.startswith("all-reduce")
            for kind in re.findall(r"\b([a-z]+\d+)\[", item.shape)
        }),
    }


def donated(text: str, state: Any) -> float:
    """Returns the share of the bytes of the state, the first argument, that results overwrite."""
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    header = text.partition("entry_computation_layout")[0]
    aliased = {int(number) for number in re.findall(r"\}: \((\d+), \{", header)}
    return sum(size for number, size in enumerate(sizes) if number in aliased) / sum(sizes)


def moved(instructions: list[hlo.Instruction], side: int) -> list[str]:
    """Returns the shapes of images, or of their flat pixels, that chips exchange."""
    words = -(-3 * side * side // 4 // 128)
    pixels = rf"\b{side},{side},3\b|\b{3 * side * side}\b|\b{words},128\]"
    return sorted({
        item.shape for item in instructions
        if re.match("all-gather|all-to-all|collective-permute|all-reduce", item.operation)
        and re.search(pixels, item.shape)
    })


if __name__ == "__main__":
    main(*sys.argv[1:])
