"""The host's share of training views: stages that its CPUs carry out, ahead of the step.

Each thread carries the stages out on a part of a batch, by one program for one CPU device of the
process. A program for several of them would need as many virtual ones as cores, and their number
has to divide the batch and its groups.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from kdaug_jax import data
from kdaug_jax.data.dataset import Split
from kdaug_jax.data.stream import cores
from kdaug_jax.experiment import views
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding
from kdaug_jax.runtime.platform import has_cpu
from kdaug_jax.training import cropping
from kdaug_jax.training.cropping import Numbers, Owners
from kdaug_jax.types import Clock

AHEAD = 2  # steps whose batches are made before they are asked for


def place_views(
    programs: Sequence[Program], split: Split, platform: str
) -> tuple[Program, ...]:
    """Returns programs whose views say what the host carries out, see `views.place`.

    Args:
      programs: one a phase.
      split: the training split.
      platform: of the devices, "cpu", "gpu" or "tpu".
    """
    section = programs[0].config["data"]
    streamed = (
        any(program.cutter.leading for program in programs)
        or not data.fits(split, round(1e9 * section["device_gb"]), platform)
        or any(_wanted(program)[spec.name] == "host" and views.unmixed(spec)
               for program in programs for spec in program.made)
    )
    return tuple(
        dataclasses.replace(program, view_specs=views.place(
            program.view_specs, _wanted(program), platform, streamed=streamed, has_cpu=has_cpu()
        ))
        for program in programs
    )


def _wanted(program: Program) -> dict[str, str]:
    return {name: section["place"] for name, section in program.config["views"].items()}


def order_seed(config: Mapping[str, Any], seed: int | None = None) -> int:
    """Returns the seed of the order of examples: `data.seed`, or the run's own seed where it is -1.

    Args:
      config: the complete config.
      seed: of a member of a sweep; by default `seed` of the config.
    """
    if config["data"]["seed"] >= 0:
        return config["data"]["seed"]
    return config["seed"] if seed is None else seed


def make_feed(
    programs: Sequence[Program], hparams: Numbers, split: Split, rows: slice | np.ndarray,
    platform: str,
) -> data.Feed:
    """Returns the feed of a run.

    Members whose seeds differ have their own order of examples each, unless `data.seed` gives one
    to all of them; members of one order share what is read.

    Args:
      programs: one a phase, whose views are placed.
      hparams: each member's numbers.
      split: the training split.
      rows: the positions within a batch that this process feeds to its devices.
      platform: of the devices.

    Returns:
      A feed that is streamed where the host has a part in the views, else as `data.make_feed` says.

    Raises:
      ConfigError: an image is too small or too large for a crop.
    """
    config = programs[0].config
    seeds = [order_seed(config, seed) for seed in cropping.seeds_of(hparams)]
    orders = list(dict.fromkeys(seeds))
    feeds = [
        _ordered_feed(programs, [
            [numbers for numbers, seed in zip(phase, seeds, strict=True) if seed == order]
            for phase in hparams
        ], split, order, rows, platform)
        for order in orders
    ]
    return feeds[0] if len(feeds) == 1 else data.joined(feeds, [orders.index(s) for s in seeds])


def _ordered_feed(
    programs: Sequence[Program], hparams: Numbers, split: Split, order_seed: int,
    rows: slice | np.ndarray, platform: str,
) -> data.Feed:
    """Returns the feed of members that have one order of examples, see `make_feed`."""
    section = programs[0].config["data"]
    cut = cropping.host_crops(programs, hparams, split)
    crops, crop_owners = cut or (None, {})
    order = split, order_seed, section["batch_size"]
    if not any(spec.hosted for program in programs for spec in program.made):
        return data.make_feed(
            *order, device_bytes=round(1e9 * section["device_gb"]), workers=section["workers"],
            rows=rows, crops=crops, platform=platform,
        )
    streamed = data.streamed(*order, rows, section["workers"], crops)
    owners = _owners(programs, hparams)
    ahead = _Ahead(_Maker(streamed, programs, hparams, owners), programs[0].total_steps)

    def select(item: dict[str, Any], member: int) -> dict[str, Any]:
        made = cropping.select(item["made"], owners, member)
        rest = {name: value for name, value in item.items() if name != "made"}
        chosen = streamed.select(rest, member)
        return {**chosen, "crops": {**chosen["crops"], **made}}

    def close() -> None:
        ahead.close()
        streamed.close()

    count = len(np.arange(section["batch_size"])[rows])
    sent = max(_sent_bytes(program, count, crop_owners, owners) for program in programs)
    return streamed._replace(item=ahead.item, select=select, close=close, item_bytes=sent)


def _owners(programs: Sequence[Program], hparams: Numbers) -> Owners:
    """Returns which members share the views that the host carries out stages of."""
    hosted = [_hosted(program) for program in programs]

    def part(phase: int, member: int, view: str) -> Any:
        spec = hosted[phase].get(view)
        fronts = tuple(
            f"views.{view}.{call.role}." for call in spec.calls[: spec.hosted.calls]
        ) if spec else ()
        return {
            path: np.asarray(number).tolist() for path, number in hparams[phase][member].items()
            if fronts and path.startswith(fronts)
        }

    return cropping.owners_of(
        dict.fromkeys(view for specs in hosted for view in specs), hparams, part
    )


def _hosted(program: Program) -> dict[str, views.ViewSpec]:
    return {spec.name: spec for spec in program.made if spec.hosted}


def _sent_bytes(program: Program, count: int, crop_owners: Owners, owners: Owners) -> int:
    """Returns the bytes of images that a process sends for a step, of `count` examples."""
    batch, hosted = views.batch_shapes(program.made, count, program.info), _hosted(program)
    arrays = [(1, batch.image)] if batch.image is not None else []
    for view, array in batch.crops.items():
        shared = owners if view in hosted else crop_owners
        arrays.append((len(set(shared[view])), array))
    return sum(copies * array.size * array.dtype.itemsize for copies, array in arrays)


class _Maker:
    """Makes the items of steps; its threads start with the first."""

    def __init__(
        self, feed: data.Feed, programs: Sequence[Program], hparams: Numbers, owners: Owners
    ):
        self._feed, self._programs, self._hparams = feed, programs, hparams
        self._owners, self._seeds = owners, cropping.seeds_of(hparams)
        self._starts = [program.start_step for program in programs]
        self._compiled: dict[tuple[int, str], _Stages] = {}
        self._threads = ThreadPoolExecutor(cores(), "hosting")

    def __call__(self, step: int) -> dict[str, Any]:
        phase = int(np.searchsorted(self._starts, step, side="right")) - 1
        program, item = self._programs[phase], self._feed.item(step)
        hosted, count = _hosted(program), len(item["index"])
        parts = {
            cropping.named(member, view): self._begin(spec, phase, member, step, item)
            for view, spec in hosted.items() for member in sorted(set(self._owners[view]))
        }
        needed = any(spec.prefix is None for spec in program.made if spec.source is None)
        cut = {
            name: crop for name, crop in item["crops"].items()
            if cropping.view_of(name) not in hosted
        }
        made = {name: _join(futures, count) for name, futures in parts.items()}
        return {**item, "image": item["image"] if needed else None, "crops": cut, "made": made}

    def _begin(
        self, spec: views.ViewSpec, phase: int, member: int, step: int, item: dict[str, Any]
    ) -> list[tuple[slice, Future]]:
        """Hands out the parts of what is made of a view for a member and those that share it."""
        image, index, done = item["image"], item["index"], 0
        if spec.leading is not None:
            image = self._feed.select(item, member)["crops"][spec.name]
            done = spec.leading.calls
        paths = [
            f"views.{spec.name}.{call.role}.{name}"
            for call in spec.calls[done : spec.hosted.calls] for name in call.bound.traced
        ]
        numbers = {path: self._hparams[phase][member][path] for path in paths}
        seed = np.uint32(self._seeds[member])
        epoch = np.int32(step // self._programs[phase].steps_per_epoch)
        draws, futures = len(image) // len(index), []
        for rows in _parts(len(index)):
            images = image[rows.start * draws : rows.stop * draws]
            arguments = (seed, epoch, numbers), (images, index[rows])
            if (phase, spec.name) not in self._compiled:
                self._compiled[phase, spec.name] = _Stages(spec, *arguments)
            make = self._compiled[phase, spec.name]
            futures.append((rows, self._threads.submit(make, *arguments)))
        return futures

    def close(self) -> None:
        self._threads.shutdown()


class _Stages:
    """The stages of a view that the host carries out, compiled for a part of a batch."""

    def __init__(self, spec: views.ViewSpec, whole: Any, rows: Any):
        """Compiles; the arguments are those of a call."""

        def make(whole, rows):
            (seed, epoch, hparams), (image, index) = whole, rows
            clock = Clock(seed, epoch, np.int32(0))
            return views.make_hosted(spec, clock, image, index, hparams)

        self._mesh = sharding.host_mesh()
        # Constants of the program would lie on the devices of the step otherwise.
        with jax.default_device(self._mesh.local_devices[0]):
            program = sharding.on_host(self._mesh, make)
            self._call = program.lower(*self._put(whole, rows)).compile()

    def _put(self, whole: Any, rows: Any) -> tuple[Any, Any]:
        return (
            sharding.put_host(self._mesh, whole, rows=False),
            sharding.put_host(self._mesh, rows, rows=True),
        )

    def __call__(self, whole: Any, rows: Any) -> np.ndarray:
        """Returns the images of a part.

        Args:
          whole: seed, epoch and traced numbers by path.
          rows: images and positions of the part, see `views.make_hosted`.
        """
        made = self._call(*self._put(whole, rows))
        return np.asarray(made.addressable_shards[0].data)


def _parts(count: int) -> list[slice]:
    """Divides rows among the cores; parts are of one size, so the last may repeat some rows."""
    size = -(-count // cores())
    starts = [min(start, count - size) for start in range(0, count, size)]
    return [slice(start, start + size) for start in starts]


def _join(parts: Sequence[tuple[slice, Future]], count: int) -> np.ndarray:
    """Waits for the parts of a batch of `count` examples and puts them together."""
    if len(parts) == 1:
        return parts[0][1].result()
    whole = None
    for rows, future in parts:
        made = future.result()
        draws = len(made) // (rows.stop - rows.start)
        if whole is None:
            whole = np.empty((count * draws, *made.shape[1:]), made.dtype)
        whole[rows.start * draws : rows.stop * draws] = made
    return whole


class _Ahead:
    """Items of consecutive steps, made by a thread before they are asked for."""

    def __init__(self, make: _Maker, end: int):
        """Starts with nothing made.

        Args:
          make: makes the item of a step; called by the thread, and closed with it.
          end: the step at which the run ends.
        """
        self._make, self._end = make, end
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._begun: collections.deque[tuple[int, Future]] = collections.deque()

    def item(self, step: int) -> dict[str, Any]:
        """Returns the item of a step, fastest for one step after another."""
        if not self._begun or self._begun[0][0] != step:
            self._drop()
        first = self._begun[-1][0] + 1 if self._begun else step
        for number in range(first, max(min(step + AHEAD + 1, self._end), step + 1)):
            self._begun.append((number, self._thread.submit(self._make, number)))
        return self._begun.popleft()[1].result()

    def _drop(self) -> None:
        for _, future in self._begun:
            future.cancel()
        self._begun.clear()

    def close(self) -> None:
        """Ends the threads, after the step that they are at."""
        self._drop()
        self._thread.shutdown()
        self._make.close()
