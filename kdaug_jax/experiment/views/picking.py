"""Scores a pool of views with networks and keeps the rows that score highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from kdaug_jax import rng
from kdaug_jax.experiment.networks import Network
from kdaug_jax.experiment.views.language import Call, ViewSpec
from kdaug_jax.experiment.views.pools import Rows, rows_after
from kdaug_jax.losses import PICKERS, hardest, kept_ratio, kl_score
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Clock, Outputs, View

Pair = tuple[jax.Array, jax.Array]


class Pool(NamedTuple):
    """A view before its `pick`.

    Attributes:
      name: of the view.
      view: `[G*P,...]`, its rows so far, P in each of the G groups.
      draws: how many draws of an example lie side by side.
      groups: G.
    """

    name: str
    view: View
    draws: int
    groups: int


class Picked(NamedTuple):
    """What a `pick` keeps of a pool.

    Attributes:
      kept: `i32[G,K]`, rows of each group, counted within it.
      outputs: of the frozen networks for the kept rows, by network.
      metrics: `(sum, count)` by name.
    """

    kept: jax.Array
    outputs: dict[str, Outputs]
    metrics: dict[str, Pair]


class Scorer(NamedTuple):
    """The networks that may score a pool, and the position in the run.

    Attributes:
      networks: by name.
      variables: `{network: {"params", "batch_stats"}}`.
      branches: `{view: BatchNorm branch}`.
      clock: position in the run.
    """

    networks: Mapping[str, Network]
    variables: Mapping[str, Any]
    branches: Mapping[str, int]
    clock: Clock


def networks_of(call: Call) -> tuple[str, ...]:
    """Returns the names of the networks that a `pick` scores with, the teacher's first."""
    static = call.bound.static
    needed = {
        "teacher": static["by"] != "student_entropy" or static["ratio"],
        "student": static["by"] != "teacher_entropy" or static["ratio"],
    }
    return tuple(static[role] for role, scores in needed.items() if scores)


def picks(specs: Sequence[ViewSpec]) -> tuple[tuple[ViewSpec, Call], ...]:
    """Returns the `pick` calls of some views."""
    return tuple(
        (spec, call) for spec in specs for call in spec.calls if call.stage.form == "pick"
    )


def choose(scorer: Scorer, call: Call, pool: Pool, traced: Mapping[str, Any]) -> Picked:
    """Chooses the rows of a pool that are kept.

    Args:
      scorer: the run's networks.
      call: the `pick`.
      pool: the view so far.
      traced: the call's traced numbers.

    Returns:
      The kept rows; no gradient flows to them.
    """
    static, view, groups = call.bound.static, pool.view, pool.groups
    outputs: dict[str, Outputs] = {}
    order = Ordering(scorer.clock.step)  # the networks run one after another
    for name in networks_of(call):
        outputs[name] = _forward(scorer, name, call, pool, order.after(view.image))
        order.done(outputs[name].logits)
    logits = [
        outputs[static[role]].logits if static[role] in outputs else None
        for role in ("student", "teacher")
    ]
    temperature = traced["temperature"]
    score_by = PICKERS[static["by"]]
    if static["by"] == "kl":
        score = distance = score_by(*logits, temperature=temperature)
    else:
        score = score_by(*logits)
        distance = kl_score(*logits, temperature=temperature) if static["ratio"] else None
    rows = view.index.shape[0] // groups
    score = jnp.where(view.mask, score, -jnp.inf)  # rows that only fill up go first
    keep = rows_after((Rows(static["keep"]),), rows)
    kept = jax.vmap(lambda scores: hardest(scores, keep))(score.reshape(groups, rows))
    metrics = {}
    if static["ratio"]:
        distance = jnp.where(view.mask, distance, 0.0)
        everywhere = kept + rows * jnp.arange(groups, dtype=kept.dtype)[:, None]
        metrics["ratio"] = kept_ratio(distance, everywhere.reshape(-1)), jnp.float32(1)
    frozen = {
        name: take(of_pool, kept) for name, of_pool in outputs.items()
        if not scorer.networks[name].trainable
    }
    return Picked(kept, frozen, metrics)


def _forward(scorer: Scorer, name: str, call: Call, pool: Pool, image: jax.Array) -> Outputs:
    """Runs one network on a pool without gradient; BatchNorm updates are discarded."""
    network = scorer.networks[name]
    branches, groups = (0,), 1
    if network.trainable:
        branches, groups = (scorer.branches[pool.name],) * pool.draws, pool.groups
    outputs, _ = network.model.apply(
        scorer.variables[name], image, train=network.trainable, branches=branches, groups=groups,
        key=rng.batch_key(scorer.clock, f"view/{pool.name}/{call.role}/{name}"),
    )
    return jax.lax.stop_gradient(outputs)


def take(tree: Any, kept: jax.Array) -> Any:
    """Returns rows `i32[G,K]` of each group from arrays `[G*P,...]`, as arrays `[G*K,...]`."""

    def rows_of(array: jax.Array) -> jax.Array:
        # Group by group, so that groups stay on their devices.
        grouped = rearrange(array, "(g p) ... -> g p ...", g=kept.shape[0])
        taken = jax.vmap(lambda rows, which: rows[which])(grouped, kept)
        return rearrange(taken, "g k ... -> (g k) ...")

    return jax.tree.map(rows_of, tree)
