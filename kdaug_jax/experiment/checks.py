"""Whether views, networks and terms fit each other, told in one line before any device work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment.terms import Plan as Term
from kdaug_jax.experiment.views import Plan, networks_of, picks, rows_after


def check_picks(plans: Sequence[Plan], networks: Sequence[str]) -> None:
    """Refuses networks that are not there.

    Raises:
      ConfigError: see above.
    """
    for plan, call in picks(plans):
        for name in networks_of(call):
            if name not in networks:
                raise ConfigError(
                    f"views.{plan.name}.{call.role}", f"no network '{name}'", near(name, networks)
                )


def check_pools(plans: Sequence[Plan], full: Mapping[str, Any]) -> None:
    """Refuses pools of which nothing is left, and rows that micro-batches cannot share.

    Raises:
      ConfigError: see above.
    """
    batch, group = full["data"]["batch_size"], full["train"]["group_size"]
    for plan in plans:
        for end, last in enumerate(plan.rows, 1):
            left = rows_after(plan.rows[:end], group or batch)
            if left < 1:
                before = rows_after(plan.rows[: end - 1], group or batch)
                raise ConfigError(
                    f"{last.pick}.keep", f"{last.factor:g} of {before} rows leaves none",
                    f"keep at least {1 / before:.3g}",
                )
        parts = full["train"]["accumulate"]
        if not group and rows_after(plan.rows, batch) % parts:
            raise ConfigError(
                f"views.{plan.name}",
                f"has {rows_after(plan.rows, batch)} rows, which {parts} micro-batches cannot "
                "share evenly", "change keep, data.batch_size or train.accumulate",
            )


def check_joint(term: Term, plans: Mapping[str, Plan], branches: Mapping[str, int]) -> None:
    """Refuses views with other examples or other labels, and members alike only in part.

    Raises:
      ConfigError: see above.
    """
    where, first = f"terms.{term.name}", term.views[0]
    for view in term.views:
        if plans[view].rows != plans[first].rows:
            raise ConfigError(
                f"{where}.on", f"views '{first}' and '{view}' have other rows",
                f'start both from one pool, as view("{first}")',
            )
        if _labelled_by(plans[view], plans) != _labelled_by(plans[first], plans):
            raise ConfigError(
                f"{where}.on", f"views '{first}' and '{view}' are not labelled alike",
                "start both from one mixed view, or mix neither",
            )
    members = {(pair.split("@")[0], branches[pair.split("@")[1]]) for pair in term.student}
    if len(members) not in (1, len(term.views)):
        raise ConfigError(
            f"{where}.on", f"its {len(term.views)} views have {len(members)} BatchNorm branches",
            "give each view a branch of its own, or all one",
        )


def _labelled_by(plan: Plan, plans: Mapping[str, Plan]) -> str:
    """Names the view that mixed a view's labels last, "" if they are those of the data."""
    while plan.mixes and all(call.stage.form != "group" for call in plan.calls):
        plan = plans[plan.source]
    return plan.name if plan.mixes else ""


def check_term(
    term: Term, plans: Mapping[str, Plan], branches: Mapping[str, int], full: Mapping[str, Any]
) -> None:
    """Refuses views that do not suit a term: other rows for its teacher, too small groups.

    Raises:
      ConfigError: see above.
    """
    where = f"terms.{term.name}"
    if term.term.joint:
        check_joint(term, plans, branches)
    for view in term.views:
        if term.term.once and plans[view].rows:
            raise ConfigError(
                f"{where}.on", f"view '{view}' may hold an example twice",
                "put it on a view without repeat and pick",
            )
        if term.term.once and plans[view].mixes:
            raise ConfigError(
                f"{where}.on", f"images of view '{view}' are mixed, and what is kept for an "
                "example is of one image", "put it on a view without mixing",
            )
    for view, teachers in zip(term.views, term.teachers, strict=True):
        for pair in teachers:
            other = pair.split("@")[1]
            if plans[view].rows != plans[other].rows:
                raise ConfigError(
                    f"{where}.teacher", f"'{pair}' sees other rows than view '{view}' has",
                    f'start both from one pool, as view("{view}")',
                )
    group = full["train"]["group_size"]
    size = group or full["data"]["batch_size"] // full["train"]["accumulate"]
    view = min(term.views, key=lambda name: rows_after(plans[name].rows, size))
    left = rows_after(plans[view].rows, size)
    if left < term.term.least:
        path = "train.group_size" if group else "data.batch_size"
        picked = f", which is what view '{view}' keeps of {size}" if left < size else ""
        raise ConfigError(
            where, f"'{full['terms'][term.name]['loss']}' compares examples and "
            f"{path} gives it groups of {left}{picked}", f"it needs at least {term.term.least}",
        )
