"""A term of a user whose views form an ensemble, with an option that may be swept."""

import jax.numpy as jnp

from kdaug_jax.losses import Term
from kdaug_jax.types import Fraction


def _init(key, inputs, info, *, share):
    return {}, {}


def _apply(params, state, inputs, context, *, share: Fraction = 0.5):
    return jnp.float32(0), state, {}


def _ensemble(params, logits, *, share):
    return share * logits[0] + (1 - share) * logits[1], {"share": share}


weighted = Term(_init, _apply, roles=("student",), predict_ensemble=_ensemble)
