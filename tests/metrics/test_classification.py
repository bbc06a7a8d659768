import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (12, 5)).astype(np.float32)
LABEL = RNG.integers(0, 5, 12).astype(np.int32)
EVERY = np.ones(12, bool)
METRICS = {
    "accuracy": jax.jit(metrics.accuracy),
    "top_2": jax.jit(lambda *rows: metrics.top_k_accuracy(*rows, 2)),
    "nll": jax.jit(metrics.nll),
}


def test_values_are_those_of_numpy():
    order = np.argsort(-LOGITS, axis=1)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = {
        "accuracy": (order[:, 0] == LABEL).sum(),
        "top_2": (order[:, :2] == LABEL[:, None]).sum(),
        "nll": -np.log(p[np.arange(12), LABEL]).sum(),
    }
    for name, metric in METRICS.items():
        total, count = metric(LOGITS, LABEL, EVERY)
        np.testing.assert_allclose(total, expected[name], rtol=1e-5)
        assert count == 12 and total.dtype == count.dtype == jnp.float32
        assert total.shape == count.shape == ()


@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("name", METRICS)
def test_masked_rows_do_not_count_whatever_they_hold(name, junk):
    expected = METRICS[name](LOGITS[:9], LABEL[:9], EVERY[:9])
    logits, mask = LOGITS.copy(), EVERY.copy()
    logits[9:], mask[9:] = junk, False
    result = METRICS[name](logits, LABEL, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    gradient = jax.grad(lambda rows: metrics.nll(rows, LABEL, mask)[0])(logits)
    assert np.isfinite(gradient).all() and not gradient[9:].any()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("size", [4, 6])
def test_any_split_sums_to_the_same(name, size):
    pair = (jnp.float32(0), jnp.float32(0))
    for start in range(0, 12, size):
        rows = slice(start, start + size)
        pair = metrics.merge(pair, METRICS[name](LOGITS[rows], LABEL[rows], EVERY[rows]))
    whole = METRICS[name](LOGITS, LABEL, EVERY)
    np.testing.assert_allclose(pair, whole, rtol=1e-6)
    np.testing.assert_allclose(metrics.mean(pair), whole[0] / 12, rtol=1e-6)


def test_ties_go_to_the_first_class_and_nan_is_never_right():
    same, nan = np.zeros((3, 3), np.float32), np.full((3, 3), np.nan, np.float32)
    label, mask = np.arange(3, dtype=np.int32), np.ones(3, bool)
    assert [metrics.top_k_accuracy(same, label, mask, k)[0] for k in (1, 2, 3)] == [1, 2, 3]
    assert metrics.accuracy(same, label, mask)[0] == 1
    assert metrics.top_k_accuracy(nan, label, mask, 3)[0] == 0


def test_bfloat16_logits_give_float32_sums():
    total, _ = metrics.nll(jnp.asarray(LOGITS, jnp.bfloat16), LABEL, EVERY)
    assert total.dtype == jnp.float32


def test_the_mean_of_nothing_is_nan():
    assert np.isnan(metrics.mean((jnp.float32(0), jnp.float32(0))))
