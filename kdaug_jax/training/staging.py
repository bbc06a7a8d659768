"""Batches on their way to the devices: those of the next call are copied while one runs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kdaug_jax.data import Feed
from kdaug_jax.runtime import sharding


class Staging:
    """Hands out what each call of a run needs, staged one call ahead.

    On the devices there are never more than the batches of two calls: those of the call that runs,
    and those of the next.
    """

    def __init__(self, feed: Feed, mesh: Mesh, members: int):
        """Starts with nothing staged.

        Args:
          feed: of the run.
          mesh: the devices.
          members: size of the population.
        """
        self._feed, self._mesh, self._members = feed, mesh, members
        self._staged: tuple[int, int, Any] | None = None

    def stage(self, step: int, count: int) -> None:
        """Starts copying the batches of steps `step` to `step + count - 1`."""
        items = [self._feed.item(step + offset) for offset in range(count)]
        items = sharding.put_batch(self._mesh, jax.tree.map(_stack, *items), axis=1)
        self._staged = step, count, items

    def take(self, step: int, count: int) -> list[Any]:
        """Returns what each member's call takes, staged before or now.

        Args:
          step: steps taken before the call.
          count: steps of the call.
        """
        if self._staged is None or self._staged[:2] != (step, count):
            self.stage(step, count)
        _, _, items = self._staged
        self._staged = None
        return [self._feed.select(items, number) for number in range(self._members)]


def _stack(*arrays: np.ndarray) -> np.ndarray:
    """Stacks the steps of a call; a single one is not copied."""
    return np.stack(arrays) if len(arrays) > 1 else arrays[0][None]
