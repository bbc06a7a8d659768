"""Finds losses by name and lifts plain ones to terms, so that the step knows one form."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError, ConfigError, suggest
from kdaug_jax.experiment.binding import options
from kdaug_jax.losses import LOSSES
from kdaug_jax.losses.term import Loss, Term, TermInput

ROLES: dict[str, Callable[[TermInput], Any]] = {
    "student": lambda item: item.student.logits,
    "teacher": lambda item: item.teacher.logits,
    "labels": lambda item: item.view.target,
    "student_features": lambda item: item.student.features,
    "teacher_features": lambda item: item.teacher.features,
}


def as_term(loss: Loss) -> Term:
    """Makes a term of a plain loss: summed over views and features, averaged over examples or groups.

    Args:
      loss: the function, and what it is given.

    Returns:
      A term without parameters or state.
    """
    roles = _roles(loss.function)

    def init(key, inputs, info, **options):
        return {}, {}

    def apply(params, state, inputs, context, **options):
        total = jnp.zeros((), jnp.float32)
        for item in inputs:
            for arrays in _arguments(loss.features, roles, item):
                total += _mean(loss.function, arrays, item.view.mask, context.groups, options)
        return total, state, {}

    plain = not loss.features and loss.min_group == 1
    return Term(init, apply, roles, features=bool(loss.features), min_group=loss.min_group, plain=plain)


def _arguments(use: str, roles: Sequence[str], item: TermInput) -> Iterator[tuple[Any, ...]]:
    """Gives the arguments of each call that a view takes: one, or one a feature."""
    features = {"student": item.student_features, "teacher": item.teacher_features}
    if use == "each":
        calls = [
            dict(zip(features, pair, strict=True)) for pair in zip_longest(*features.values())
        ]
    else:
        calls = [features if use else {}]
    for own in calls:
        yield tuple(own[role] if role in own else ROLES[role](item) for role in roles)


def _mean(function, arrays, mask, groups: int, options) -> jax.Array:
    call = lambda *arrays: function(*arrays, **options)  # noqa: E731
    if groups > 1:
        # Relational losses compare examples, and may do so only inside their group.
        split = lambda array: array.reshape(groups, -1, *array.shape[1:])  # noqa: E731
        value = jax.vmap(call)(*jax.tree.map(split, arrays))
        mask = mask.reshape(groups, -1)
    else:
        value = call(*arrays)
    legal = (mask.shape, mask.shape[:1] if groups > 1 else ())
    if not isinstance(value, jax.Array) or value.shape not in legal:
        gave = f"an array of shape {value.shape}" if isinstance(value, jax.Array) else (
            f"a {type(value).__name__}"
        )
        raise ArgumentError(
            f"{getattr(function, '__name__', 'the loss')} gave {gave} for a batch of {mask.shape}",
            "it must be an array, of one value an example or of none",
        )
    if value.shape != mask.shape:
        return jnp.mean(value)
    kept = mask.astype(jnp.float32)
    return jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(jnp.sum(kept), 1.0)


def _roles(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.name in ROLES)


def resolve(where: str, loss: str) -> tuple[Term, Callable[..., Any], Sequence[str] | int]:
    """Finds a loss by its name in the table or by `package.module:name`.

    Returns:
      The term, the function whose signature holds the options, and the leading parameters that
      are not options.

    Raises:
      ConfigError: there is no such loss.
    """
    if ":" in loss:
        module, _, attribute = loss.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a user's module does when it is imported
            raise ConfigError(
                where, f"cannot import '{loss}' ({error})", "package.module:function"
            ) from error
        _check_form(where, loss, found)
    elif loss in LOSSES:
        found = LOSSES[loss]
    else:
        known = [*LOSSES, "package.module:function"]
        raise ConfigError(where, f"unknown loss '{loss}'", suggest(loss, known))
    if isinstance(found, Term):
        return found, found.apply, 4
    row = found if isinstance(found, Loss) else Loss(found)
    return as_term(row), row.function, tuple(ROLES)


def _check_form(where: str, loss: str, found: Any) -> None:
    """Refuses what a user's name stands for unless it is a term, a loss or a readable function."""
    if isinstance(found, Term):
        return
    function = found.function if isinstance(found, Loss) else found
    try:
        roles = _roles(function)
    except (TypeError, ValueError) as error:  # not callable, or built in without a signature
        raise ConfigError(
            where, f"'{loss}' is a {type(found).__name__} whose arguments cannot be read",
            "name a function, a Loss or a Term",
        ) from error
    if not roles:
        raise ConfigError(
            where, f"'{loss}' has no argument that it could be given",
            "name at least one of " + ", ".join(ROLES),
        )


def defaults(loss: str) -> dict[str, Any]:
    """Gives the options of a loss of the table that have defaults, so that a config shows them."""
    if loss not in LOSSES:
        return {}
    term, signature, skip = resolve("terms", loss)
    found = options(signature, skip)
    shown = {
        name: one.default for name, one in found.items()
        if one.default is not inspect.Parameter.empty
    }
    return {"features": (), **shown} if term.features else shown
