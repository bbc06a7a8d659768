"""Metrics between two rows of the log: fetched when a row is written, summed in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kdaug_jax.errors import NonFiniteError
from kdaug_jax.training.step import FAULT

# Settings of the last step, where the others are means over the steps since the last row.
LATEST = ("optim/lr",)


class Window:
    """Sums of (sum, count) metrics for each member of a population, and which members failed.

    Both travel with a checkpoint, so that a resumed run writes the same rows.

    Attributes:
      failed: step and place of the fault of each member that is not finite any more, by number.
      last: number of the member that failed last.
    """

    def __init__(
        self, members: Sequence[str], terms: Sequence[str], notes: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print, remedy: Callable[[int], str] = lambda step: "",
    ):
        """Starts empty, or with what `notes` returned.

        Args:
          members: names of the runs of the population.
          terms: names of the terms, for messages.
          notes: what `notes` returned.
          say: prints a line about a member that failed.
          remedy: returns what may be done once no member is left, by the step of the last fault.
        """
        notes = notes or {}
        self._members, self._terms = tuple(members), tuple(terms)
        self._say, self._remedy = say, remedy
        self._sums = notes.get("window") or [{} for _ in members]
        self._pending: list[tuple[int, list[Any]]] = []
        self.last = 0
        self.failed = {int(number): fault for number, fault in notes.get("failed", {}).items()}

    def add(self, step: int, metrics: list[Any]) -> None:
        """Adds the metrics of one call, still on the devices.

        Args:
          step: steps taken before the call.
          metrics: one dict a member, arrays with a leading axis of the call's steps; None for
            members that failed.
        """
        self._pending.append((step, metrics))

    def fetch(self) -> None:
        """Waits for the devices and sums the pending metrics.

        Raises:
          NonFiniteError: a loss term or a gradient of the last member was not finite; names step
            and term.
        """
        pending, self._pending = self._pending, []
        for step, members in pending:
            for number, metrics in enumerate(jax.device_get(members)):
                if number in self.failed or metrics is None:
                    continue
                self._check(number, step, metrics[FAULT][0])
                for name, (total, count) in metrics.items():
                    if name == FAULT:
                        continue
                    entry = self._sums[number].setdefault(name, [0.0, 0.0])
                    for value, weight in zip(total.tolist(), count.tolist(), strict=True):
                        if name in LATEST:
                            entry[:] = value, weight
                            continue
                        entry[0] += value
                        entry[1] += weight

    def _check(self, number: int, step: int, faults: Any) -> None:
        for offset, fault in enumerate(faults.tolist()):
            if fault:
                term = int(fault) - 1
                named = term < len(self._terms)
                where = f"terms.{self._terms[term]}" if named else "gradient"
                self.fail(number, step + offset + 1, where)
                return

    def fail(self, number: int, step: int, where: str) -> None:
        """Takes a member out of the run: the others go on.

        Args:
          number: of the member.
          step: of its fault.
          where: what was not finite.

        Raises:
          NonFiniteError: it was the last one.
        """
        self.failed[number], self.last = {"step": step, "where": where}, number
        self._sums[number] = {}
        if len(self.failed) == len(self._members):
            raise NonFiniteError(where, f"not finite at step {step}", self._remedy(step))
        self._say(
            f"warning: {self._members[number]}: {where} is not finite at step {step}; this run "
            "ends, the others go on"
        )

    @property
    def alive(self) -> list[int]:
        """Numbers of the members that have not failed."""
        return [number for number in range(len(self._members)) if number not in self.failed]

    def means(self) -> list[dict[str, float]]:
        """Returns the means of each member, `{}` for failed ones, and starts a new window."""
        means = [
            {name: total / count for name, (total, count) in sums.items()} for sums in self._sums
        ]
        self._sums = [{} for _ in self._sums]
        return means

    def notes(self) -> dict[str, Any]:
        """Returns a copy of sums and faults: it is stored in the background while they change."""
        failed = {str(number): dict(fault) for number, fault in self.failed.items()}
        return {"window": copy.deepcopy(self._sums), "failed": failed}
