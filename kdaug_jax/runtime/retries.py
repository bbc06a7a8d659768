"""For how long a run goes on while something cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from kdaug_jax.errors import UserError


class Retries:
    """Counts the time since writing began to fail, and tells so once."""

    def __init__(self, say: Callable[[str], None], minutes: float, again: str):
        """Nothing has failed yet.

        Args:
          say: prints a line.
          minutes: how long writing may fail; 0 for not at all.
          again: what is tried again and when, for the line.
        """
        self._say, self._seconds, self._again = say, 60.0 * minutes, again
        self._since: float | None = None

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._since is not None

    def failed(self, error: UserError) -> bool:
        """Notes a failure; returns whether writing has failed for as long as it may."""
        if self._since is None:
            self._since = monotonic()
            if self._seconds:
                self._say(
                    f"warning: {error.where}: {error.what}; the run goes on, and {self._again}, "
                    f"for {self._seconds / 60:g} minutes at most"
                )
        return monotonic() - self._since >= self._seconds

    def expire(self) -> None:
        """Lets the next failure be the last: there is no later attempt."""
        self._seconds = 0.0

    def worked(self, line: str) -> None:
        """Notes that writing works, and says a line where it did not before."""
        if self._since is not None:
            self._since = None
            self._say(line)
