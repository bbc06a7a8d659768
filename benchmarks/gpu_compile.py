"""What augmentation becomes on a GPU that is not there: compiled by XLA, counted, not run.

One JSON line for each policy: the kernels that a call launches, fewest and most, as of each
conditional one branch runs; its conditionals, loops and sorts; elements that it gathers and
scatters, all branches together; and the bytes that it holds beside arguments and result.

    python benchmarks/gpu_compile.py --compilers=compilers --size=224x224
"""

from __future__ import annotations

import argparse
import json
import sys

import jax
import numpy as np
from jax import ShapeDtypeStruct as Shape
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tpu_compile import POLICIES, elements, policy_of

from kdaug_jax.augment import apply_policy
from kdaug_jax.compile import compilers, hlo, topologies
from kdaug_jax.errors import ConfigError

TOPOLOGY = "h200:1"
FILL = np.array([125, 123, 114], np.uint8)


def count_policy(name: str, size: tuple[int, int], batch: int) -> dict:
    """Compiles a policy for a batch and counts what is in the program."""
    policy = policy_of(name, size)
    devices = topologies.devices_of(topologies.parse(TOPOLOGY))
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec())
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="threefry2x32"), batch))

    def augment(keys, images):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return apply_policy(policy, keys, images, FILL)

    given = [
        Shape(array.shape, array.dtype, sharding=here)
        for array in (keys, Shape((batch, *size, 3), np.uint8))
    ]
    program = jax.jit(augment, out_shardings=here).lower(*given).compile()
    text = program.as_text()
    fewest, most = hlo.launches(text)
    operations = [item.operation for items in hlo.parse(text)[0].values() for item in items]
    return {
        "policy": name, "kernels": [fewest, most],
        **{kind: operations.count(kind) for kind in ("conditional", "while", "sort")},
        "float64": "f64[" in text,
        "elements_per_pixel": {
            kind: round(elements(text, kind) / (batch * size[0] * size[1]), 3)
            for kind in ("gather", "scatter")
        },
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "image_bytes": batch * size[0] * size[1] * 3,
    }


def main() -> int:
    """Prints all counts and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compilers", default="", help=f"folder of the wheels; empty for ${compilers.VARIABLE}"
    )
    parser.add_argument("--size", default="224x224")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--policies", default=",".join(POLICIES), help="names")
    options = parser.parse_args()
    try:
        compilers.use("gpu", compilers.find("gpu", options.compilers))
    except ConfigError as error:
        parser.error(str(error))
    width, height = map(int, options.size.split("x"))
    for name in options.policies.split(","):
        counted = count_policy(name, (height, width), options.batch)
        print(json.dumps({"topology": TOPOLOGY, "size": options.size, "batch": options.batch,
                          **counted}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
