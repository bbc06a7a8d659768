"""Runs a computation on each device's own examples, without any exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

# The axis of a mesh that the examples of a batch are shared out over.
DATA = "data"


def on_each_device(
    run: Callable[..., Any], batch: int, *, alone: bool
) -> Callable[..., Any]:
    """Returns a function that runs on each device's own examples.

    Args:
      run: `f(*arrays [B,...])` of arrays `[B,...]` or a tree of them, which treats each example
        apart.
      batch: B, number of examples over all devices of the mesh in whose context it is traced.
      alone: whether the computation cannot be divided by XLA, so that each device computes a batch
        that they cannot share evenly by itself.

    Returns:
      The function; `run` itself where there is no mesh with the axis "data", or where the devices
      cannot share the batch evenly and XLA can divide it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if DATA in mesh.axis_names and batch % mesh.shape[DATA] == 0:
        spec = PartitionSpec(DATA)
    elif alone and mesh.axis_names:
        spec = PartitionSpec()
    else:
        return run
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)
