import jax
import numpy as np
import pytest

from kdaug_jax.augment.arithmetic import float64_emulation as f64

both = jax.jit(
    lambda x, y: (
        f64.add(f64.from_bits(x), f64.from_bits(y)),
        f64.multiply(f64.from_bits(x), f64.from_bits(y)),
    )
)
truncate = jax.jit(lambda bits: f64.truncate(f64.from_bits(bits)))


def value(numbers):
    """Reads doubles back on the host."""
    upper, lower = (np.asarray(word).astype(np.uint64) for word in numbers)
    return (upper << np.uint64(32) | lower).view(np.float64)


def numbers(kind, count=50_000):
    rng = np.random.default_rng(0)
    x = rng.normal(size=count) * 2.0 ** rng.integers(-70, 70, count)
    if kind == "any":
        return x, rng.normal(size=count) * 2.0 ** rng.integers(-70, 70, count)
    if kind == "ties":
        # Sums and products that end halfway between two doubles are as frequent as can be.
        whole = rng.integers(1 << 52, 1 << 53, count).astype(float)
        return whole, rng.integers(-9, 10, count) / 2.0
    if kind == "cancel":
        return x, -x * (1 + rng.integers(-4, 5, count) * 2.0**-52)
    return np.where(rng.random(count) < 0.5, 0.0, x), np.where(rng.random(count) < 0.5, -0.0, x)


@pytest.mark.parametrize("kind", ["any", "ties", "cancel", "zeros"])
def test_sums_and_products_are_those_of_the_host(kind):
    x, y = numbers(kind)
    total, product = both(f64.to_bits(x), f64.to_bits(y))
    np.testing.assert_array_equal(value(total), x + y)
    np.testing.assert_array_equal(value(product), x * y)


def test_whole_parts_and_whole_numbers():
    x = np.append(numbers("any")[0], [0.0, -0.5, 1.0, -1.0, 254.99999999999997, 255.0])
    limit = 2**31 - 1
    expected = np.clip(np.trunc(x), -limit, limit)
    np.testing.assert_array_equal(truncate(f64.to_bits(x)), expected)
    whole = np.array([0, 1, -1, 255, -256, limit, -limit], np.int32)
    np.testing.assert_array_equal(value(f64.from_int(jax.numpy.asarray(whole))), whole)
