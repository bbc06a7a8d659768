"""Many runs through one compiled step; a plain run is a population of one.

The members of a population differ in traced hparams only (weights, magnitudes, rates, seeds), so
they share the program, the batches and the compiled step. Form `loop`: the members take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax.data import Feed
from kdaug_jax.experiment.members import Member, hparams, members
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding
from kdaug_jax.training.step import make_train_step
from kdaug_jax.types import Hparams, Outputs, TrainState

__all__ = ["Member", "SharedCall", "advance", "hparams", "make_call", "make_shared_call", "maker",
           "members", "steps_per_call"]


class SharedCall(NamedTuple):
    """The calls of a population whose members share the outputs of frozen networks.

    Attributes:
      call: what `make_call` made, compiled or not.
      teach: `teach(step, frozen, constants, items, hparams) -> given`, for all members that see the
        same views.
    """

    call: Callable[..., tuple[TrainState, Any]]
    teach: Callable[..., dict[str, Outputs]]

    def lower(
        self, state: TrainState, frozen: Mapping[str, Any], constants: Any, items: Any,
        hparams: Hparams,
    ) -> SharedCall:
        """Returns both with `teach` compiled and `call` lowered for what it gives."""
        inputs = frozen, constants, items, hparams
        teach = self.teach.lower(state.step, *inputs).compile()
        given = jax.tree.map(
            lambda array, where: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where),
            jax.eval_shape(self.teach, state.step, *inputs), teach.output_shardings,
        )
        return SharedCall(self.call.lower(state, *inputs, given), teach)

    def compile(self) -> SharedCall:
        """Returns both compiled."""
        return SharedCall(self.call.compile(), self.teach)


def steps_per_call(
    configured: int, intervals: Sequence[int], item_bytes: int, stage_bytes: int, backend: str
) -> int:
    """Chooses how many optimiser steps one call takes.

    Args:
      configured: `train.steps_per_call`; 0 chooses.
      intervals: steps, or intervals of steps, at which the loop has something to do.
      item_bytes: of the images that a process sends to its devices for a step, 0 for none.
      stage_bytes: `data.stage_gb` in bytes, for the call that runs and the next together.
      backend: the platform of the devices, such as "cpu".

    Returns:
      1 on a CPU, see `make_call`; elsewhere the largest number up to 100 that divides all intervals
      and whose batches may be staged, at least 1.
    """
    if configured or backend == "cpu":
        return configured or 1
    common = math.gcd(*intervals)
    most = min(common, 100)
    if item_bytes:
        most = min(most, max(stage_bytes // (2 * item_bytes), 1))
    return max(n for n in range(1, most + 1) if common % n == 0)


def make_call(
    program: Program, feed: Feed, steps: int, replicated: jax.sharding.NamedSharding
) -> Callable[..., tuple[TrainState, Any]]:
    """Makes the jitted function that runs some steps of one member.

    Args:
      program: the phase.
      feed: where batches come from.
      steps: optimiser steps a call. More than one runs as `lax.scan`, which saves dispatch on
        accelerators; on CPU the gradient of a convolution in a rolled loop is about 29 times
        slower, so one step a call is right there.
      replicated: sharding of what every device holds whole, on the devices of the run.

    Returns:
      `call(state, frozen, constants, items, hparams, given={}) -> (state, metrics)`; items, metrics
      and `given`, outputs of `network@view` pairs that are not run, have a leading axis of length
      `steps`. The state is donated.
    """
    step = make_train_step(program)

    def call(state: TrainState, frozen, constants, items, hparams: Hparams, given=None):
        def body(state, inputs):
            item, given = inputs
            return step(state, frozen, feed.batch(constants, item), hparams, given)

        inputs = items, given or {}
        if steps > 1:
            return jax.lax.scan(body, state, inputs)
        state, metrics = body(state, jax.tree.map(lambda array: array[0], inputs))
        return state, jax.tree.map(lambda array: array[None], metrics)

    within = sharding.within(replicated.mesh, call)
    lies = program.state_shardings(replicated.mesh)
    return jax.jit(within, donate_argnums=0, out_shardings=(lies, replicated))


def maker(program: Program) -> Callable[..., Any]:
    """Returns `make_call`, or `make_shared_call` where `train.share_teacher` is set."""
    return make_shared_call if program.config["train"]["share_teacher"] else make_call


def make_shared_call(
    program: Program, feed: Feed, steps: int, replicated: jax.sharding.NamedSharding
) -> SharedCall:
    """Makes the functions that run some steps of members with shared outputs of frozen networks.

    Args:
      program: see `make_call`, as the other arguments.
      feed: where batches come from.
      steps: optimiser steps a call.
      replicated: sharding of what every device holds whole.

    Returns:
      A call for `advance`, to be lowered and compiled as that of `make_call`.
    """

    def teach(step, frozen, constants, items, hparams: Hparams):
        def body(step, item):
            clock = program.clock(step, hparams)
            return step + 1, program.run_frozen(
                clock, feed.batch(constants, item), hparams, frozen
            )

        # Rolled up, only gradients of convolutions are slow on a CPU.
        return jax.lax.scan(body, step, items)[1]

    within = sharding.within(replicated.mesh, teach)
    return SharedCall(make_call(program, feed, steps, replicated), jax.jit(within))


def advance(
    call: Callable[..., tuple[TrainState, Any]],
    states: Sequence[TrainState],
    frozen: Mapping[str, Any],
    constants: Any,
    items: Sequence[Any],
    hparams: Sequence[Hparams],
    given: Mapping[str, Outputs] | None = None,
    failed: Collection[int] = (),
) -> tuple[list[TrainState], list[Any]]:
    """Runs one call of every member on the same examples.

    Args:
      call: what `make_call` or `make_shared_call` made, compiled or not.
      states: one a member; donated.
      frozen: variables of the frozen networks, shared by all members.
      constants: arrays of the feed that stay on the devices, shared by all members.
      items: what the feed sends for the steps of this call, one entry a member: the same examples,
        whose host crops may differ.
      hparams: traced hparams, one dict a member.
      given: outputs of `network@view` pairs that are not run, shared by all members; see
        `make_call`.
      failed: numbers of members that keep their state.

    Returns:
      New states and metrics, one a member; None for metrics of members that keep their state.
    """
    taught: dict[bytes, Mapping[str, Outputs]] = {}
    results = []
    for number, (state, item, member) in enumerate(zip(states, items, hparams, strict=True)):
        if number in failed:
            results.append((state, None))
            continue
        inputs, extra = (frozen, constants, item, member), () if given is None else (given,)
        run = call
        if isinstance(call, SharedCall):
            run, seen = call.call, _seen(member)
            if seen not in taught:
                taught[seen] = sharding.settle(call.teach(state.step, *inputs))
            extra = ({**taught[seen], **(given or {})},)
        results.append(sharding.settle(run(state, *inputs, *extra)))
    return [state for state, _ in results], [metrics for _, metrics in results]


def _seen(hparams: Hparams) -> bytes:
    """Returns what decides the views of a member: its seed and the numbers of its views."""
    return b"".join(
        np.asarray(value).tobytes() for path, value in sorted(hparams.items())
        if path == "seed" or path.startswith("views.")
    )
