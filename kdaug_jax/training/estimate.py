"""Estimates the duration of a run from its first steps."""

from __future__ import annotations

import math

from kdaug_jax.training.intervals import Intervals

MEASURED_SECONDS = 2.0
SHORT_SECONDS = 60.0  # a run that is over sooner needs no estimate


class Estimate:
    """Measures steps from the second call on, and reports once what they mean for the whole run.

    The first call is left out, since it allocates memory and loads pages. Time is taken after
    twice, four times, eight times as many steps and so on: so the host seldom waits for the
    devices, and a run of slow steps is reported after its second call.
    """

    def __init__(self, intervals: Intervals, step: int, checkpoint_bytes: int, kept: int):
        """Starts before the first call.

        Args:
          intervals: of the run.
          step: steps taken before.
          checkpoint_bytes: size of a checkpoint.
          kept: how many checkpoints are kept at most.
        """
        self._intervals, self._start = intervals, step
        self._bytes, self._kept = checkpoint_bytes, kept
        self._next: float = step + 1
        self._since: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """Returns whether `measure` is to be called after so many steps."""
        return step >= self._next

    def measure(self, step: int, seconds: float) -> str:
        """Records the time at which the devices are done with a step.

        Args:
          step: steps taken.
          seconds: seconds of stepping and waiting for data so far, without compiling.

        Returns:
          A line for the console, "" when it is too early or not worth one.
        """
        self._next = 2 * step - self._start
        if self._since is None:
            self._since = step, seconds
            return ""
        first, before = self._since
        if seconds - before < MEASURED_SECONDS:
            return ""
        self._next = math.inf
        each = (seconds - before) / (step - first)
        count = self._intervals.total - self._start
        if each * count < SHORT_SECONDS:
            return ""
        saves = self._intervals.saves(self._start, each)
        return (
            f"estimate  about {duration(each * count)} for {count:,} steps"
            f" ({_milliseconds(each)} a step), without evaluation;"
            f" {saves:,} checkpoint{'s' * (saves > 1)} of {self._bytes / 1e6:,.1f} MB,"
            f" at most {self._kept} kept"
        )


def duration(seconds: float) -> str:
    """Returns a time as "2h10m" or "1m05s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{0 if seconds >= 0.01 else 1}f} ms"
