"""Pools of views: `repeat(n)` makes n draws of each example, `pick(by)` keeps the hardest.

The two stages of the view language that change how many rows a view has. Here are their
signatures; `making` and `picking` carry them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdaug_jax.augment.stage import Size, Stage
from kdaug_jax.errors import ArgumentError, suggest
from kdaug_jax.losses import PICKERS
from kdaug_jax.types import Positive


class Rows(NamedTuple):
    """One change of the number of rows.

    Attributes:
      factor: rows after it over rows before, rounded down in each group.
      pick: path of the `pick` that chooses them, "" for a `repeat`.
    """

    factor: float
    pick: str = ""


def repeat(n: int) -> None:
    """Makes n copies of each example; every stage after it draws anew for each of them.

    What comes before, the view that it starts from included, is drawn once and shared by the
    copies. The first copy draws what it would without `repeat`; the number of a later copy is part
    of its keys. Mixing stages find partners among the copies of one number, as n mixed batches
    would. Copies lie side by side: row b n + d holds draw d of example b.

    Args:
      n: at least 1.
    """


def pick(
    by: str,
    keep: float = 0.5,
    temperature: Positive = 4.0,
    student: str = "student",
    teacher: str = "teacher",
    ratio: bool = True,
) -> None:
    """Keeps the rows that score highest, in each group of `train.replica_batch_size` for itself.

    Networks score without gradient. BatchNorm of a trained network uses the statistics of each
    draw, as in separate passes; updates of its running statistics are discarded. Terms reuse the
    outputs of a frozen network for the kept rows.

    `repeat(1)|cutmix(1.0)|pick("kl")` is the paper's text; `repeat(2)` in its place, which leaves
    as many rows as the batch has, its later code. Stages after it still draw anew for each copy.

    Args:
      by: "kl", divergence of student from teacher; "teacher_entropy"; "student_entropy".
      keep: share of the rows that stays, more than 0 and at most 1; rounded down.
      temperature: of "kl" and of the ratio.
      student: the network that is compared; on the view's BatchNorm branch if it is trained.
      teacher: the network that it is compared with.
      ratio: whether the mean divergence of the kept rows over that of all rows is logged as
        `train/<view>/ratio`. The entropies need a forward pass of the other network for it.

    Source: Wang et al. 2020 (arXiv:2012.02909), section 3.2, eq. 2-3.
    """


def _check_repeat(arguments: Mapping[str, Any], size: Size) -> None:
    del size
    if arguments["n"] < 1:
        raise ArgumentError(f"got n={arguments['n']}", "must be at least 1")


def _check_pick(arguments: Mapping[str, Any], size: Size) -> None:
    del size
    by, keep = arguments["by"], arguments["keep"]
    if by not in PICKERS:
        raise ArgumentError(f"unknown score {by!r}", suggest(by, PICKERS))
    if not 0 < keep <= 1:
        raise ArgumentError(f"got keep={keep:g}", "must be more than 0 and at most 1")


POOLS: dict[str, Stage] = {
    "repeat": Stage(repeat, form="repeat", check=_check_repeat),
    "pick": Stage(pick, form="pick", check=_check_pick),
}


def rows_after(rows: Sequence[Rows], group: int) -> int:
    """Returns how many rows a group of `group` examples becomes."""
    for change in rows:
        # A product such as 0.29 * 100 lies below the whole number that is meant.
        group = math.floor(group * change.factor + 1e-6)
    return group


def draws_of(rows: Sequence[Rows]) -> int:
    """Returns how many draws of an example lie side by side: those since the last pick."""
    draws = 1
    for change in rows:
        draws = 1 if change.pick else draws * int(change.factor)
    return draws
