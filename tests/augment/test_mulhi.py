import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.augment.arithmetic import float64_emulation as f64
from kdaug_jax.augment.ops import boxes
from kdaug_jax.images.arithmetic import mulhi
from kdaug_jax.runtime import sharding

EDGES = np.array([0, 1, 2, 0xFFFF, 0x10000, 0x10001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)


def test_upper_words_of_products():
    rng = np.random.default_rng(0)
    some = rng.integers(0, 2**32, 1000, np.uint32)
    x, y = (grid.ravel() for grid in np.meshgrid(EDGES, EDGES))
    x, y = np.append(x, some), np.append(y, some[::-1])
    expected = (x.astype(np.uint64) * y.astype(np.uint64)) >> np.uint64(32)
    np.testing.assert_array_equal(jax.jit(mulhi)(x, y), expected.astype(np.uint32))


def resized(bits):
    return boxes.draw_box(jax.random.wrap_key_data(bits), 40, 30)


def inception(bits):
    return boxes.draw_inception_box(jax.random.wrap_key_data(bits), 40, 30)


def product(bits):
    return f64.multiply(f64.Float64(*bits), f64.Float64(*bits[::-1]))


@pytest.mark.parametrize("function", [resized, inception, product])
def test_draws_and_doubles_are_compiled_for_several_devices(function):
    bits = jnp.asarray(np.random.default_rng(1).integers(1 << 20, 1 << 30, (8, 2), np.uint32))
    mesh = sharding.make_mesh(4, 8)
    many = jax.jit(jax.vmap(function), out_shardings=sharding.replicated(mesh))
    one = jax.jit(jax.vmap(function))(bits)
    spread = many(sharding.put_batch(mesh, bits))
    for got, expected in zip(spread, one, strict=True):
        np.testing.assert_array_equal(got, expected)
