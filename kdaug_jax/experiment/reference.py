"""Writes docs/config.md: every field of a config, and every option that a config can name.

    python -m kdaug_jax.experiment.reference > docs/config.md

Fields come from `experiment.fields`, options from the signatures and docstrings of the functions.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdaug_jax.augment import STAGES, describe_ops
from kdaug_jax.experiment.binding import Option, options
from kdaug_jax.experiment.combine import COMBINE
from kdaug_jax.experiment.fields import FIELDS, REQUIRED, Field
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.experiment.optim import OPTIMIZERS
from kdaug_jax.experiment.schedules import COMMON, OFFSET, SCHEDULES, STAIRS
from kdaug_jax.experiment.views.pools import POOLS
from kdaug_jax.losses import LOSSES
from kdaug_jax.types import Range

INTRODUCTION = """\
# Fields of a config

Made by `python -m kdaug_jax.experiment.reference`; edit `kdaug_jax/experiment/fields.py` instead.
`*` stands for a name that you choose. Any field is set in a config file, or on the command line as
`--config.train.epochs=3`. Options of losses, stages, optimisers and schedules that have a range
are traced: `population` and `phases` change them without a new compilation.
"""
SCHEDULE_OPTIONS = {
    "name": Field(COMMON["name"], "One of the schedules below."),
    "base": Field(REQUIRED, "The value that the schedule multiplies.", type="float"),
    "unit": Field(COMMON["unit"], "Unit of all times.", ("epoch", "step")),
    "warmup": Field(COMMON["warmup"], "Time of a linear rise from 0.", Range(np.float32, 0.0)),
    "stairs": Field(
        COMMON["stairs"], "`epoch`: it stands still within an epoch; empty: it moves by steps.",
        STAIRS,
    ),
    "offset": Field(
        COMMON["offset"], "Epochs that a warm-up with stairs counts ahead: with 1 it is at "
        "1 / warmup in the first epoch, with 0 at 0.", OFFSET,
    ),
}
# Arguments of a policy that a view supplies.
FROM_THE_VIEW = ("size", "epochs", "counts")


def document() -> str:
    """Returns the text of docs/config.md."""
    parts = [INTRODUCTION]
    sections = itertools.groupby(FIELDS.items(), key=lambda item: item[0].partition(".")[0])
    whole = []
    for section, fields in sections:
        rows = [(path, *_described(field)) for path, field in fields]
        if "." in rows[0][0]:
            parts += [f"## {section}\n", _table("field", rows)]
        else:
            whole += rows
    parts.insert(1, _table("field", whole))
    losses = {name: resolve("terms", name)[1:] for name in LOSSES}
    stages = {
        name: (stage.apply, FROM_THE_VIEW if stage.form == "policy" else 2)
        for name, stage in STAGES.items()
    }
    pools = {name: (stage.apply, 0) for name, stage in POOLS.items()}
    parts += _functions("Losses", "`terms.*.loss`", losses)
    parts += _functions("Stages", "`views.*.ops`", {**stages, **pools})
    parts.append(f"## Ops\n\nOf policies, one row of the op table each.\n\n{describe_ops()}\n")
    parts += _functions(
        "Optimisers", "`optim.name`", {name: (row.make, 2) for name, row in OPTIMIZERS.items()}
    )
    parts += _functions(
        "Combinations of gradient groups", "`optim.combine`",
        {name: (row.make, row.skip) for name, row in COMBINE.items()},
    )
    rows = [(name, *_described(field)) for name, field in SCHEDULE_OPTIONS.items()]
    parts += _functions(
        "Schedules", "a weight or learning rate: `dict(name=..., base=..., ...)`",
        {name: (function, 1) for name, function in SCHEDULES.items()}, _table("option", rows),
    )
    return "\n".join(parts)


def _functions(
    title: str, where: str, functions: Mapping[str, tuple[Callable[..., Any], Any]], first: str = ""
) -> Iterator[str]:
    yield f"## {title}\n\nFor {where}.\n"
    if first:
        yield first
    for name, (function, skip) in functions.items():
        text = inspect.getdoc(function) or ""
        yield f"### `{name}`\n\n{' '.join(text.partition(chr(10) * 2)[0].split())}\n"
        meanings = _arguments(text)
        parameters = inspect.signature(function).parameters
        rows = [
            (name, *_of_option(option, str(parameters[name].annotation), meanings.get(name, "")))
            for name, option in options(function, skip).items()
        ]
        if rows:
            yield _table("option", rows)


def _arguments(text: str) -> dict[str, str]:
    """Returns the meanings in the Args section of a docstring by name."""
    section = re.search(r"^Args:\n((?:  .*\n|\n)*)", text + "\n", re.MULTILINE)
    meanings = {}
    for entry in re.split(r"\n(?=  \S)", section[1] if section else ""):
        names, _, meaning = entry.strip().partition(": ")
        for name in names.split(", "):
            meanings[name] = " ".join(meaning.split())
    return meanings


def _described(field: Field) -> tuple[str, str, str, str]:
    kind = field.type or type(field.default).__name__
    default = "required" if field.default is REQUIRED else f"`{field.default!r}`"
    if isinstance(field.legal, Range):
        off = f", {field.off} for off" if field.off is not None else ""
        return kind, default, _interval(field.legal) + off, field.meaning
    values = (value or '""' for value in field.legal or ())
    return kind, default, ", ".join(f"`{value}`" for value in values), field.meaning


def _of_option(option: Option, annotation: str, meaning: str) -> tuple[str, str, str, str]:
    if option.range is not None:
        kind = "int" if np.issubdtype(option.range.dtype, np.integer) else "float"
    elif option.is_fill:
        kind = "colour"
    elif option.type is not None:
        kind = option.type.__name__
    else:
        kind = "" if option.default is inspect.Parameter.empty and not annotation else annotation
    default = "required" if option.default is inspect.Parameter.empty else f"`{option.default!r}`"
    return kind, default, _interval(option.range) if option.range else "", meaning


def _interval(legal: Range) -> str:
    high = legal.high.replace("_", " ") if isinstance(legal.high, str) else legal.high
    if not isinstance(high, str):
        high = "∞" if np.isinf(high) else f"{high}".removesuffix(".0")
    low = "-∞" if np.isinf(legal.low) else f"{legal.low}".removesuffix(".0")
    start = "(" if legal.open or low == "-∞" else "["
    return f"{start}{low}, {high}{')' if high == '∞' else ']'}"


def _table(first: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [(first, "type", "default", "range", "meaning"), ("---",) * 5]
    lines += [(f"`{name}`", *rest) for name, *rest in rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    ) + "\n"


if __name__ == "__main__":
    print(document(), end="")
