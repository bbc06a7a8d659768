"""Scores a pool of views with networks and chooses the rows that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax import rng
from kdaug_jax.experiment.networks import Network
from kdaug_jax.experiment.views.language import Call, ViewSpec
from kdaug_jax.experiment.views.pools import Rows, rows_after
from kdaug_jax.losses import PICKERS, hardest, kept_ratio, kl_score
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Clock, Outputs, View

Pair = tuple[jax.Array, jax.Array]


class Pool(NamedTuple):
    """What is to be thinned out.

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


class Choice(NamedTuple):
    """What stays of a pool.

    Attributes:
      kept: `i32[G,K]`, rows of each group, counted within it.
      said: what the frozen networks said of the kept rows, by network.
      metrics: `(sum, count)` by name.
    """

    kept: jax.Array
    said: dict[str, Outputs]
    metrics: dict[str, Pair]


class Scorer(NamedTuple):
    """What `choose` needs to know of the run.

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
    """Names the networks that a `pick` asks: teacher first."""
    static = call.bound.static
    asked = {
        "teacher": static["by"] != "student_entropy" or static["ratio"],
        "student": static["by"] != "teacher_entropy" or static["ratio"],
    }
    return tuple(static[role] for role, needed in asked.items() if needed)


def picks(specs: Sequence[ViewSpec]) -> tuple[tuple[ViewSpec, Call], ...]:
    """Lists the `pick` calls of some views."""
    return tuple(
        (spec, call) for spec in specs for call in spec.calls if call.stage.form == "pick"
    )


def choose(scorer: Scorer, call: Call, pool: Pool, traced: Mapping[str, Any]) -> Choice:
    """Chooses the rows of a pool that stay.

    Args:
      scorer: the run's networks.
      call: the `pick`.
      pool: what is to be thinned out.
      traced: the call's traced numbers.

    Returns:
      The choice; no gradient flows to it.
    """
    static, view, groups = call.bound.static, pool.view, pool.groups
    said: dict[str, Outputs] = {}
    for name in networks_of(call):
        said[name] = _ask(scorer, name, call, pool, [one.logits for one in said.values()])
    logits = [
        said[static[role]].logits if static[role] in said else None
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
    kept = jax.vmap(lambda own: hardest(own, keep))(score.reshape(groups, rows))
    metrics = {}
    if static["ratio"]:
        distance = jnp.where(view.mask, distance, 0.0)
        everywhere = kept + rows * jnp.arange(groups, dtype=kept.dtype)[:, None]
        metrics["ratio"] = kept_ratio(distance, everywhere.reshape(-1)), jnp.float32(1)
    frozen = {
        name: take(one, kept) for name, one in said.items()
        if not scorer.networks[name].trainable
    }
    return Choice(kept, frozen, metrics)


def _ask(scorer: Scorer, name: str, call: Call, pool: Pool, first: list[jax.Array]) -> Outputs:
    """Runs one network on a pool; what it would remember of it is dropped."""
    network = scorer.networks[name]
    branches, groups = (0,), 1
    if network.trainable:
        branches, groups = (scorer.branches[pool.name],) * pool.draws, pool.groups
    outputs, _ = network.model.apply(
        scorer.variables[name],
        sharding.after(pool.view.image, first, scorer.clock.step),
        train=network.trainable, branches=branches, groups=groups,
        key=rng.batch_key(scorer.clock, f"view/{pool.name}/{call.role}/{name}"),
    )
    return jax.lax.stop_gradient(outputs)


def take(tree: Any, kept: jax.Array) -> Any:
    """Takes rows `i32[G,K]` of each group's own rows from arrays `[G*P,...]`."""
    groups = kept.shape[0]

    def one(array: jax.Array) -> jax.Array:
        # Group by group, so that groups stay on their devices.
        own = array.reshape(groups, -1, *array.shape[1:])
        found = jax.vmap(lambda rows, which: rows[which])(own, kept)
        return found.reshape(-1, *array.shape[1:])

    return jax.tree.map(one, tree)
