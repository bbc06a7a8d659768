"""The host's share of training views: which crops each step needs, for each member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdaug_jax.data import HostCrops
from kdaug_jax.data.dataset import Split
from kdaug_jax.data.stream import CropPlan
from kdaug_jax.experiment.program import Program


def host_crops(
    programs: Sequence[Program], hparams: Sequence[Sequence[Mapping[str, Any]]], split: Split
) -> HostCrops | None:
    """Returns the crops of a run that are cut while images are decoded, None where there are none.

    Args:
      programs: one a phase; a phase may have other leading crops.
      hparams: for each phase each member's numbers. Members of one seed and of the same numbers of
        leading crops share crops; each other one gets its own of the one decode.
      split: the training split.

    Raises:
      ConfigError: an image is too small or too large for a crop.
    """
    if not any(program.cutter.leading for program in programs):
        return None
    # By phase and member.
    cutters = [
        [program.cutter.with_numbers(numbers) for numbers in members]
        for program, members in zip(programs, hparams, strict=True)
    ]
    seeds = [int(numbers["seed"]) for numbers in hparams[0]]
    wanted = [
        (seed, [phase[member] for phase in cutters]) for member, seed in enumerate(seeds)
    ]
    # The first member of those that share crops stands for them all.
    shared = [wanted.index(crops) for crops in wanted]
    for phase in cutters:
        for member in dict.fromkeys(shared):
            phase[member].check(split.sizes, "data.train")
    starts = [program.start_step for program in programs]
    steps_per_epoch = programs[0].steps_per_epoch

    def draw(
        step: int, index: np.ndarray, sizes: np.ndarray
    ) -> dict[str, tuple[CropPlan, np.ndarray]]:
        phase = cutters[np.searchsorted(starts, step, side="right") - 1]
        epoch = step // steps_per_epoch
        return {
            f"{member}/{view}": drawn
            for member in dict.fromkeys(shared)
            for view, drawn in phase[member].crops(seeds[member], epoch, index, sizes).items()
        }

    def select(crops: dict[str, Any], member: int) -> dict[str, Any]:
        front = f"{shared[member]}/"
        return {
            name.removeprefix(front): crop
            for name, crop in crops.items() if name.startswith(front)
        }

    stored = any(program.cutter.stored for program in programs)
    return HostCrops(draw, stored, starts, select)
