"""What the networks and the loss terms of one step are computed with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kdaug_jax.types import Clock, Hparams, Info, View


class StepContext(NamedTuple):
    """Everything beside parameters and state that one micro-batch of a step depends on.

    Attributes:
      views: the made views by name.
      branches: BatchNorm branch of each view; frozen networks use branch 0.
      clock: position in the run.
      hparams: traced numbers by config path.
      info: facts of the training split.
      groups: number of groups that the rows of a view fall into, each of which has BatchNorm
        statistics and relational losses of its own (see `train.replica_batch_size`).
      parts: number of micro-batches of the step, of which this is one.
    """

    views: Mapping[str, View]
    branches: Mapping[str, int]
    clock: Clock
    hparams: Hparams
    info: Info
    groups: int
    parts: int = 1
