"""Validates that views, networks and terms fit each other, before any device work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment.terms import TermSpec
from kdaug_jax.experiment.views import ViewSpec, networks_of, picks, rows_after


def check_picks(specs: Sequence[ViewSpec], networks: Sequence[str]) -> None:
    """Raises ConfigError if a stage `pick` names a network that does not exist."""
    for spec, call in picks(specs):
        for name in networks_of(call):
            if name not in networks:
                where = f"views.{spec.name}.{call.role}"
                raise ConfigError(where, f"no network '{name}'", suggest(name, networks))


def check_pools(specs: Sequence[ViewSpec], full: Mapping[str, Any]) -> None:
    """Raises ConfigError if a `pick` keeps no row, or micro-batches cannot share the rows."""
    batch, group = full["data"]["batch_size"], full["train"]["replica_batch_size"]
    for spec in specs:
        for end, last in enumerate(spec.rows, 1):
            if rows_after(spec.rows[:end], group or batch) < 1:
                before = rows_after(spec.rows[: end - 1], group or batch)
                raise ConfigError(
                    f"{last.pick}.keep", f"{last.factor:g} of {before} rows leaves none",
                    f"keep at least {1 / before:.3g}",
                )
        parts = full["train"]["accumulate"]
        if not group and rows_after(spec.rows, batch) % parts:
            raise ConfigError(
                f"views.{spec.name}",
                f"has {rows_after(spec.rows, batch)} rows, which {parts} micro-batches cannot "
                "share evenly", "change keep, data.batch_size or train.accumulate",
            )


def check_joint(term: TermSpec, specs: Mapping[str, ViewSpec], branches: Mapping[str, int]) -> None:
    """Raises ConfigError unless all views of a joint term have the same examples and labels.

    Its members must be one network branch, or one for each view.
    """
    where, first = f"terms.{term.name}", term.views[0]
    for view in term.views:
        if specs[view].rows != specs[first].rows:
            raise ConfigError(
                f"{where}.on", f"views '{first}' and '{view}' have other rows",
                f'start both from one pool, as view("{first}")',
            )
        if _labelled_by(specs[view], specs) != _labelled_by(specs[first], specs):
            raise ConfigError(
                f"{where}.on", f"views '{first}' and '{view}' are not labelled alike",
                "start both from one mixed view, or mix neither",
            )
    members = {(pair.split("@")[0], branches[pair.split("@")[1]]) for pair in term.student}
    if len(members) not in (1, len(term.views)):
        raise ConfigError(
            f"{where}.on", f"its {len(term.views)} views have {len(members)} BatchNorm branches",
            "give each view a branch of its own, or all views the same",
        )


def _labelled_by(spec: ViewSpec, specs: Mapping[str, ViewSpec]) -> str:
    """Returns the view that mixed a view's labels last, "" if they are those of the data."""
    while spec.mixes and all(call.stage.form != "group" for call in spec.calls):
        spec = specs[spec.source]
    return spec.name if spec.mixes else ""


def check_shared_teacher(
    made: Sequence[ViewSpec], pairs: Sequence[tuple[str, str]], full: Mapping[str, Any]
) -> None:
    """Validates that `train.share_teacher` has something to share.

    Args:
      made: the views of the run.
      pairs: the (network, view) pairs of the terms.
      full: the complete config.

    Raises:
      ConfigError: no frozen network is run, or a view depends on networks.
    """
    if not full["train"]["share_teacher"]:
        return
    where = "train.share_teacher"
    if all(full["networks"][network]["trainable"] for network, _ in pairs):
        raise ConfigError(where, "is set without a frozen network", "leave it out")
    for spec in made:
        if spec.picks:
            raise ConfigError(
                where, f"view '{spec.name}' picks rows by networks, which each member does itself",
                "leave it out",
            )


def check_term(
    term: TermSpec,
    specs: Mapping[str, ViewSpec],
    branches: Mapping[str, int],
    full: Mapping[str, Any],
) -> None:
    """Validates the views of a term.

    Args:
      term: the term.
      specs: the views by name.
      branches: BatchNorm branch of each view.
      full: the complete config.

    Raises:
      ConfigError: its teacher's view has different examples, a view repeats or mixes the examples
        of a term that needs unique ones, or groups are too small.
    """
    where = f"terms.{term.name}"
    if term.term.joint:
        check_joint(term, specs, branches)
    for view in term.views:
        if term.term.unique_examples and specs[view].rows:
            raise ConfigError(
                f"{where}.on", f"view '{view}' may hold an example twice, but the loss keeps a row "
                "for each example", "put it on a view without repeat and pick",
            )
        if term.term.unique_examples and specs[view].mixes:
            raise ConfigError(
                f"{where}.on", f"view '{view}' mixes images, but the loss keeps a row for each "
                "example", "put it on a view without mixing",
            )
    for view, teachers in zip(term.views, term.teachers, strict=True):
        for pair in teachers:
            taught = pair.split("@")[1]
            if specs[view].rows != specs[taught].rows:
                raise ConfigError(
                    f"{where}.teacher", f"'{pair}' sees other rows than view '{view}' has",
                    f'start both from one pool, as view("{view}")',
                )
    group = full["train"]["replica_batch_size"]
    size = group or full["data"]["batch_size"] // full["train"]["accumulate"]
    view = min(term.views, key=lambda name: rows_after(specs[name].rows, size))
    rows = rows_after(specs[view].rows, size)
    if rows < term.term.min_group:
        path = "train.replica_batch_size" if group else "data.batch_size"
        picked = f" (view '{view}' keeps {rows} of {size})" if rows < size else ""
        raise ConfigError(
            where, f"'{full['terms'][term.name]['loss']}' compares examples and "
            f"{path} gives it groups of {rows}{picked}", f"it needs at least {term.term.min_group}",
        )
