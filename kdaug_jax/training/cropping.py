"""The host's share of training views: which crops each step needs, for each member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdaug_jax.data import HostCrops
from kdaug_jax.data.dataset import Split
from kdaug_jax.data.stream import CropPlan
from kdaug_jax.experiment.program import Program


def host_crops(
    programs: Sequence[Program], seeds: Sequence[int], split: Split
) -> HostCrops | None:
    """Returns the crops of a run that are cut while images are decoded, None where there are none.

    Args:
      programs: one a phase; a phase may have other leading crops.
      seeds: of the members. Members of one seed share crops; each other seed gets its own crops of
        the one decode.
      split: the training split.

    Raises:
      ConfigError: an image is too small or too large for a crop.
    """
    cutters = [program.cutter for program in programs]
    if not any(cutter.leading for cutter in cutters):
        return None
    for cutter in cutters:
        cutter.check(split.sizes, "data.train")
    starts = [program.start_step for program in programs]
    steps_per_epoch, distinct = programs[0].steps_per_epoch, tuple(dict.fromkeys(seeds))

    def draw(
        step: int, index: np.ndarray, sizes: np.ndarray
    ) -> dict[str, tuple[CropPlan, np.ndarray]]:
        cutter = cutters[np.searchsorted(starts, step, side="right") - 1]
        return {
            f"{seed}/{view}": drawn
            for seed in distinct
            for view, drawn in cutter.crops(seed, step // steps_per_epoch, index, sizes).items()
        }

    def select(crops: dict[str, Any], member: int) -> dict[str, Any]:
        front = f"{seeds[member]}/"
        return {
            name.removeprefix(front): crop
            for name, crop in crops.items() if name.startswith(front)
        }

    return HostCrops(draw, any(cutter.stored for cutter in cutters), starts, select)
