"""The crops that are cut while images are decoded: which ones each step needs, for each member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdaug_jax.data import HostCrops
from kdaug_jax.data.dataset import Split
from kdaug_jax.data.stream import CropPlan
from kdaug_jax.experiment.program import Program

# For each phase each member's numbers by path.
Numbers = Sequence[Sequence[Mapping[str, Any]]]
# By view, for each member the first one whose images of the view are the same.
Owners = dict[str, list[int]]


def seeds_of(hparams: Numbers) -> list[int]:
    """Returns the seed of the views of each member."""
    return [int(numbers["seed"]) for numbers in hparams[0]]


def owners_of(
    views: Iterable[str], hparams: Numbers, part: Callable[[int, int, str], Any]
) -> Owners:
    """Returns which members share what the host makes of views.

    Args:
      views: names of views.
      hparams: each member's numbers.
      part: `part(phase, member, view)` returns what it depends on beside the seed, None where the
        host makes nothing of the view.
    """
    seeds = seeds_of(hparams)
    owners = {}
    for view in views:
        parts = [
            (seed, [part(phase, member, view) for phase in range(len(hparams))])
            for member, seed in enumerate(seeds)
        ]
        owners[view] = [parts.index(each) for each in parts]
    return owners


def named(owner: int, view: str) -> str:
    """Returns the name of what the host makes of a view for a member and those that share it."""
    return f"{owner}/{view}"


def view_of(name: str) -> str:
    """Returns the view in a name that `named` returned."""
    return name.partition("/")[2]


def select(made: Mapping[str, Any], owners: Owners, member: int) -> dict[str, Any]:
    """Returns by view what a member takes of what is `named`."""
    names = {view: named(members[member], view) for view, members in owners.items()}
    return {view: made[name] for view, name in names.items() if name in made}


def host_crops(
    programs: Sequence[Program], hparams: Numbers, split: Split
) -> tuple[HostCrops, Owners] | None:
    """Returns the crops of a run that are cut while images are decoded, None where there are none.

    Args:
      programs: one a phase; a phase may have other leading crops.
      hparams: each member's numbers. Members of one seed and of the same numbers of a view's
        leading crop share it; each other one gets its own of the one decode.
      split: the training split.

    Returns:
      The crops, and which members share them.

    Raises:
      ConfigError: an image is too small or too large for a crop.
    """
    views = dict.fromkeys(view for program in programs for view in program.cutter.leading)
    if not views:
        return None
    # By phase and member.
    cutters = [
        [program.cutter.with_numbers(numbers) for numbers in members]
        for program, members in zip(programs, hparams, strict=True)
    ]
    seeds = seeds_of(hparams)
    owners = owners_of(
        views, hparams, lambda phase, member, view: cutters[phase][member].leading.get(view)
    )
    # What each member is the first to need.
    drawn_for = {
        member: {view for view in views if owners[view][member] == member}
        for member in range(len(seeds))
    }
    cutters = [
        [cutter.of(drawn_for[member]) for member, cutter in enumerate(phase)] for phase in cutters
    ]
    for phase in cutters:
        for cutter in phase:
            cutter.check(split.sizes, "data.train")
    starts = [program.start_step for program in programs]
    steps_per_epoch = programs[0].steps_per_epoch

    def draw(
        step: int, index: np.ndarray, sizes: np.ndarray
    ) -> dict[str, tuple[CropPlan, np.ndarray]]:
        phase = cutters[np.searchsorted(starts, step, side="right") - 1]
        epoch = step // steps_per_epoch
        return {
            named(member, view): drawn
            for member, cutter in enumerate(phase)
            for view, drawn in cutter.crops(seeds[member], epoch, index, sizes).items()
        }

    stored = any(program.cutter.stored for program in programs)
    crops = HostCrops(draw, stored, starts, lambda made, member: select(made, owners, member))
    return crops, owners
