"""A trace of some steps for TensorBoard's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from kdaug_jax.training.setup import Setup


class Profile:
    """Writes a trace of the steps of `train.profile`, in process 0, into `tensorboard/`.

    Use it as a context manager around the calls: a run that ends earlier has its trace too.

    Args:
      setup: the run.
      say: prints a line.
    """

    def __init__(self, setup: Setup, say: Callable[[str], None]):
        steps = setup.first.config["train"]["profile"]
        self._steps = range(*steps) if steps and jax.process_index() == 0 else range(0)
        self._folder, self._say = setup.directory / "tensorboard", say
        self._running = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._running:
            self._end()

    def between_calls(self, step: int, results: Any) -> None:
        """Begins or ends the trace where it is due.

        Args:
          step: steps taken.
          results: of the last call, which is waited for so that the trace holds whole calls.
        """
        if (step in self._steps) == self._running:
            return
        jax.block_until_ready(results)
        if self._running:
            self._end()
        else:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def _end(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        self._say(f"profile: {self._folder / 'plugins' / 'profile'}; "
                  f"pip install tensorboard xprof, then tensorboard --logdir={self._folder}")
