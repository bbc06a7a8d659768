"""The training step: views, networks, terms, gradients, update. Start reading here.

The step executes whatever a program holds. What distinguishes one experiment from another is in
its views, networks, terms and optimiser, never in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdaug_jax.experiment import reached
from kdaug_jax.experiment.parts import Changes, changed, changes
from kdaug_jax.experiment.program import Program
from kdaug_jax.losses.term import is_update, written
from kdaug_jax.runtime.platform import target_platform
from kdaug_jax.types import Batch, Hparams, Outputs, TrainState

Metrics = dict[str, tuple[jax.Array, jax.Array]]
Step = Callable[..., tuple[TrainState, Metrics]]

# Metric that names what is not finite: 0 nothing, t+1 the t-th term, T+1 gradient or update.
FAULT = "fault"


def make_train_step(program: Program) -> Step:
    """Makes the pure function of one training step.

    Args:
      program: the experiment, or one phase of it.

    Returns:
      `step(state, frozen, batch, hparams, given={}) -> (state, metrics)`. `frozen` holds the
      variables of the networks that are not trained, `hparams` every traced number by path, and
      `given` outputs of `network@view` pairs that are then not run. Metrics are pairs
      (sum, count). A step whose loss, gradient or update is not finite changes nothing but the step
      counter and is reported in `metrics["fault"]`.
    """

    def step(
        state: TrainState,
        frozen: Mapping[str, Any],
        batch: Batch,
        hparams: Hparams,
        given: Mapping[str, Outputs] | None = None,
    ) -> tuple[TrainState, Metrics]:
        clock = program.clock(state.step, hparams)
        variables = program.variables(state.params, state.network_state, frozen)
        views, given, view_metrics = program.make_views(
            clock, batch, hparams, variables, given or {}
        )

        def gradients(network_state, term_state, part):
            number, views, given = part
            context = program.context(views, clock.replace(part=number), hparams)

            def losses(params):
                outputs, new_network_state = program.run_networks(
                    params, network_state, frozen, given, context
                )
                sums, raw, new_term_state, metrics = program.compute_terms(
                    params["terms"], term_state, outputs, context
                )
                return sums, (raw, new_network_state, new_term_state, metrics)

            # One forward pass; one backward pass for each group of terms that is kept apart.
            sums, pullback, (raw, *states, metrics) = jax.vjp(losses, state.params, has_aux=True)
            grads = reached.gradients(pullback, sums)
            return (grads, sums, raw, metrics), *states

        (grads, sums, raw, metrics), network_state, term_state = _over_parts(
            program, gradients, state, views, given
        )
        grads, moving = reached.completed(grads, state.params)
        chain = program.transformation(hparams, clock, moving)
        updates, opt_state = chain.update(grads, state.opt_state, state.params)
        updated = state.replace(
            params=optax.apply_updates(state.params, updates),
            network_state=reached.statistics(moving, state.network_state, network_state),
            term_state=term_state,
            opt_state=opt_state,
        )
        updated = updated.replace(ema=program.average(hparams, updated))

        norms = program.gradient_norms(hparams, clock, grads)
        norms["update_norm"] = optax.tree.norm(updates)
        fault = _fault(program, raw, sum(norms.values()))
        kept = _keep(updated, state, fault == 0)
        loss = sum(sums.values())
        metrics = {
            "train/loss": _single(loss),
            **{f"train/{name}": _single(raw[i]) for i, name in enumerate(program.active_names)},
            **{f"train/{name}": pair for name, pair in {**view_metrics, **metrics}.items()},
            "optim/lr": _single(program.learning_rate(hparams, state.step)),
            **{f"optim/{name}": _single(norm) for name, norm in norms.items()},
            FAULT: _single(fault),
        }
        return kept.replace(step=state.step + 1), metrics

    return step


def _over_parts(program: Program, gradients, state: TrainState, views, given):
    """Averages gradients and losses over the micro-batches of a step, one after another.

    All begin from the same state, which is updated once, so that their number changes no result.
    """
    count = program.accumulate
    if count == 1:
        return gradients(state.network_state, state.term_state, (0, views, given))
    parts = jnp.arange(count), *program.split((views, given))

    def compute(part):
        results, *states = gradients(state.network_state, state.term_state, part)
        differences, latest, kept = changes(state, *states)
        return (results, differences), latest, kept

    first = jax.tree.map(lambda array: array[0], parts)
    shapes, latest, _ = jax.eval_shape(compute, first)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes, latest))

    def add(carry, part):
        results, latest, kept = compute(part)
        return (jax.tree.map(jnp.add, carry[0], results), latest), kept

    # Rolled up, gradients of convolutions are about 29 times slower on a CPU.
    unroll = target_platform() == "cpu"
    (totals, latest), kept = jax.lax.scan(add, start, parts, unroll=unroll)
    (grads, sums, raw, metrics), differences = totals
    grads, sums, raw, differences = jax.tree.map(
        lambda array: array / count, (grads, sums, raw, differences)
    )
    return (grads, sums, raw, metrics), *changed(state, Changes(differences, latest, kept))


def _keep(updated: TrainState, state: TrainState, keep: jax.Array) -> TrainState:
    """Returns the updated state, or the old one where `keep` is False."""

    def choose(new, old):
        return written(new, keep) if is_update(new) else jnp.where(keep, new, old)

    return jax.tree.map(choose, updated, state, is_leaf=is_update)


def _fault(program: Program, raw: jax.Array, norm: jax.Array) -> jax.Array:
    finite = jnp.isfinite(jnp.append(raw, norm))
    good, number = jnp.all(finite), jnp.argmin(finite)
    if program.left_out:
        names = program.term_names
        number = jnp.asarray([*map(names.index, program.active_names), len(names)])[number]
    return jnp.where(good, 0, 1 + number).astype(jnp.int32)


def _single(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    return value, jnp.ones((), jnp.float32)
