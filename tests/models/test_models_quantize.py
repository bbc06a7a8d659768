import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.models import quantize

BITS = (1, 2, 4, 8, 32)
WEIGHT = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (3, 3, 4, 5)), jnp.float32)


@pytest.mark.parametrize("bits", BITS[:-1])
def test_values_lie_on_a_grid(bits):
    steps = 2**bits - 1
    activations = quantize.quantize_activations(jnp.linspace(-1, 2, 999), bits)
    assert activations.min() == 0 and activations.max() == 1
    assert len(np.unique(activations)) == min(steps + 1, 333)
    np.testing.assert_allclose(activations * steps, np.round(activations * steps), atol=1e-4)
    weight = quantize.quantize_weights(WEIGHT, bits)
    assert len(np.unique(weight)) <= steps + 1
    if bits > 1:
        assert jnp.abs(weight).max() == 1
    else:
        np.testing.assert_allclose(jnp.abs(weight), jnp.mean(jnp.abs(WEIGHT)), rtol=1e-6)


def test_halves_round_to_even():
    assert quantize.quantize(jnp.asarray([0.5, 1 / 6, 0.5 + 1e-6]), 1).tolist() == [0, 0, 1]
    assert quantize.quantize(jnp.asarray([1 / 6, 0.5]), 2).tolist() == pytest.approx([0, 2 / 3])


def test_32_bits_are_full_precision():
    np.testing.assert_array_equal(quantize.quantize_weights(WEIGHT, 32), WEIGHT)
    activations = quantize.quantize_activations(jnp.asarray([-1.0, 0.5, 7.0]), 32)
    assert activations.tolist() == [0.0, 0.5, 7.0]


@pytest.mark.parametrize("bits", BITS[:-1])
def test_activations_pass_gradients_inside_the_clip_only(bits):
    x = jnp.asarray([-0.5, 0.0, 0.3, 1.0, 1.5])
    gradient = jax.grad(lambda x: quantize.quantize_activations(x, bits).sum())(x)
    assert gradient.tolist() == [0, 1, 1, 1, 0]


def test_zero_weights_are_finite():
    zero = jnp.zeros((3, 4))
    for bits in BITS:
        value, gradient = jax.value_and_grad(
            lambda w, bits=bits: quantize.quantize_weights(w, bits).sum()
        )(zero)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert quantize.quantize_weights(jnp.asarray([0.0, -1.0, 3.0]), 1)[0] > 0


def test_bfloat16_activations_keep_their_type():
    x = jnp.linspace(0, 1, 50, dtype=jnp.bfloat16)
    value = quantize.quantize_activations(x, 4)
    assert value.dtype == jnp.bfloat16
    wide = quantize.quantize_activations(x.astype(jnp.float32), 4)
    np.testing.assert_array_equal(value, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("bits", [0, 33, 2.0, True])
def test_bits_that_make_no_sense(bits):
    with pytest.raises(ValueError) as caught:
        quantize.quantize(WEIGHT, bits)
    assert caught.value.args[1] == "must be a whole number 1..32"
