"""The devices that a program is built for, which need not be present while it is traced."""

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


def target_device_count() -> int:
    """Returns the number of devices of the mesh in whose context a program is traced.

    Without a mesh it is the number that JAX's default backend has.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() if mesh.empty else mesh.size
