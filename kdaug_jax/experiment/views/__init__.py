"""The view language, and what makes the views of a batch from it.

`language` reads expressions, whose stages `stages` finds; `making` carries them out, where
`placing` says. `pools` and `picking` are the two stages that change how many rows a view has.
"""

from kdaug_jax.augment import STAGES
from kdaug_jax.experiment.views.language import (
    EPOCH,
    Call,
    ViewSpec,
    host_numbers,
    hparams,
    parse,
    parse_all,
    source_of,
    split_leading,
    views_to_make,
)
from kdaug_jax.experiment.views.leading import Cutter, Leading, Prefix, cut_image, cutter
from kdaug_jax.experiment.views.making import (
    Made,
    batch_shapes,
    build_augment,
    make,
    make_all,
    make_hosted,
    make_in_pairs,
    mixes_pairs,
)
from kdaug_jax.experiment.views.picking import Scorer, networks_of, picks
from kdaug_jax.experiment.views.placing import check_place, describe, place, unmixed, with_crops
from kdaug_jax.experiment.views.pools import POOLS, Rows, draws_of, rows_after

__all__ = [
    "EPOCH",
    "POOLS",
    "STAGES",
    "Call",
    "Cutter",
    "Leading",
    "Made",
    "Prefix",
    "ViewSpec",
    "Rows",
    "Scorer",
    "batch_shapes",
    "build_augment",
    "check_place",
    "cut_image",
    "cutter",
    "describe",
    "draws_of",
    "host_numbers",
    "hparams",
    "views_to_make",
    "make",
    "make_all",
    "make_hosted",
    "make_in_pairs",
    "mixes_pairs",
    "networks_of",
    "parse",
    "parse_all",
    "picks",
    "place",
    "rows_after",
    "source_of",
    "split_leading",
    "unmixed",
    "with_crops",
]
