"""The table of a job: memory, collectives, operations and estimated time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdaug_jax.compile import hlo
from kdaug_jax.compile.measure import Measured
from kdaug_jax.compile.programs import Job
from kdaug_jax.compile.topologies import Chip, Topology
from kdaug_jax.experiment.networks import variable_shapes
from kdaug_jax.runtime import weight_cuts
from kdaug_jax.runtime.console import table
from kdaug_jax.training.estimate import duration
from kdaug_jax.training.progress import places

UNKNOWN = "unknown"
_MEMORY = {
    "arguments": "  arguments", "results": "  results", "temporaries": "  temporaries",
    "code": "  program", "beside": "  beside them",
}
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def report(topology: Topology, job: Job, assumed: bool, measured: Sequence[Measured]) -> str:
    """Returns the report of a job.

    Args:
      topology: its devices.
      job: the run.
      assumed: whether its data are.
      measured: the training calls, and the evaluation last.
    """
    parts = _head(topology, job, assumed), [_table(topology.chip, job.mesh.size, measured)]
    return "\n\n".join("\n".join(part) for part in (*parts, _notes(topology.chip, job, measured)))


def _head(topology: Topology, job: Job, assumed: bool) -> list[str]:
    info, size, count = job.first.info, job.first.config["data"]["batch_size"], job.mesh.size
    pixels = "images of several sizes" if info.mixed else f"{info.size[1]}×{info.size[0]} pixels"
    sent = job.feed.item_bytes
    place = f"{amount(sent)}B sent by each host a step" if sent else "kept on every device"
    lines = [
        f"devices   {topology.name}: {count:,} × {job.mesh.devices.flat[0].device_kind},"
        f" {job.hosts:,} host{'s' * (job.hosts > 1)}; compiled for, nothing was run",
        f"data      {len(info.labels):,} examples of {info.num_classes:,} classes, {pixels}"
        f"{' (assumed)' * assumed}; {place}",
        f"batch     {size:,}: {size // count:,} a device",
    ]
    for name, network in job.first.networks.items():
        if network.shard:
            variables = variable_shapes(network, info.size)
            cut = weight_cuts.describe(job.mesh, network.shard, variables)
            lines.append(f"weights   {name}: {cut}")
    lines += [f"views     {view}: {text}" for view, text in places(job.programs)]
    if job.built_by_name:
        names = ", ".join(job.built_by_name)
        lines.append(f"networks  {names}: taken by name, since there is no checkpoint")
    return lines


def _table(chip: Chip, devices: int, measured: Sequence[Measured]) -> str:
    rows = [("of each device", *(item.work.name for item in measured))]

    def row(title: str, text: Callable[[Measured], str]) -> None:
        rows.append((title, *map(text, measured)))

    row("steps a call", lambda item: f"{item.work.steps:,}")
    row("memory", lambda item: binary(sum(item.memory)) if item.memory else UNKNOWN)
    for field, title in _MEMORY.items():
        row(title, lambda item, field=field: _part(item, field))
    row(f"fits into {binary(chip.memory)}", lambda item: _fits(item, chip))
    profiles = [item.profile for item in measured if item.profile]
    for kind in dict.fromkeys(kind for profile in profiles for kind in profile.collectives):
        row(f"{kind} a step", lambda item, kind=kind: _collective(item, kind))
    if not any(profile.collectives for profile in profiles):
        row("collectives a step", lambda item: "none" if item.profile else UNKNOWN)
    row("FLOPs a step", lambda item: amount(item.flops / item.work.steps / devices))
    for field in ("gathered", "scattered"):
        row(f"elements {field} a step", lambda item, field=field: _per_step(
            item, getattr(item.profile, field, None)
        ))
    row("compiler's cycles a step", lambda item: _per_step(
        item, (item.profile.cycles or None) if item.profile else None
    ))
    row("estimated time a step", lambda item: _at_least(item, _time(item.seconds(chip))))
    row("images/s of all devices", lambda item: _rate(item, item.seconds(chip)))
    return table(rows)


def _part(item: Measured, field: str) -> str:
    size = getattr(item.memory, field, None)
    # Compilers for GPUs do not tell how large a program is.
    return UNKNOWN if size is None or field == "code" and not size else binary(size)


def _fits(item: Measured, chip: Chip) -> str:
    if item.memory is None:
        return "no"
    share = sum(item.memory) / chip.memory
    return f"{'yes' if share <= 1 else 'no'}, {100 * share:.1f} %"


def _collective(item: Measured, kind: str) -> str:
    if item.profile is None:
        return UNKNOWN
    count, size = item.profile.collectives.get(kind, (0, 0))
    if not count:
        return "none"
    return f"{count / item.work.steps:,.4g}, {amount(size / item.work.steps)}B"


def _per_step(item: Measured, count: int | None) -> str:
    return UNKNOWN if count is None else amount(count / item.work.steps)


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{1e3 * seconds:,.3g} ms"


def _duration(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.2g} s"


def _rate(item: Measured, seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    rate = f"{item.work.batch_size / seconds:,.0f}"
    return f"at most {rate}" if _partial(item.profile) else rate


def _at_least(item: Measured, text: str) -> str:
    return f"at least {text}" if text != UNKNOWN and _partial(item.profile) else text


def _partial(profile: hlo.Profile | None) -> bool:
    """Returns whether a program does something of which no time is known."""
    return profile is not None and bool(profile.kernels or profile.unknown_loops)


def _notes(chip: Chip, job: Job, measured: Sequence[Measured]) -> list[str]:
    lines = [
        f"{item.work.name} does not fit: {item.refusal}" for item in measured if item.refusal
    ]
    if job.members > 1:
        lines.append(f"population: {job.members} members take turns; a step is one member's")
    if chip.clock is None:
        share = "JAX takes 75 % of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION is set"
        return [*lines, f"its compiler estimates no cycles, so times are unknown; {share}"]
    text = (
        f"time: the compiler's cycles and {hlo.BUNDLES_AN_ELEMENT} for each element gathered or"
        f" scattered, at {chip.clock / 1e9:g} GHz, without stalls and collectives"
    )
    kernels = {
        name: max(item.profile.kernels.get(name, 0) // item.work.steps
                  for item in measured if item.profile)
        for item in measured if item.profile for name in item.profile.kernels
    }
    if kernels:
        listed = ", ".join(f"{name} ({count} a step)" for name, count in kernels.items())
        text += f"; kernels have no estimate: {listed}"
    if any(item.profile and item.profile.unknown_loops for item in measured):
        text += "; loops whose turns are unknown count once"
    lines.append(text)
    seconds = measured[0].seconds(chip)
    if seconds is not None:
        total = job.first.total_steps
        lines.append(
            f"run: {total:,} steps take {_at_least(measured[0], _duration(seconds * total))}"
            f"{' each' * (job.members > 1)}, without evaluation"
        )
    return lines


def binary(size: float) -> str:
    """Returns bytes as "15.75 GiB" or "3.2 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def amount(count: float) -> str:
    """Returns a number as "13.8 M" or "120 "; a unit may follow."""
    for prefix, size in _UNITS:
        if count >= 0.9995 * size:
            return f"{count / size:.4g} {prefix}"
    return f"{count:.4g} "
