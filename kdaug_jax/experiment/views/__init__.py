"""The view language and what makes views of a batch as it describes them.

`language` reads expressions, `making` carries them out; `pools` and `picking` are its two stages
that change how many rows a view has.
"""

from kdaug_jax.augment import STAGES
from kdaug_jax.experiment.views.language import (
    Call,
    Plan,
    hparams,
    made_plans,
    parse,
    parse_all,
    source_of,
)
from kdaug_jax.experiment.views.making import Made, build, make, make_all
from kdaug_jax.experiment.views.picking import Scorer, networks_of, picks
from kdaug_jax.experiment.views.pools import POOLS, Rows, draws_of, rows_after

__all__ = [
    "POOLS",
    "STAGES",
    "Call",
    "Made",
    "Plan",
    "Rows",
    "Scorer",
    "build",
    "draws_of",
    "hparams",
    "made_plans",
    "make",
    "make_all",
    "networks_of",
    "parse",
    "parse_all",
    "picks",
    "rows_after",
    "source_of",
]
