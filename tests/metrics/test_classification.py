import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import metrics
from kdaug_jax.errors import ArgumentError

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


def label_metrics():
    """Gives all metrics that take labels, by name."""
    every = {
        name: getattr(metrics, name)
        for name in ("accuracy", "nll", "brier", "reliability", "confusion", "unanswered")
    }
    every["top_2"] = lambda *rows: metrics.top_k_accuracy(*rows, 2)
    every["class_sums"] = lambda rows, label, mask: metrics.class_sums(rows, label, mask, 5)
    every["unit_sums"] = lambda rows, label, mask: metrics.unit_sums(
        rows, label, mask, metrics.moments(rows, mask), 5
    )
    return every


@pytest.mark.parametrize("name", label_metrics())
def test_labels_that_are_no_class(name):
    metric = label_metrics()[name]
    without = metric(LOGITS[1:], LABEL[1:], EVERY[1:])
    jitted = jax.jit(metric)
    for wrong in (-1, -5, -100, 5, 255):
        label, mask = LABEL.copy(), EVERY.copy()
        label[0] = wrong
        with pytest.raises(ArgumentError, match=f"got class number {wrong} with 5 classes; must"):
            metric(LOGITS, label, EVERY)
        # Traced, it counts as no class, and never as one from the end.
        result = jitted(LOGITS, label, EVERY)
        if name in ("nll", "brier"):
            assert np.isnan(result[0]) and result[1] == 12
        elif name in ("accuracy", "top_2"):
            assert result == (without[0], 12.0)
        elif name == "reliability":
            np.testing.assert_allclose(result.right, without.right)
            assert result.count.sum() == 12
        elif name == "unit_sums":  # whose moments are those of all rows
            assert result.vectors.count.sum() == 11
        else:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), result, without)
        # What only fills a batch up may hold anything.
        mask[0] = False
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            metric(LOGITS, label, mask), metric(LOGITS, LABEL, mask),
        )


@pytest.mark.parametrize("name", label_metrics())
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_labels_of_any_integer_type(name, dtype):
    logits = np.random.default_rng(2).normal(0, 1, (40, 30)).astype(np.float32)
    label, mask = np.arange(40, dtype=np.int32) % 30, np.ones(40, bool)  # 29 * 30 is no u8
    metric = label_metrics()[name]
    if name in ("class_sums", "unit_sums"):
        logits, label = logits[:, :5], label % 5
    jax.tree.map(
        np.testing.assert_array_equal,
        metric(logits, label.astype(dtype), mask), metric(logits, label, mask),
    )


def softmax_metrics():
    """Gives all metrics that take a softmax of their first argument, as functions of it."""
    human = np.full((12, 5), 0.2, np.float32)
    return {
        "nll": lambda rows: metrics.nll(rows, LABEL, EVERY),
        "brier": lambda rows: metrics.brier(rows, LABEL, EVERY),
        "reliability": lambda rows: metrics.reliability(rows, LABEL, EVERY),
        "predictive_kl": lambda rows: metrics.predictive_kl(LOGITS, rows, EVERY),
        "effective_classes": lambda rows: metrics.effective_classes(rows, EVERY),
        "human_kl_total": lambda rows: metrics.human_kl_total(rows, human, EVERY),
        "human_cross_entropy": lambda rows: metrics.human_cross_entropy(rows, human, EVERY),
    }


@pytest.mark.parametrize("name", softmax_metrics())
def test_probabilities_in_place_of_logits(name):
    metric, probabilities = softmax_metrics()[name], jax.nn.softmax(LOGITS)
    with pytest.raises(ArgumentError, match="these are probabilities; give logits, or the log"):
        metric(probabilities)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        metric(jnp.log(probabilities)), metric(LOGITS),
    )
    metric(np.abs(LOGITS))  # positive by chance


@pytest.mark.parametrize("arguments, words", [
    ((LOGITS, LABEL[:1], EVERY), r"got labels int32\[1\]; must be class numbers, i32\[12\]"),
    ((LOGITS, LABEL.astype(np.float32), EVERY), r"got labels float32\[12\]; must be class num"),
    ((LOGITS, LABEL == 1, EVERY), r"got labels bool\[12\]"),
    ((LOGITS, LABEL, EVERY.astype(np.int32)), r"got a mask int32\[12\]; must be bool\[12\]"),
    ((LOGITS, LABEL, EVERY[:1]), r"got a mask bool\[1\]; must be bool\[12\]"),
    ((LOGITS[0], LABEL, EVERY), r"got logits \[5\]; must be \[B,C\], of the same examples"),
])
@pytest.mark.parametrize("name", ["accuracy", "nll", "brier", "confusion", "reliability"])
def test_shapes_and_types_that_would_broadcast(name, arguments, words):
    for metric in (getattr(metrics, name), jax.jit(getattr(metrics, name))):
        with pytest.raises(ArgumentError, match=words):
            metric(*arguments)


def test_two_networks_of_other_classes():
    for metric in (metrics.agreement, metrics.predictive_kl):
        with pytest.raises(ArgumentError, match=r"got logits \[12, 5\] and \[12, 4\]; must be"):
            metric(LOGITS, LOGITS[:, :4], EVERY)


def test_no_examples_are_not_well_calibrated():
    sums = metrics.reliability(LOGITS, LABEL, np.zeros(12, bool))
    assert np.isnan(metrics.ece(sums)) and np.isnan(metrics.mce(sums))


HUMAN = np.asarray(jax.nn.softmax(np.random.RandomState(1).normal(0, 1, (6, 4))), np.float32)
ANSWERS = np.random.RandomState(2).normal(0, 2, (6, 4)).astype(np.float32)
ALL = np.ones(6, bool)


@pytest.mark.parametrize("metric", [
    metrics.human_kl_total, metrics.human_cross_entropy,
    lambda logits, human, mask: metrics.human_kl(logits, human),
])
def test_shares_of_human_labels_are_no_counts_and_of_the_same_examples(metric):
    metric(ANSWERS, HUMAN, ALL)
    with pytest.raises(ArgumentError, match="a sum is 50; divide counts by their sum"):
        metric(ANSWERS, 50 * HUMAN, ALL)
    for other in (HUMAN[:, :1], HUMAN[0]):
        with pytest.raises(ArgumentError, match=r"got human labels .* with logits \[6, 4\]"):
            jax.jit(metric)(ANSWERS, other, ALL)
    with pytest.raises(ArgumentError, match="these are probabilities"):
        metric(HUMAN, HUMAN, ALL)


def test_divergences_of_classes_are_of_probabilities():
    label = np.arange(6, dtype=np.int32) % 4
    sums = metrics.class_sums(HUMAN, label, ALL, 4)
    means = np.stack([HUMAN[label == number].astype(np.float64).mean(0) for number in range(4)])
    logs = np.log(means)
    expected = np.mean((means * logs).sum(1)[:, None] - means @ logs.T)
    assert metrics.class_separability(sums) == pytest.approx(expected, rel=1e-5)
    message = "got rows that are no probabilities: the smallest value is -.* give probabilities"
    with pytest.raises(ArgumentError, match=message):
        metrics.class_separability(metrics.class_sums(ANSWERS, label, ALL, 4))
    with pytest.raises(ArgumentError, match="a sum is 3; give probabilities: the softmax"):
        metrics.kl_matrix(means, 3 * means)


def test_numbers_that_mean_nothing_are_refused():
    label = np.arange(6, dtype=np.int32) % 4
    for k in (0, 2.5, -1):
        with pytest.raises(ArgumentError, match=f"k = {k}; must be a whole number of at least 1"):
            metrics.top_k_accuracy(ANSWERS, label, ALL, k)
    counts = metrics.confusion(ANSWERS, label, ALL)
    with pytest.raises(ArgumentError, match="got a matrix of sum 1 that holds no whole numbers"):
        metrics.precision_recall_f1(np.asarray(counts) / 6)
    few, many = (metrics.reliability(ANSWERS, label, ALL, bins=bins) for bins in (1, 15))
    with pytest.raises(ArgumentError, match="merge sums of the same settings"):
        metrics.merge(few, many)


@pytest.mark.parametrize("metric", [
    lambda mask: metrics.moments(ANSWERS, mask),
    lambda mask: metrics.group_sums(HUMAN, np.int32(0), mask, 2, 3),
    lambda mask: metrics.class_sums(HUMAN, np.zeros(len(mask), np.int32), mask, 4),
])
def test_masks_of_sums_are_of_the_same_rows(metric):
    metric(ALL)
    for mask in (ALL[:1], 1.0 * ALL, ALL[:, None]):
        with pytest.raises(ArgumentError, match=r"got a mask .*; must be bool\[6\]"):
            metric(mask)
