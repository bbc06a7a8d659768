"""Metrics between two rows of the log: fetched when a row is written, summed in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax

from kdaug_jax.errors import NonFiniteError
from kdaug_jax.training.step import FAULT

# Settings of the last step, where the others are means over the steps since the last row.
LATEST = ("optim/lr",)


class Window:
    """Sums of (sum, count) metrics for each member of a population.

    The sums travel with a checkpoint, so that a resumed run writes the same rows.
    """

    def __init__(
        self, members: int, terms: Sequence[str], sums: Any = None,
        saved: Callable[[], int | None] = lambda: None,
    ):
        """Starts empty, or with the sums that `state` returned.

        Args:
          members: size of the population.
          terms: names of the terms, for messages.
          sums: what `state` returned.
          saved: returns the step of the last checkpoint, for messages.
        """
        self._saved = saved
        self._terms = tuple(terms)
        self._sums = sums or [{} for _ in range(members)]
        self._pending: list[tuple[int, list[Any]]] = []

    def add(self, step: int, metrics: list[Any]) -> None:
        """Adds the metrics of one call, still on the devices.

        Args:
          step: steps taken before the call.
          metrics: one dict a member, arrays with a leading axis of the call's steps.
        """
        self._pending.append((step, metrics))

    def fetch(self) -> None:
        """Waits for the devices and sums the pending metrics.

        Raises:
          NonFiniteError: a loss term or a gradient was not finite; names step and term.
        """
        pending, self._pending = self._pending, []
        for step, members in pending:
            for sums, metrics in zip(self._sums, jax.device_get(members), strict=True):
                for name, (total, count) in metrics.items():
                    if name == FAULT:
                        self._check(step, total)
                        continue
                    entry = sums.setdefault(name, [0.0, 0.0])
                    for value, weight in zip(total.tolist(), count.tolist(), strict=True):
                        if name in LATEST:
                            entry[:] = value, weight
                            continue
                        entry[0] += value
                        entry[1] += weight

    def _check(self, step: int, faults: Any) -> None:
        for offset, fault in enumerate(faults.tolist()):
            if fault:
                number = int(fault) - 1
                named = number < len(self._terms)
                where = f"terms.{self._terms[number]}" if named else "gradient"
                saved = self._saved()
                how = "" if saved is None else (
                    f" with --allow_config_change, to go on from step {saved}"
                )
                raise NonFiniteError(
                    where, f"not finite at step {step + offset + 1}",
                    f"lower the rate or the weight and run again{how}",
                )

    def means(self) -> list[dict[str, float]]:
        """Returns the means of each member and starts a new window."""
        means = [
            {name: total / count for name, (total, count) in sums.items()} for sums in self._sums
        ]
        self._sums = [{} for _ in self._sums]
        return means

    def state(self) -> list[dict[str, list[float]]]:
        """Returns a copy of the sums so far: it is stored in the background while they grow."""
        return copy.deepcopy(self._sums)
