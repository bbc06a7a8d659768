"""What a config file says about a paper's tables: which options make which printed figure.

A config file of a paper holds, as module constants,

* `PAPER`: number of the paper ("000" to "004"), or the name of the work that its figures are from;
* `ROWS`: a tuple of `Row`, the one home of the printed figures; the tables of the file's docstring
  show the same ones;
* `CELLS`: `{name: (Cell, ...)}`, the experiments that take several runs, `{}` if there is none;
* `FIGURES`: `{"Figure 1": name in CELLS, or the command that draws it}`, where a figure is neither
  a row nor known by the name of its experiment; it may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

CELL = "cell:"
# Behind the name of a metric, whose values are then in percent.
PERCENT_SIGN = " %"
_PERCENTAGES = ("accuracy", "error", "top5", "top5_error")


class Row(NamedTuple):
    """One row or cell of a printed table, and the options of the config file that make it.

    Attributes:
      table: as the paper names it: "Table 1", "Figure 2", "Section 3.4".
      name: unique in its file: letters, digits, "-", "_" and "."; a directory of results has it.
      options: what stands after the colon of --config, "" for the default; None for what is only
        quoted by the paper and cannot be run here, with the reason in `note`.
      figures: `{measure: printed value}`: `accuracy`, `error`, `top5`, `top5_error` in percent, of
        the test split; any other name is that of a metric of the test split ("branch_0/nll") or
        of a data set of `eval.sets` ("cinic/accuracy"), in the metric's unit, or in percent if
        " %" stands behind it; one that ends in "gpu_hours" is a cost. Empty where the paper prints
        a curve or "?".
      spread: `{measure: printed deviation}`, in the same unit.
      note: whose figure it is, of which epoch, what is unknown; "" if there is nothing to say.
    """

    table: str
    name: str
    options: str | None
    figures: Mapping[str, float]
    spread: Mapping[str, float] = {}
    note: str = ""


class Cell(NamedTuple):
    """One run of an experiment of several.

    Attributes:
      name: of the run's directory below that of the experiment.
      options: as in `Row`.
      overrides: `{config path: value}`; a text "cell:NAME" at the beginning of a value stands for
        the directory of an earlier cell ("cell:teacher", "cell:teacher@best").
    """

    name: str
    options: str
    overrides: Mapping[str, Any] = {}


def in_percent(measure: str) -> bool:
    """Returns whether a measure of `Row.figures` is in percent, and not in a metric's own unit."""
    return measure in _PERCENTAGES or measure.endswith(PERCENT_SIGN)
