"""What augmentation costs on a TPU that is not there: compiled by libtpu, counted, not run.

One JSON line for each form of the kernel (`bundles_per_pixel`) and for each policy: how often an
image draws each form, cycles of the kernel and, by XLA's own estimate, of what is around it, the
element gathers and scatters that are left (10 cycles each, which XLA leaves out), and the images a
second of a chip that follow. Stalls are not counted.

    pip install --target compilers --no-deps "libtpu==0.0.42.*"
    python benchmarks/tpu_compile.py --compilers=compilers --size=224x224
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from jax import ShapeDtypeStruct as Shape
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tpu_bundles import executed

from kdaug_jax.augment import apply_policy, policies
from kdaug_jax.augment.engine import build_table
from kdaug_jax.augment.engine.tpu import FORMS, kernel, problems, rows
from kdaug_jax.augment.engine.tpu.rows import forms_of
from kdaug_jax.augment.engine.tpu.tiles import Layout
from kdaug_jax.compile import compilers, topologies
from kdaug_jax.compile.hlo import BUNDLES_AN_ELEMENT
from kdaug_jax.errors import ConfigError

TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
POLICIES = ("randaugment", "randaugment_tpu", "randaugment_torchvision", "autoaugment", "timm")
DUMP = Path(tempfile.gettempdir()) / f"kdaug_llo_{os.getpid()}"


def prepare(directory: str) -> None:
    """Makes libtpu known to this process and lets it write its schedules."""
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true"
    compilers.use("tpu", compilers.find("tpu", directory))


def compiled(generation, function, *shapes):
    """Compiles a function for one chip: the program, and the schedule of its kernel."""
    devices = topologies.devices_of(topologies.parse(TOPOLOGIES[generation]))
    mesh = Mesh(np.array(devices[:1]), ("data",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec())
    shapes = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here) for s in shapes]

    def within(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    shutil.rmtree(DUMP, ignore_errors=True)
    program = jax.jit(within, out_shardings=here).lower(*shapes).compile()
    schedules = [
        path for path in sorted(DUMP.glob("*final_bundles.txt"))
        if "augment" in path.name and "schedule-analysis" not in path.name
    ]
    return program, schedules[0] if schedules else None


def count_form(generation: str, size: tuple[int, int], variant: str, form: str):
    """Counts what one image takes for an op of a form, and its way in and out: `Executed`, images.

    "none" is the way in and out alone.
    """


    layout, variant_ = Layout(*size), kernel.VARIANTS[variant]
    together = kernel.images_together(layout, 64)
    batch = 8 * together
    call = kernel.Call(layout, variant_, frozenset([form]), 1, together, form == "erase")
    _, schedule = compiled(
        generation, lambda *arrays: kernel.run(call, *arrays),
        Shape((2 + len(variant_.scales),), np.int32), Shape((400 * rows.COLUMNS,), np.int32),
        Shape((batch,), np.int32), Shape((2 * batch,), np.int32), Shape((batch, *size), np.uint32),
        Shape((64, 128), np.uint32), Shape((8, 128), np.uint32),
    )
    return executed(schedule), together


def policy_of(name: str, size: tuple[int, int]):
    """Builds one of the policies that are counted."""
    return {
        "randaugment": lambda: policies.randaugment(2, 9, size=size),
        "randaugment_tpu": lambda: policies.randaugment(2, 5, "tpu", size=size),
        "randaugment_torchvision": lambda: policies.randaugment(2, 9, "torchvision", size=size),
        "autoaugment": lambda: policies.autoaugment("imagenet", size=size),
        "timm": lambda: policies.timm("rand-m9-mstd0.5-inc1", size=size),
    }[name]()


def forms_drawn(policy, size: tuple[int, int]) -> dict[str, float]:
    """Returns how many ops of each form an image draws, on average."""


    table = build_table(policy.ops, size, policy.variant)
    slow = [text is not None for text in problems(table)]
    forms = np.where(slow, -1, forms_of(table))
    hparams = {name: hparam.default for name, hparam in policy.hparams.items()}
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), 4096)
    drawn = forms[np.asarray(jax.vmap(lambda key: policy.draw(key, hparams))(keys))]
    names = {number: name for number, name in enumerate(FORMS)} | {-1: "gather"}
    return {
        names[int(number)]: float((drawn == number).sum() / len(drawn))
        for number in np.unique(drawn)
    }


def elements(program: str, name: str) -> int:
    """Counts the elements that gathers, or scatters, of a compiled program touch."""
    total = 0
    for shape in re.findall(rf"= \w+\[([\d,]*)\]\S* {name}\(", program):
        sides = [int(side) for side in shape.split(",") if side]
        count = 1
        for side in sides:
            count *= side
        total += count
    return total


def estimated(program: str) -> int:
    """Adds up the cycles that XLA expects of the operations of the entry computation."""
    entry = program[program.index("ENTRY ") :]
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))


def count_policy(generation: str, size: tuple[int, int], name: str, batch: int, cost) -> dict:
    """Compiles a policy for a batch and adds up what an image takes; `cost(variant, form)`."""


    policy, fill = policy_of(name, size), np.array([125, 123, 114], np.uint8)
    keys = jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0, impl="threefry2x32"), batch)
    )
    program, _ = compiled(
        generation, lambda keys, images: apply_policy(policy, keys, images, fill), keys,
        Shape((batch, *size, 3), np.uint8),
    )
    text = program.as_text()
    drawn = forms_drawn(policy, size)
    base = cost(policy.variant, "none")
    kernel = base + sum(
        times * (cost(policy.variant, form) - base)
        for form, times in drawn.items() if form not in ("none", "gather")
    )
    gathered = {kind: elements(text, kind) for kind in ("gather", "scatter")}
    cycles = kernel + estimated(text) / batch + BUNDLES_AN_ELEMENT * sum(gathered.values()) / batch
    return {
        "policy": name, "forms_an_image": drawn, "kernel_cycles": round(kernel),
        "cycles": round(cycles), "elements": gathered,
        "operations": {
            kind: len(re.findall(rf" {kind}\(", text))
            for kind in ("gather", "scatter", "sort", "while", "conditional")
        },
        "images_per_second": round(topologies.CHIPS[generation].clock / cycles),
    }


def main() -> int:
    """Prints all counts and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compilers", default="", help=f"folder of libtpu; empty for ${compilers.VARIABLE}"
    )
    parser.add_argument("--generation", default="v5e", choices=TOPOLOGIES)
    parser.add_argument("--size", default="224x224")
    parser.add_argument("--variant", default="pillow")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--forms", default="all", help="names, all or none")
    parser.add_argument("--policies", default=",".join(POLICIES), help="names, or none")
    options = parser.parse_args()
    try:
        prepare(options.compilers)
    except ConfigError as error:
        parser.error(str(error))

    width, height = map(int, options.size.split("x"))
    size, counted = (height, width), {}

    def cost(variant: str, form: str) -> float:
        if (variant, form) not in counted:
            counted[variant, form] = count_form(options.generation, size, variant, form)
        executed, together = counted[variant, form]
        return executed.bundles / together

    facts = {"generation": options.generation, "size": options.size}
    forms = {"all": FORMS, "none": ()}.get(options.forms, options.forms.split(","))
    for form in forms:
        base = 0.0 if form == "none" else cost(options.variant, "none")
        bundles = cost(options.variant, form) - base
        print(json.dumps(facts | {
            "variant": options.variant, "form": form, "bundles": round(bundles),
            "bundles_per_pixel": round(bundles / height / width, 4),
            "unknown_loops": counted[options.variant, form][0].unknown,
        }), flush=True)
    policies = () if options.policies == "none" else options.policies.split(",")
    for name in policies:
        result = count_policy(options.generation, size, name, options.batch, cost)
        print(json.dumps(facts | result), flush=True)
    shutil.rmtree(DUMP, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
