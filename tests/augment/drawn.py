"""Many draws of a policy, and the statistics that tests take of them."""

import jax
import jax.numpy as jnp
import numpy as np


def defaults(policy, /, **changed):
    hparams = {name: jnp.asarray(hparam.default) for name, hparam in policy.hparams.items()}
    return {**hparams, **{name: jnp.asarray(value) for name, value in changed.items()}}


def draw_many(policy, count, /, seed=0, **numbers):
    """Rows of `count` images, `[count,stages]`."""
    keys = jax.random.split(jax.random.key(seed), count)
    rows = jax.jit(jax.vmap(policy.draw, (0, None)))(keys, defaults(policy, **numbers))
    assert rows.shape == (count, policy.stages) and rows.dtype == jnp.int32
    rows = np.asarray(rows)
    assert rows.min() >= 0 and rows.max() < len(policy.ops)
    return rows


def chi_square(counts, probabilities):
    """Returns (statistic - freedom) / its standard deviation.

    By chance it is above 5 once in 200 for two values and less than once in a million for many;
    seeds are fixed, so a test that passed does not fail by chance.
    """
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    assert not counts[probabilities == 0].any()
    counts, probabilities = counts[probabilities > 0], probabilities[probabilities > 0]
    expected = counts.sum() * probabilities / probabilities.sum()
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)
