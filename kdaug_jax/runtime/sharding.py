"""Devices, their mesh, and how arrays lie on them.

The examples of a batch are shared by all devices. These form groups along the axis "model", and
large weights may be cut over the devices of a group, see `runtime.weight_cuts`. Every axis is of
type Auto, because with explicit axes mixup, roll and sort of a sharded batch raise errors.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdaug_jax.errors import ConfigError
from kdaug_jax.per_device import DATA, MODEL, shared_axes
from kdaug_jax.runtime.memory import pool_memory

HOST = "host"  # the axis of programs that run on the hosts, see `host_mesh`
# As many independent collectives may wait at once.
THREADS_A_DEVICE = 8


def use_host_cores(
    batch_size: int, replica_batch_size: int = 0, parts: int = 1, group: int = 1
) -> None:
    """Makes JAX see one CPU device a core, before it has started its backend, and keep memory.

    XLA runs narrow convolutions on one thread, so sharding the batch over virtual devices is
    faster on a CPU, and exercises the path that accelerators take. No effect on accelerators, if
    `XLA_FLAGS` sets the number already, or once JAX has started. What is kept is memory that XLA
    has freed, see `memory.pool_memory`.

    Args:
      batch_size: the number of devices is the largest up to the number of cores that divides it.
      replica_batch_size: see `train.replica_batch_size`; groups do not straddle devices.
      parts: micro-batches a step, each shared by all devices.
      group: `mesh.model`, which divides the number of devices where that is possible.

    Raises:
      ConfigError: `KDAUG_POOL_MEMORY` has an unknown value.
    """
    pool_memory()
    given = re.search(
        r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", "")
    )
    if given:
        _widen_pool(int(given[1]))
        return
    units = batch_size // parts // (replica_batch_size or 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counts = [n for n in range(1, max(cores, 1) + 1) if units % n == 0]
    count = max((n for n in counts if n % group == 0), default=counts[-1])
    try:
        use_virtual_devices(count)
    except RuntimeError:  # the backend has started, as in a notebook: keep its devices
        return


def use_virtual_devices(count: int) -> None:
    """Makes JAX see `count` CPU devices.

    Args:
      count: at least 1.

    Raises:
      RuntimeError: JAX has started its backend.
    """
    jax.config.update("jax_num_cpu_devices", count)
    _widen_pool(count)


def _widen_pool(devices: int) -> None:
    """Widens XLA's thread pool to the collectives that may wait, unless `NPROC` sets its size.

    A collective blocks a thread until every device has reached it. A program loaded from the
    compile cache has lost the order of independent collectives, so that devices reach different
    ones first; with too few threads they wait for each other until XLA ends the process. Two
    devices did not deadlock in a program that stops four, and on two cores more threads make a step
    10 % slower, so two devices keep XLA's pool.
    """
    if devices > 2:
        os.environ.setdefault("NPROC", str(THREADS_A_DEVICE * devices))


def make_mesh(
    devices: int, batch_size: int, parts: int = 1, available: Sequence[jax.Device] | None = None,
    group: int = 1,
) -> Mesh:
    """Returns the mesh of a run.

    Args:
      devices: `mesh.data`, the number of groups of devices, or -1 for as many as there are.
      batch_size: examples a step, over all devices.
      parts: micro-batches a step, see `train.accumulate`.
      available: the devices to choose from, by default those of JAX's default backend.
      group: `mesh.model`, the devices of a group.

    Returns:
      A mesh with the axis "data", and the axis "model" where a group is more than one device.

    Raises:
      ConfigError: too few devices, groups that do not use them all, or a batch that they cannot
        share evenly.
    """
    available = jax.devices() if available is None else available
    present = len(available)
    if present % group and (devices == -1 or devices * group > present):
        divisors = [str(n) for n in range(1, present + 1) if present % n == 0]
        raise ConfigError(
            "mesh.model", f"{group} does not divide the {present} devices",
            f"use a divisor: {', '.join(divisors)}",
        )
    count = present if devices == -1 else devices * group
    if not 1 <= count <= present:
        asked = f"{devices} × {group}" if group > 1 else devices
        raise ConfigError("mesh.data", f"asks for {asked} devices of {present}", "use -1 for all")
    processes = jax.process_count()
    if processes > 1 and count != present:
        raise ConfigError(
            "mesh.data", f"asks for {count} of the {present} devices of {processes} processes",
            "use -1: each process has its share",
        )
    unit = count * parts
    if batch_size % unit:
        nearest = max(batch_size // unit, 1) * unit
        times = f" in {parts} micro-batches" if parts > 1 else ""
        raise ConfigError(
            "data.batch_size", f"{batch_size} cannot be shared by {count} devices{times}",
            f"use {nearest} or {nearest + unit}, or set mesh.data",
        )
    axes = {DATA: count // group, MODEL: group} if group > 1 else {DATA: count}
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes),
        devices=available[:count],
    )


def host_mesh() -> Mesh:
    """Returns the mesh of programs that run on the hosts: a CPU device of each process.

    All processes then compile the same program, which the compile cache holds for all of them: it
    is written by process 0 alone, and a process that compiled longer than the others would keep
    them waiting. Such a program exchanges nothing, so each process calls it by itself.
    """
    firsts = {device.process_index: device for device in reversed(jax.devices("cpu"))}
    devices = [firsts[number] for number in sorted(firsts)]
    return jax.make_mesh(
        (len(devices),), (HOST,), axis_types=(AxisType.Auto,), devices=devices
    )


def put_host(mesh: Mesh, arrays: Any, *, rows: bool) -> Any:
    """Moves arrays of this process to its device of a `host_mesh`.

    Args:
      mesh: of `host_mesh`.
      arrays: a tree of host arrays.
      rows: whether they are rows of this process, else the same in every process.
    """
    where = NamedSharding(mesh, PartitionSpec(HOST) if rows else PartitionSpec())
    (device,) = mesh.local_devices

    def put(array: Any) -> jax.Array:
        part = jax.device_put(np.asarray(array), device)
        shape = (mesh.size * len(part), *part.shape[1:]) if rows else part.shape
        return jax.make_array_from_single_device_arrays(shape, where, [part])

    return jax.tree.map(put, arrays)


def on_host(mesh: Mesh, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns the jitted function of the rows of each process, by itself.

    Args:
      mesh: of `host_mesh`.
      function: `f(whole, rows) -> rows`, of arrays of one process.

    Returns:
      The same function of what `put_host` returned.
    """
    rows = PartitionSpec(HOST)
    return jax.jit(within(mesh, jax.shard_map(
        function, mesh=mesh.abstract_mesh, in_specs=(PartitionSpec(), rows), out_specs=rows,
        check_vma=False,
    )))


def within(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is traced with the mesh in its context.

    Code that treats the examples of each device apart (`jax.shard_map`) reads the mesh by
    `jax.sharding.get_abstract_mesh`.

    Args:
      mesh: the devices.
      function: a function for `jax.jit`.

    Returns:
      The same function.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of arrays whose examples lie along `axis`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, shared_axes(mesh)))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the positions within a batch that this process feeds to its devices.

    Args:
      mesh: the devices of all processes.
      batch_size: examples a batch, over all processes.

    Returns:
      `i64[n]`, ascending; all positions where there is one process.
    """
    held = rows(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.sort(np.concatenate([np.arange(batch_size)[place] for place in held]))


def put_batch(mesh: Mesh, arrays: Any, axis: int = 0) -> Any:
    """Moves host arrays to the devices, examples split along `axis`.

    Args:
      mesh: the devices of all processes.
      arrays: a tree of host arrays; along `axis` they hold the `local_rows` of this process.
      axis: the axis of examples.

    Returns:
      The tree of arrays over all processes.
    """
    sharding = rows(mesh, axis)
    if jax.process_count() == 1:
        return jax.tree.map(lambda array: jax.device_put(np.asarray(array), sharding), arrays)

    def put(array: Any) -> jax.Array:
        array = np.asarray(array)
        shape = list(array.shape)
        shape[axis] *= jax.process_count()
        held = local_rows(mesh, shape[axis])

        def part(place: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = place[axis].indices(shape[axis])
            first = int(np.searchsorted(held, start))
            return array[(*place[:axis], slice(first, first + stop - start))]

        return jax.make_array_from_callback(tuple(shape), sharding, part)

    return jax.tree.map(put, arrays)


def put_whole(mesh: Mesh, arrays: Any) -> Any:
    """Moves host arrays, the same in every process, to all devices, each holding them whole."""
    where = replicated(mesh)
    return put(arrays, jax.tree.map(lambda array: where, arrays))


def put(arrays: Any, shardings: Any) -> Any:
    """Moves host arrays, the same in every process, to the devices.

    Args:
      arrays: a tree of host arrays.
      shardings: the same tree of shardings.

    Returns:
      The tree of arrays over all processes.
    """
    if jax.process_count() == 1:
        return jax.tree.map(jax.device_put, arrays, shardings)

    def put_array(array: Any, where: NamedSharding) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, where, lambda place: array[place])

    return jax.tree.map(put_array, arrays, shardings)


def settle(arrays: Any) -> Any:
    """Waits for `arrays` on a CPU with several virtual devices, and returns them.

    Programs that do not depend on each other run there at once on one small thread pool, and
    their collectives can wait for each other for ever. Accelerators run programs in order.
    """
    if any(map(_on_several_cpu_devices, jax.tree.leaves(arrays))):
        jax.block_until_ready(arrays)
    return arrays


def _on_several_cpu_devices(array: jax.Array) -> bool:
    devices = array.sharding.device_set
    return len(devices) > 1 and next(iter(devices)).platform == "cpu"
