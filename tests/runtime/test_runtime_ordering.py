"""The order of the parts of a program on virtual CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.runtime.ordering import Ordering


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_later_value_waits_and_keeps_its_bits(dtype):
    value = np.random.default_rng(0).integers(0, 255, (8, 2, 2, 3)).astype(dtype)
    value.reshape(-1)[0] = 0

    def run(step, value, first, second):
        order = Ordering(step, [first])
        order.done(second)
        return order.after(value)

    arguments = jnp.int32(3), value, jnp.full((8, 4), jnp.nan), -jnp.ones((12, 2))
    np.testing.assert_array_equal(jax.jit(run)(*arguments), value)
    used = jax.make_jaxpr(run)(*arguments).jaxpr
    read = {id(variable) for equation in used.eqns for variable in equation.invars}
    assert all(id(variable) in read for variable in used.invars)


def test_nothing_is_added_where_nothing_needs_it(monkeypatch):
    value = jnp.ones((4, 3))
    assert Ordering(jnp.int32(0)).after(value) is value
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Ordering(jnp.int32(0), [value]).after(value) is value
    monkeypatch.undo()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert Ordering(jnp.int32(0), [value]).after(value) is value
