"""Weights cut over devices: one rule for all networks, and how cut weights are read.

Each device stores a part of a large weight and gathers the rest just before it computes with it, so
that results are those of weights which every device holds whole. A batch is still shared by all
devices.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from kdaug_jax.runtime import sharding
from kdaug_jax.runtime.platform import target_platform
from kdaug_jax.runtime.sharding import DATA, MODEL

# Elements of the smallest weight that is cut (256 KiB). Smaller ones are 1.3 % of EfficientNet-L2's
# weights and 5.6 % of B7's; those of 4,096 and more would take 419 collectives instead of 303, and
# 234 instead of 127.
SMALLEST = 1 << 16
# Running statistics of BatchNorm, its factors, and what is added to outputs; with several branches
# they have two axes, as weights have.
WHOLE = ("batch_stats", "bias", "scale", "mean", "var")
# Value of `networks.*.shard`: over the devices of a group, or over all where a group is one device.
AUTO = "auto"


def axis_to_cut(path: Sequence[str], shape: Sequence[int], parts: int) -> int | None:
    """Returns the axis along which an array is cut, or None where each device holds it whole.

    Whole stay BatchNorm and biases by name, arrays of fewer than `SMALLEST` elements or than two
    axes, and those of which no axis can be shared evenly. Of the axes that can, the largest is cut,
    and the last of several that are as large.

    Args:
      path: names of the array in the variables of a network, such as
        ("params", "head", "kernel").
      shape: of the array.
      parts: number of devices, at least 1.

    Source: Beyer et al. 2022, big_vision, `sharding.py`, strategy `fsdp`.
    """
    small = math.prod(shape) < SMALLEST or len(shape) < 2
    if parts == 1 or small or not set(WHOLE).isdisjoint(path):
        return None
    even = [axis for axis, length in enumerate(shape) if length and length % parts == 0]
    return max(even, key=lambda axis: (shape[axis], axis), default=None)


def mesh_axis(mesh: Mesh | AbstractMesh, shard: str) -> str:
    """Returns the axis of a mesh over whose devices the weights of a network are cut.

    Args:
      mesh: the devices.
      shard: `networks.*.shard`, "auto" or "data".
    """
    return MODEL if shard == AUTO and MODEL in mesh.axis_names else DATA


class Cut(NamedTuple):
    """How an array is cut.

    Attributes:
      shape: of the array.
      axis: along which it is cut.
      over: axis of the mesh over whose devices it is cut.
    """

    shape: tuple[int, ...]
    axis: int
    over: str

    @property
    def spec(self) -> PartitionSpec:
        """Where its parts lie."""
        return PartitionSpec(*[None] * self.axis, self.over)


Cuts = dict[tuple[str, ...], Cut]


def cuts_of(mesh: Mesh | AbstractMesh, shard: str, variables: Any) -> Cuts:
    """Returns the arrays of a network that are cut, by their path.

    Args:
      mesh: the devices; of an empty mesh nothing is cut.
      shard: `networks.*.shard`.
      variables: nested dicts of arrays or shapes.
    """
    if not shard or mesh.empty:
        return {}
    over = mesh_axis(mesh, shard)
    cuts = {}
    for path, leaf in jax.tree.leaves_with_path(variables):
        names = path_names(path)
        axis = axis_to_cut(names, leaf.shape, mesh.shape[over])
        if axis is not None:
            cuts[names] = Cut(tuple(leaf.shape), axis, over)
    return cuts


def path_names(path: Sequence[Any]) -> tuple[str, ...]:
    """Returns the keys, fields and positions of a path of JAX as texts."""
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def shardings(mesh: Mesh, cuts: Cuts, tree: Any) -> Any:
    """Returns how a tree lies that holds cut arrays, or arrays that belong to them.

    Args:
      mesh: the devices.
      cuts: by path; a momentum or an average belongs to a weight if its path ends with that of the
        weight, and has its shape.
      tree: of arrays or shapes.

    Returns:
      The same tree of shardings.
    """
    whole = sharding.replicated(mesh)

    def where(path: Sequence[Any], leaf: Any) -> NamedSharding:
        names = path_names(path)
        ends = (cuts.get(names[start:]) for start in range(len(names)))
        cut = next((cut for cut in ends if cut and cut.shape == leaf.shape), None)
        return NamedSharding(mesh, cut.spec) if cut else whole

    return jax.tree.map_with_path(where, tree)


def put(mesh: Mesh, shard: str, variables: Any) -> Any:
    """Moves the variables of a network to the devices, each of which holds its parts.

    Args:
      mesh: the devices of all processes.
      shard: `networks.*.shard`.
      variables: nested dicts of host arrays, the same in every process.

    Returns:
      The tree of arrays over all processes.
    """
    cuts = cuts_of(mesh, shard, variables)
    return sharding.put(variables, shardings(mesh, cuts, variables))


def describe(mesh: Mesh, shard: str, variables: Any) -> str:
    """Returns what is cut of a network, such as "7.1 of 7.4 MB cut over 4 devices"; "" for none.

    Args:
      mesh: the devices.
      shard: `networks.*.shard`.
      variables: nested dicts of arrays or shapes.
    """
    if not shard:
        return ""
    cuts = cuts_of(mesh, shard, variables)
    sizes = {
        path_names(path): math.prod(leaf.shape) * leaf.dtype.itemsize
        for path, leaf in jax.tree.leaves_with_path(variables)
    }
    part, total = sum(sizes[names] for names in cuts) / 1e6, sum(sizes.values()) / 1e6
    count = mesh.shape[mesh_axis(mesh, shard)]
    return f"{part:,.1f} of {total:,.1f} MB cut over {count} device{'s' * (count > 1)}"


def gathered(shard: str, variables: Any) -> Any:
    """Returns variables which every device holds whole, bit for bit, within a traced function.

    Args:
      shard: `networks.*.shard`.
      variables: nested dicts of arrays, those cut that `cuts_of` says for the mesh in the context.

    Returns:
      The same tree; the gradient of each array is cut as the array is.
    """
    cuts = cuts_of(jax.sharding.get_abstract_mesh(), shard, variables)
    if not cuts:
        return variables
    leaves, structure = jax.tree.flatten_with_path(variables)
    arrays = {path_names(path): leaf for path, leaf in leaves}
    parts = {names: arrays[names] for names in cuts}
    if target_platform() == "cpu":
        parts = _gathered_at_once(cuts, parts)
    else:
        parts = {names: _everywhere(array) for names, array in parts.items()}
    return structure.unflatten((arrays | parts).values())


def _everywhere(array: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, PartitionSpec())


def _gathered_at_once(
    cuts: Cuts, arrays: Mapping[tuple[str, ...], jax.Array]
) -> dict[tuple[str, ...], jax.Array]:
    """Gathers all arrays by one collective.

    Many at once, which do not depend on each other, could wait for each other for ever on the
    devices of a CPU, see `sharding.use_virtual_devices`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    gathered_arrays = {}
    by_type = defaultdict(list)
    for names, array in arrays.items():
        by_type[array.dtype].append(names)
    for kind in by_type.values():
        over = cuts[kind[0]].over
        rows = [
            jnp.moveaxis(arrays[names], cuts[names].axis, 0).reshape(mesh.shape[over], -1)
            for names in kind
        ]
        together = jax.lax.with_sharding_constraint(
            jnp.concatenate(rows, axis=1), PartitionSpec(over)
        )
        ends = list(itertools.accumulate(row.shape[1] for row in rows))[:-1]
        for names, part in zip(kind, jnp.split(_everywhere(together), ends, axis=1), strict=True):
            shape, axis = cuts[names].shape, cuts[names].axis
            front = (shape[axis], *shape[:axis], *shape[axis + 1 :])
            gathered_arrays[names] = jnp.moveaxis(part.reshape(front), 0, axis)
    return gathered_arrays
