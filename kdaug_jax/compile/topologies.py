"""Names of devices that are not there, such as "v5e:16x16" and "h200:8", and their meshes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from kdaug_jax.compile import compilers
from kdaug_jax.errors import ConfigError, suggest

_GIB = 1 << 30
# What JAX takes of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_GPU_SHARE = 0.75


class Chip(NamedTuple):
    """A kind of device.

    Attributes:
      platform: "tpu" or "gpu".
      memory: bytes of a device that programs may use.
      clock: cycles a second, or None where cycles are not estimated.
      shapes: sides of the slices that exist, () for any number of devices.
      options: of JAX's topology.
    """

    platform: str
    memory: int
    clock: float | None
    shapes: tuple[tuple[int, ...], ...] = ()
    options: dict[str, Any] = {}


_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
# Slices of less than a cube of 64 chips, and what is made of such cubes.
_SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_CUBES = tuple(
    sides for sides in itertools.combinations_with_replacement(range(4, 25, 4), 3)
    if sides[1] <= 16
)
# Of an H200: NVIDIA's numbers of the device, which XLA asks a GPU for where there is one.
_H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H200 141GB HBM3e"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 8 }
"""
# The memory of TPUs is what libtpu lets a program use.
CHIPS = {
    "v4": Chip("tpu", int(30.75 * _GIB), 1.05e9, _SMALL + _CUBES, {"chip_config_name": "megacore"}),
    "v5e": Chip("tpu", int(15.75 * _GIB), 1.5e9, _FLAT),
    "v5p": Chip("tpu", int(95.74 * _GIB), 1.75e9, _SMALL + _CUBES),
    "v6e": Chip("tpu", int(31.25 * _GIB), 1.75e9, _FLAT),
    "h200": Chip("gpu", int(_GPU_SHARE * 151397597184), None, options={"target_config": _H200}),
}
GPUS_A_HOST = 8


class Topology(NamedTuple):
    """Devices by name.

    Attributes:
      name: such as "v5e:16x16".
      chip: their kind.
      sides: of the slice, or the number of GPUs.
    """

    name: str
    chip: Chip
    sides: tuple[int, ...]


def parse(name: str) -> Topology:
    """Reads the name of a topology.

    Args:
      name: kind and sides of a slice, such as "v5e:16x16", or kind and number, such as "h200:8".

    Raises:
      ConfigError: there is no such topology.
    """
    kind, _, shape = name.strip().lower().partition(":")
    chip = CHIPS.get(kind)
    if chip is not None and re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})*", shape):
        sides = tuple(map(int, shape.split("x")))
        whole_hosts = len(sides) == 1 and (sides[0] <= GPUS_A_HOST or not sides[0] % GPUS_A_HOST)
        if sides in chip.shapes or not chip.shapes and whole_hosts:
            return Topology(f"{kind}:{shape}", chip, sides)
    what = f"there is no '{name}'" if name else "is missing"
    raise ConfigError("--topology", what, _near(name))


def _near(name: str) -> str:
    """Returns what to type instead of a name that is none."""
    kind, _, rest = re.sub(r"[-_ ]", ":", name.strip().lower()).partition(":")
    if kind not in CHIPS:
        return suggest(kind, CHIPS) if kind else "such as v5e:16x16, v4:2x2x1 or h200:8"
    if not CHIPS[kind].shapes:
        return f"{kind}:N takes up to {GPUS_A_HOST} devices or a multiple of {GPUS_A_HOST}"
    shapes = {f"{kind}:{'x'.join(map(str, sides))}": sides for sides in CHIPS[kind].shapes}
    if rest.isdecimal():  # a number of chips
        count = int(rest)
        sizes = sorted(shapes, key=lambda known: abs(math.prod(shapes[known]) - count))
        return f"write the sides of the slice, such as {sizes[0]}"
    return suggest(f"{kind}:{rest}", shapes)


def devices_of(topology: Topology) -> Sequence[jax.Device]:
    """Returns the devices of a topology, which programs may be compiled for but not run on.

    Args:
      topology: whose compiler `compilers.use` has made known.

    Raises:
      ConfigError: the compiler refuses it.
    """
    options = dict(topology.chip.options)
    try:
        with compilers.quiet():
            if topology.chip.platform == "tpu":
                if topology.sides == (1, 1):
                    options["chips_per_host_bounds"] = (1, 1, 1)
                made = topologies.get_topology_desc(topology.name, "tpu", **options)
            else:
                count = topology.sides[0]
                hosts = max(count // GPUS_A_HOST, 1)
                options["topology"] = f"1x{hosts}x{count // hosts}"
                made = topologies.get_topology_desc("", "cuda", **options)
    except jax.errors.JaxRuntimeError as error:
        what = " ".join(str(error).split())
        raise ConfigError("--topology", f"{topology.name} is refused ({what})") from None
    return made.devices
