"""The platform that a program is built for."""

from __future__ import annotations

import jax


def target_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": that of the mesh in whose context a program is traced.

    A program may be built for devices that are not present, see `sharding.within`; without a mesh
    it is for JAX's default backend.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform
