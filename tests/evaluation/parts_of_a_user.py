"""Parts of a user whose evaluation depends on the run: an ensemble, a policy, a mixing stage."""

import jax.numpy as jnp
import numpy as np

from kdaug_jax.augment.policies import IDENTITY, HparamSpec, Policy
from kdaug_jax.augment.policies.policy import plain
from kdaug_jax.augment.stage import Stage
from kdaug_jax.losses import Term
from kdaug_jax.types import Fraction, Range


def _init(key, inputs, info, *, share):
    return {}, {}


def _apply(params, state, inputs, context, *, share: Fraction = 0.5):
    return jnp.float32(0), state, {}


def _ensemble(params, logits, *, share):
    return share * logits[0] + (1 - share) * logits[1], {"share": share}


weighted = Term(_init, _apply, roles=("student",), predict_ensemble=_ensemble)


def _by_epoch():
    """Inverts images from epoch 1 on."""
    epoch = HparamSpec(np.zeros((), np.int32), Range(np.int32, 0))
    return Policy(
        (IDENTITY, plain("invert")[0]), lambda key, hparams: hparams["epoch"][None], 1,
        {"epoch": epoch},
    )


by_epoch = Stage(_by_epoch, form="policy")
swap = Stage(lambda key, view: view.replace(image=view.image[::-1]), form="group")
