"""Evaluates networks on a split, exactly, on any number of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kdaug_jax import metrics
from kdaug_jax.data import Split, eval_batches
from kdaug_jax.experiment import views
from kdaug_jax.experiment.networks import Network
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Batch, Clock, Info, TrainState


def make_eval(
    network: Network, view: views.Plan, info: Info, replicated: jax.sharding.NamedSharding
) -> Callable[[Any, Batch], dict[str, Any]]:
    """Makes the jitted function that evaluates one network on one batch.

    Args:
      network: in inference mode, BatchNorm branch 0.
      view: what is done to the images first, see `eval.view`.
      info: facts of the training split.
      replicated: sharding of the result.

    Returns:
      `f(variables, batch) -> {"accuracy": (sum, count), "nll": (sum, count)}`.
    """
    values, _ = views.hparams((view,))
    zero = np.zeros((), np.int32)
    # Evaluation views are the same in every epoch and for every seed.
    clock = Clock(np.zeros((), np.uint32), zero, zero)

    def evaluate(variables, batch: Batch):
        seen = views.make((view,), clock, batch, values, info, 1)[view.name]
        outputs, _ = network.model.apply(variables, seen.image, train=False)
        return {
            "accuracy": metrics.accuracy(outputs.logits, seen.label, seen.mask),
            "nll": metrics.nll(outputs.logits, seen.label, seen.mask),
        }

    return jax.jit(sharding.within(replicated.mesh, evaluate), out_shardings=replicated)


def run(
    evaluate: Callable[[Any, Batch], dict[str, Any]],
    variables: Any,
    split: Split,
    batch_size: int,
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Evaluates a network on a whole split.

    Args:
      evaluate: what `make_eval` made.
      variables: the network's.
      split: the examples.
      batch_size: rows a batch, at most as many as the split has, rounded up to what the devices
        share evenly; the last batch is filled up with rows that do not count.
      mesh: the devices.
      check: called before each batch; may raise to end the evaluation.

    Returns:
      Means by metric name.
    """
    total = None
    batch_size = -(-min(batch_size, len(split)) // mesh.size) * mesh.size
    for batch in eval_batches(split, batch_size, sharding.local_rows(mesh, batch_size)):
        check()
        part = sharding.settle(evaluate(variables, sharding.put_batch(mesh, batch)))
        total = part if total is None else jax.tree.map(jax.numpy.add, total, part)
    pairs = jax.device_get(total)
    return {name: float(sum_) / float(count) for name, (sum_, count) in pairs.items()}


def variables_of(state: TrainState, network: str) -> Mapping[str, Any]:
    """Gives a trained network's variables for inference: the averaged ones where they are kept."""
    source = state.ema or {"params": state.params, "network_state": state.network_state}
    return {
        "params": source["params"][network], "batch_stats": source["network_state"][network]
    }


# What `make_eval` computes.
METRICS = ("accuracy", "nll")


def main_network(trained: Sequence[str]) -> str:
    """Gives the network whose results carry no name of their own: the student, or the first."""
    return "student" if "student" in trained else trained[0]


def named(found: Mapping[str, float], split: str, network: str, main: str) -> dict[str, float]:
    """Gives results their full names, `eval/<split>/[<network>/]<metric>`."""
    middle = "" if network == main else f"{network}/"
    return {f"eval/{split}/{middle}{name}": value for name, value in found.items()}
