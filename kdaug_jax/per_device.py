"""Runs a computation on each device's own examples, without any exchange."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

# Axes of a mesh: what weights are cut over is shared by the examples of a batch too.
DATA, MODEL = "data", "model"


def shared_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Returns the axes of a mesh whose devices share the examples of a batch, in their order."""
    return tuple(axis for axis in (DATA, MODEL) if axis in mesh.axis_names)


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
      The function; `run` itself where there is no mesh with the axes of `shared_axes`, or where the
      devices cannot share the batch evenly and XLA can divide it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = shared_axes(mesh)
    if axes and batch % math.prod(mesh.shape[axis] for axis in axes) == 0:
        spec = PartitionSpec(axes)
    elif alone and mesh.axis_names:
        spec = PartitionSpec()
    else:
        return run
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)
