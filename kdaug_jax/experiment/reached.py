"""Which parameters the losses of a phase reach; all others do not move.

A parameter is reached if its gradient depends on the loss at all, whatever its value. This is read
from the backward pass as it is traced. What is not reached has no gradient to be followed: weight
decay, old momenta and BatchNorm would move it nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from kdaug_jax.runtime.weight_cuts import path_names


def gradients(pullback: Callable[[Any], Any], sums: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Computes the gradient of each group of terms.

    Args:
      pullback: second result of `jax.vjp` of a function of the parameters that returns `sums`.
      sums: `{group: f32[]}`.

    Returns:
      `{group: tree}`. Parameters that no group reaches are `optax.MaskedNode()`, in each group.
    """

    def pull(cotangent: jax.Array) -> dict[str, Any]:
        return {
            group: pullback({
                other: cotangent if other == group else jnp.float32(0) for other in sums
            })[0]
            for group in sums
        }

    unit = jnp.float32(1)
    traced, shapes = jax.make_jaxpr(pull, return_shape=True)(unit)
    structure = jax.tree.structure(shapes)
    trees = structure.unflatten(core.jaxpr_as_fun(traced)(unit))
    reached = structure.unflatten(_dependent(traced.jaxpr)).values()
    moving = jax.tree.map(lambda *groups: any(groups), *reached)
    return {
        group: jax.tree.map(lambda moves, leaf: leaf if moves else optax.MaskedNode(), moving, tree)
        for group, tree in trees.items()
    }


def _dependent(jaxpr: core.Jaxpr) -> list[bool]:
    """Returns for each output of a traced function whether it depends on the function's inputs."""
    dependent = set(jaxpr.invars)

    def depends(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in dependent

    for equation in jaxpr.eqns:
        if any(map(depends, equation.invars)):
            dependent.update(equation.outvars)
    return list(map(depends, jaxpr.outvars))


def completed(grads: Mapping[str, Any], params: Any) -> tuple[dict[str, Any], Any]:
    """Fills in the gradients that `gradients` left out.

    Args:
      grads: see `gradients`.
      params: all parameters.

    Returns:
      The gradients with zeros for parameters that are not reached, and a tree like `params` of
      whether each is.
    """
    first = next(iter(grads.values()))
    moving = jax.tree.map(
        lambda leaf: not isinstance(leaf, optax.MaskedNode), first, is_leaf=_is_masked
    )
    full = {
        group: jax.tree.map(
            lambda moves, leaf, value: leaf if moves else jnp.zeros_like(value),
            moving, tree, params,
        )
        for group, tree in grads.items()
    }
    return full, moving


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def held(chain: optax.GradientTransformation, moving: Any) -> optax.GradientTransformation:
    """Returns a chain that keeps parameters, and what the optimiser knows of them, as they are.

    Args:
      chain: of the optimiser.
      moving: tree like the parameters of whether each moves.

    Returns:
      The chain itself if all do. A number of the optimiser's state belongs to a parameter if its
      path ends with that of the parameter.
    """
    if all(jax.tree.leaves(moving)):
        return chain
    still = {path_names(path) for path, moves in jax.tree.leaves_with_path(moving) if not moves}

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, new_state = chain.update(grads, state, params)
        updates = jax.tree.map(
            lambda moves, leaf: leaf if moves else jnp.zeros_like(leaf), moving, updates
        )

        def choose(path, old, new):
            names = path_names(path)
            return old if any(names[start:] in still for start in range(len(names))) else new

        return updates, jax.tree.map_with_path(choose, state, new_state)

    return optax.GradientTransformation(chain.init, update)


def statistics(moving: Mapping[str, Any], old: Any, new: Any) -> Any:
    """Returns BatchNorm statistics, new ones only of layers whose parameters move.

    Args:
      moving: tree like the parameters of whether each moves.
      old: `{network: batch_stats}` before the step.
      new: the same after it.

    Returns:
      The same tree. A layer without parameters follows the module that it is part of.
    """
    moves = {path_names(path): value for path, value in jax.tree.leaves_with_path(moving)}
    if all(moves.values()):
        return new

    def choose(path, before, after):
        names = path_names(path)[:-1]
        while names:
            inside = [value for name, value in moves.items() if name[: len(names)] == names]
            if inside:
                return after if any(inside) else before
            names = names[:-1]
        return after

    return jax.tree.map_with_path(choose, old, new)
