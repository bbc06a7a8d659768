"""Resolves losses by name and turns plain ones into terms, so that the step knows one form.

The forms of a loss, and what their arguments mean, are described in `kdaug_jax.losses.term`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax import registry
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment.binding import options
from kdaug_jax.losses import LOSSES
from kdaug_jax.losses.arrays import masked_mean, split_groups
from kdaug_jax.losses.term import Loss, Term, TermInput

ROLES: dict[str, Callable[[TermInput], Any]] = {
    "student": lambda item: item.student.logits,
    "teacher": lambda item: item.teacher.logits,
    "labels": lambda item: item.view.target,
    "student_features": lambda item: item.student.features,
    "teacher_features": lambda item: item.teacher.features,
}


def as_term(loss: Loss) -> Term:
    """Returns a plain loss as a term: summed over views and features, averaged over examples.

    Args:
      loss: the function, and what it works on.

    Returns:
      A term without parameters or state; a loss of one value a group is averaged over groups.
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
    return Term(
        init, apply, roles, features=bool(loss.features), min_group=loss.min_group, plain=plain
    )


def _arguments(use: str, roles: Sequence[str], item: TermInput) -> Iterator[dict[str, Any]]:
    """Yields the arguments by role of each call on a view: one call, or one a feature."""
    chosen = {"student": item.chosen_student, "teacher": item.chosen_teacher}
    if use == "each":
        calls = [dict(zip(chosen, pair, strict=True)) for pair in zip_longest(*chosen.values())]
    else:
        calls = [chosen if use else {}]
    for call in calls:
        yield {role: call[role] if role in call else ROLES[role](item) for role in roles}


def _mean(
    function: Callable[..., Any], arrays: Mapping[str, Any], mask: jax.Array, groups: int,
    options: Mapping[str, Any],
) -> jax.Array:
    """Averages a loss over examples or, where it returns one value a group, over groups."""

    def call(*values: Any) -> Any:
        return function(**dict(zip(arrays, values, strict=True)), **options)

    if groups > 1:
        # Relational losses compare examples, and may do so only inside their group.
        value = jax.vmap(call)(*split_groups(tuple(arrays.values()), groups))
        mask = split_groups(mask, groups)
    else:
        value = call(*arrays.values())
    legal = (mask.shape, mask.shape[:1] if groups > 1 else ())
    if not isinstance(value, jax.Array) or value.shape not in legal:
        result = f"an array of shape {list(value.shape)}" if isinstance(value, jax.Array) else (
            f"a {type(value).__name__}"
        )
        raise ArgumentError(
            f"{getattr(function, '__name__', 'the loss')} returned {result} for a batch of "
            f"{list(mask.shape)}",
            "return an array of one value an example, or of one value",
        )
    value = value.astype(jnp.float32)  # a mean of bfloat16 has 8 bits
    return masked_mean(value, mask) if value.shape == mask.shape else jnp.mean(value)


def _roles(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(function).parameters if name in ROLES)


def resolve(where: str, loss: str) -> tuple[Term, Callable[..., Any], Sequence[str] | int]:
    """Resolves a loss by its name in the table, or `package.module:attribute`.

    Args:
      where: config path of the name, for messages.
      loss: the name.

    Returns:
      The term, the function whose signature holds the options, and the leading parameters that
      are not options.

    Raises:
      ConfigError: there is no such loss, or the name stands for something else.
    """
    row = registry.resolve(where, "loss", loss, LOSSES)
    if isinstance(row, Term):
        return row, row.apply, 4
    row = row if isinstance(row, Loss) else Loss(row)
    _check_signature(where, loss, row.function)
    term = as_term(row)
    # What a user's loss returns is validated before anything is trained.
    term = term._replace(plain=term.plain and not registry.is_import(loss))
    return term, row.function, tuple(ROLES)


def _check_signature(where: str, loss: str, function: Any) -> None:
    """Validates that a function has readable arguments, at least one of which is a role."""
    try:
        roles = _roles(function)
    except (TypeError, ValueError) as error:  # not callable, or built in without a signature
        raise ConfigError(
            where,
            f"'{loss}' is of type {type(function).__name__}, which is not a readable function",
            "name a function, a Loss or a Term",
        ) from error
    if not roles:
        raise ConfigError(
            where, f"'{loss}' has no argument that it could be given",
            "name at least one of " + ", ".join(ROLES),
        )
    for name, parameter in inspect.signature(function).parameters.items():
        positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        if positional and parameter.default is inspect.Parameter.empty and name not in ROLES:
            raise ConfigError(
                where, f"argument '{name}' of '{loss}' is no role",
                f"roles are {', '.join(ROLES)}; write options after a *",
            )


def defaults(loss: str) -> dict[str, Any]:
    """Returns the options of a loss of the table that have defaults, for the config to show."""
    if loss not in LOSSES:
        return {}
    term, signature, skip = resolve("terms", loss)
    shown = {
        name: option.default for name, option in options(signature, skip).items()
        if option.default is not inspect.Parameter.empty
    }
    return {"features": (), **shown} if term.features else shown
