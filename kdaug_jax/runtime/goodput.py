"""Where the wall time of a run goes, phase by phase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

PHASES = ("compile", "data_wait", "step", "evaluation", "checkpoint")


class Goodput:
    """A stopwatch that is always in exactly one phase, so that phases add up to wall time.

    Time outside all `with` blocks counts as "compile", which includes setup. The loop enters
    "step" around its calls and where it blocks on their results, since JAX returns before the
    devices are done.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._started = self._since = time.perf_counter()
        self._phase = "compile"

    def _switch(self, phase: str) -> str:
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        before, self._phase, self._since = self._phase, phase, now
        return before

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Counts the time inside the block to `phase`, one of `PHASES`."""
        before = self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    def stepping(self) -> float:
        """Returns the seconds of steps and of waiting for their data so far."""
        self._switch(self._phase)
        return self.seconds["step"] + self.seconds["data_wait"]

    def report(self) -> dict[str, float]:
        """Returns seconds of each phase, wall seconds, and goodput, the fraction spent in steps."""
        self._switch(self._phase)
        wall = self._since - self._started
        rows = {f"perf/{name}_seconds": seconds for name, seconds in self.seconds.items()}
        return {**rows, "perf/wall_seconds": wall, "perf/goodput": self.seconds["step"] / wall}
