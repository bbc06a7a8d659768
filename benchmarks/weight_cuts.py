"""What cutting a network's weights saves and costs on a TPU slice that is not there.

The forward pass of a frozen network is compiled by libtpu with whole weights and with weights that
are cut over the devices; nothing runs. One JSON line each: weights and temporaries of a device in
MiB, what is gathered, and cycles by libtpu's estimate, which leaves out what collectives take.

    pip install --target compilers --no-deps "libtpu==0.0.42.*"
    python benchmarks/weight_cuts.py --compilers=compilers --network=efficientnet_l2 --side=600
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax
import numpy as np

from kdaug_jax.compile import compilers, hlo, topologies
from kdaug_jax.compile.programs import shaped
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.networks import build_network, variable_shapes
from kdaug_jax.runtime import sharding, weight_cuts
from kdaug_jax.types import Info

# `networks.NAME.shard` and `mesh.model` by the name of the form.
FORMS = {"whole": ("", 1), "auto over all": ("auto", 1), "auto over 4": ("auto", 4)}


def measure(devices, name: str, side: int, batch: int, form: str) -> dict:
    """Compiles a forward pass and returns what it takes of a device."""
    shard, group = FORMS[form]
    info = Info(1000, (side, side), np.zeros(4, np.int32), (127.0,) * 3, (64.0,) * 3)
    mesh = sharding.make_mesh(-1, batch * len(devices), 1, devices, group)
    network = build_network(
        "teacher", configs.network(name, shard=shard), info, 1, 0, "bfloat16"
    )
    variables = variable_shapes(network, info.size)
    cuts = weight_cuts.cuts_of(mesh, shard, variables)
    variables = shaped(variables, weight_cuts.shardings(mesh, cuts, variables))
    images = jax.ShapeDtypeStruct(
        (batch * len(devices), side, side, 3), np.uint8, sharding=sharding.rows(mesh)
    )

    def forward(variables, images):
        return network.model.apply(variables, images, train=False)[0].logits

    start = time.process_time()
    program = jax.jit(sharding.within(mesh, forward)).lower(variables, images).compile()
    memory, profile = program.memory_analysis(), hlo.profile(program.as_text())
    return {
        "network": name, "side": side, "images a device": batch, "form": form,
        "weights_mib": round(memory.argument_size_in_bytes / 2**20, 1),
        "temporaries_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        "collectives": profile.collectives, "cycles": profile.cycles,
        "cpu_seconds": round(time.process_time() - start),
    }


def main() -> int:
    """Prints one line a form and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compilers", default="", help=f"folder of libtpu; empty for ${compilers.VARIABLE}"
    )
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--network", default="efficientnet_l2")
    parser.add_argument("--side", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4, help="images a device")
    parser.add_argument("--forms", default=",".join(FORMS))
    options = parser.parse_args()
    try:
        topology = topologies.parse(options.topology)
        compilers.use("tpu", compilers.find("tpu", options.compilers))
        devices = topologies.devices_of(topology)
    except ConfigError as error:
        parser.error(str(error))
    for form in options.forms.split(","):
        result = measure(devices, options.network, options.side, options.batch, form)
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
