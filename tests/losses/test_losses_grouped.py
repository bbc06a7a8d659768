"""Losses that compare examples: within groups, and alike however the batch lies on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.losses import LOSSES
from kdaug_jax.runtime import sharding
from tests.losses.made import ROWS, SHARDED, make


def test_the_value_does_not_depend_on_how_the_batch_lies_on_devices():
    made = {name: make(name) for name in SHARDED}

    @jax.jit
    def values(given):
        return {name: made[name][0](*given[name], groups=2) for name in made}

    given = {name: own[1:] for name, own in made.items()}
    one, four = values(given), values(sharding.put_batch(sharding.make_mesh(4, 8), given))
    for name in made:
        np.testing.assert_allclose(one[name], four[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.isfinite(one[name]) and one[name].dtype == jnp.float32 and one[name].shape == ()


@pytest.mark.parametrize(
    "name", [name for name in ROWS if LOSSES[name].min_group > 1 and name not in ("mhgd", "ii_kd")]
)
def test_groups_do_not_see_each_other(name):
    """The value of two groups is the mean of their own values."""
    value, student, teacher = make(name)
    value = jax.jit(value, static_argnames="groups")
    alone = jax.jit(make(name, size=4)[0])
    halves = [
        alone(*jax.tree.map(lambda x, rows=rows: x[rows], (student, teacher)))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    both = value(student, teacher, groups=2)
    np.testing.assert_allclose(both, np.mean(halves), rtol=1e-5)
    assert abs(both - value(student, teacher, groups=1)) > 1e-6


@pytest.mark.parametrize("name", ROWS)
def test_gradients_are_finite_at_zeros_ties_and_in_bfloat16(name):
    value, student, teacher = make(name)
    gradient = jax.jit(jax.value_and_grad(value))
    for change in (
        lambda x: 0.0 * x, lambda x: np.repeat(x[:1], 8, axis=0), lambda x: np.ones_like(x),
    ):
        changed = jax.tree.map(change, student)
        for other in (jax.tree.map(change, teacher), teacher):
            found, by_student = gradient(changed, other)
            assert np.isfinite(found)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_student))
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (student, teacher))
    rounded = jax.jit(value)(*half)
    wide, _ = gradient(*jax.tree.map(lambda x: x.astype(jnp.float32), half))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, wide, rtol=1e-4)
