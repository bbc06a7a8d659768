"""Optimisers of your own: named in a config as `PACKAGE.MODULE:name`.

    config.optim = optimizer("docs.examples.optimizer:lion", 1e-4, b2=0.98, weight_decay=0.1)

A plain function `f(rate, decay, *, ...)` returns an optax transformation from the gradient to what
is added to the parameters. `rate` is the learning rate of the step, traced; weight decay is
already part of the gradient, so `decay` is not used. An optimiser that decouples weight decay is a
row `Method(function, decoupled=True)` and puts the link `decay` where it belongs.

Options annotated as in `kdaug_jax.types` are traced: `optim.b1` has a path and may be swept.
"""

import optax

from kdaug_jax.experiment.optim import Method
from kdaug_jax.types import Fraction


def signed(rate, decay, *, momentum: Fraction = 0.9):
    """Steps along the sign of the averaged gradient (Bernstein et al. 2018, Signum)."""
    return optax.chain(optax.ema(momentum), optax.scale_by_sign(), optax.scale(-rate))


def _lion(rate, decay, *, b1: Fraction = 0.9, b2: Fraction = 0.99):
    """Lion (Chen et al. 2023): the sign of an interpolation, decay beside it, times the rate."""
    return optax.chain(optax.scale_by_lion(b1=b1, b2=b2), decay, optax.scale(-rate))


lion = Method(_lion, decoupled=True)
