"""Calibration, confusion, agreement, human labels, class discrimination."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from kdaug_jax import metrics
from kdaug_jax.runtime import sharding
from tests.golden_losses.common import File
from tests.golden_losses.measures import metrics_004

GOLDEN = Path(__file__).parents[1] / "golden" / "losses" / "metrics_004.npz"
RNG = np.random.default_rng(0)
SIZE, CLASSES = 53, 5
LOGITS, OTHER = (RNG.normal(0, 3, (SIZE, CLASSES)).astype(np.float32) for _ in range(2))
LABEL = RNG.integers(0, CLASSES, SIZE).astype(np.int32)
HUMAN = RNG.multinomial(8, np.full(CLASSES, 1 / CLASSES), SIZE).astype(np.float32) / 8
EMBEDDING = (RNG.normal(5, 2, (SIZE, 7)) + LABEL[:, None]).astype(np.float32)
EVERY = np.ones(SIZE, bool)
SEEN = metrics.moments(EMBEDDING, EVERY)

# Each gives sums of `(logits, other, label, human, embedding, mask)`, to be merged.
SUMS = {
    "confusion": lambda z, o, y, h, e, m: metrics.confusion(z, y, m),
    "reliability": lambda z, o, y, h, e, m: metrics.reliability(z, y, m, bins=10),
    "brier": lambda z, o, y, h, e, m: metrics.brier(z, y, m),
    "agreement": lambda z, o, y, h, e, m: metrics.agreement(z, o, m),
    "predictive_kl": lambda z, o, y, h, e, m: metrics.predictive_kl(z, o, m),
    "effective_classes": lambda z, o, y, h, e, m: metrics.effective_classes(z, m),
    "human_kl": lambda z, o, y, h, e, m: metrics.human_kl_total(z, h, m),
    "human_ce": lambda z, o, y, h, e, m: metrics.human_cross_entropy(z, h, m),
    "class_sums": lambda z, o, y, h, e, m: metrics.class_sums(jax.nn.softmax(z), y, m, CLASSES),
    "unit_sums": lambda z, o, y, h, e, m: metrics.unit_sums(e, y, m, SEEN, CLASSES),
    "moments": lambda z, o, y, h, e, m: metrics.moments(e, m),
}
SUMS = {name: jax.jit(function) for name, function in SUMS.items()}
ARRAYS = (LOGITS, OTHER, LABEL, HUMAN, EMBEDDING)
P = np.exp(LOGITS.astype(np.float64))
P /= P.sum(1, keepdims=True)


def test_values_equal_the_reference_to_a_millionth():
    with np.load(GOLDEN) as stored:
        file = File({key: stored[key] for key in stored.files})
    results = metrics_004(file)
    for key in file.results:
        np.testing.assert_allclose(
            results[key], file.arrays[key], rtol=1e-6, atol=1e-6, err_msg=key
        )


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", SUMS)
def test_batches_that_are_filled_up_on_any_devices_sum_to_the_same(name, devices):
    """Four batches of 16, the last filled up with junk, against one call without a mask."""
    expected = SUMS[name](*ARRAYS, EVERY)
    merge = metrics.merge_moments if name == "moments" else metrics.merge
    mesh, merged = sharding.make_mesh(devices, 16), None
    for start in range(0, 64, 16):
        rows = np.arange(start, start + 16)
        mask = rows < SIZE
        batch = [array[np.minimum(rows, SIZE - 1)] for array in ARRAYS]
        batch[0][~mask], batch[1][~mask], batch[4][~mask] = np.nan, np.inf, np.nan
        part = sharding.settle(SUMS[name](*sharding.put_batch(mesh, (*batch, mask))))
        part = jax.device_get(part)
        merged = part if merged is None else merge(merged, part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), merged, expected)


def test_precision_recall_and_f1_are_scikit_learns():
    never = LOGITS[:, [0, 1, 1, 1, 1]]  # some classes are never the answer
    for label, logits in ((LABEL, LOGITS), (LABEL % 3, LOGITS), (LABEL, never)):
        counts = metrics.confusion(logits, label, EVERY)
        taken = logits.argmax(1)
        np.testing.assert_array_equal(
            counts, confusion_matrix(label, taken, labels=np.arange(CLASSES))
        )
        expected = precision_recall_fscore_support(
            label, taken, average="macro", zero_division=0
        )
        scores = metrics.precision_recall_f1(counts)
        np.testing.assert_allclose(list(scores.values()), expected[:3], rtol=1e-12)
    nothing = metrics.precision_recall_f1(np.zeros((CLASSES, CLASSES)))
    assert np.isnan(list(nothing.values())).all()


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_is_that_of_the_formula(bins):
    sums = metrics.reliability(LOGITS, LABEL, EVERY, bins=bins)
    confidence, right = P.max(1), P.argmax(1) == LABEL
    gap, largest = 0.0, 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            distance = abs(right[inside].mean() - confidence[inside].mean())
            gap, largest = gap + inside.mean() * distance, max(largest, distance)
    np.testing.assert_allclose(metrics.ece(sums), gap, atol=1e-6)
    np.testing.assert_allclose(metrics.mce(sums), largest, atol=1e-6)
    assert sums.count.sum() == SIZE and metrics.gaps(sums)[1].sum() == pytest.approx(1)


def test_logits_that_hold_a_nan_name_no_class():
    logits, label = LOGITS.copy(), np.zeros(SIZE, np.int32)
    logits[:9, 1], logits[9, 0] = np.nan, np.inf
    assert metrics.unanswered(logits, label, EVERY).tolist() == [10, 0, 0, 0, 0]
    known = slice(10, None)
    kept = metrics.confusion(logits[known], label[known], EVERY[known])
    counts = metrics.confusion(logits, label, EVERY)
    np.testing.assert_array_equal(counts, kept)
    right = int((logits[known].argmax(1) == 0).sum())
    for k in (1, 5):
        got = metrics.top_k_accuracy(logits, label, EVERY, k)
        assert float(got[0]) == (right if k == 1 else SIZE - 10)
    scores = metrics.precision_recall_f1(counts, metrics.unanswered(logits, label, EVERY))
    answers = np.where(np.arange(SIZE) < 10, -1, logits.argmax(1))
    expected = precision_recall_fscore_support(
        label, answers, average="macro", zero_division=0,
        labels=[0, *sorted(set(answers[known]) - {0})],
    )
    np.testing.assert_allclose(list(scores.values()), expected[:3], rtol=1e-12)
    sums = metrics.reliability(logits, label, EVERY)
    assert float(sums.right.sum()) == right and np.isnan(metrics.ece(sums))
    assert float(metrics.agreement(logits, logits, EVERY)[0]) == SIZE - 10


@pytest.mark.parametrize("batch", [1, 7, 16, SIZE])
def test_a_dimension_that_rounding_moves_is_constant(batch):
    """Its last bits differ by batch, as those of a network do, and must not count."""
    random, embedding = np.random.default_rng(3), EMBEDDING.copy()
    embedding[:, 2] = 0.1 * (1 + 1e-7 * random.integers(-2, 3, SIZE))
    embedding[:, 4] = -1234.567
    parts = [slice(start, start + batch) for start in range(0, SIZE, batch)]
    moments = [metrics.moments(embedding[part], EVERY[part]) for part in parts]
    seen = functools.reduce(metrics.merge_moments, moments)
    sums = [
        metrics.unit_sums(embedding[part], LABEL[part], EVERY[part], seen, CLASSES)
        for part in parts
    ]
    got = metrics.class_discrimination(functools.reduce(metrics.merge, sums), dim=7)
    varying = embedding[:, [0, 1, 3, 5, 6]].astype(np.float64)
    expected = _discrimination(varying, 7)
    np.testing.assert_allclose(got[:3], expected, rtol=1e-4, atol=1e-5)


def _discrimination(rows, dim):
    """In float64, over all pairs."""
    rows = (rows - rows.mean(0)) / rows.std(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine, count = rows @ rows.T, np.bincount(LABEL, minlength=CLASSES)
    within, between = [], []
    for a in range(CLASSES):
        for b in range(CLASSES):
            block = cosine[LABEL == a][:, LABEL == b]
            if a == b:
                within.append((block.sum() - count[a]) / (count[a] * (count[a] - 1)))
            else:
                between.append(block.mean())
    cohesion, adhesion = np.mean(within), np.mean(between)
    return cohesion, adhesion, (cohesion - adhesion) / np.sqrt(dim)


def test_a_bin_holds_its_upper_end():
    logits = np.asarray([[0.0, 0.0], [1e4, 0.0], [1.0, 0.0]], np.float32)  # 0.5, 1, 0.73
    sums = metrics.reliability(logits, np.zeros(3, np.int32), np.ones(3, bool), bins=4)
    assert sums.count.tolist() == [0, 1, 1, 1]


def test_means_are_those_of_numpy():
    q = np.exp(OTHER.astype(np.float64))
    q /= q.sum(1, keepdims=True)
    one_hot = np.eye(CLASSES)[LABEL]
    expected = {
        "brier": ((P - one_hot) ** 2).sum(1).mean(),
        "agreement": (P.argmax(1) == q.argmax(1)).mean(),
        "predictive_kl": (q * np.log(q / P)).sum(1).mean(),
        "effective_classes": np.exp(-(P * np.log(P)).sum(1)).mean(),
        "human_ce": -(HUMAN * np.log(P)).sum(1).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics.mean(SUMS[name](*ARRAYS, EVERY)), value, rtol=1e-6)


def test_the_effective_number_of_classes_lies_between_one_and_all():
    logits = np.asarray([[1e4, 0, 0, 0], [0, 0, 0, 0], [9, 9, -1e4, -1e4]], np.float32)
    each = [metrics.effective_classes(logits[i : i + 1], EVERY[:1])[0] for i in range(3)]
    np.testing.assert_allclose(each, [1, 4, 2], rtol=1e-6)


def test_people_who_never_chose_a_class_add_nothing():
    people = np.asarray([[1.0, 0.0], [0.5, 0.5]], np.float32)
    logits = np.asarray([[0.0, -1e4], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(metrics.human_kl(logits, people), [0.0, 0.0], atol=1e-6)


def test_kl_between_class_means():
    sums = metrics.class_sums(P.astype(np.float32), LABEL, EVERY, CLASSES)
    means = metrics.class_means(sums)
    for k in range(CLASSES):
        np.testing.assert_allclose(means[k], P[LABEL == k].mean(0), rtol=1e-5)
    matrix = metrics.kl_matrix(means, means)
    expected = [[(a * np.log(a / b)).sum() for b in means] for a in means]
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    assert metrics.class_separability(sums) == pytest.approx(np.mean(expected))
    people = metrics.class_sums(HUMAN, LABEL, EVERY, CLASSES)
    divergence = np.diag(metrics.kl_matrix(metrics.class_means(people), means))
    assert metrics.human_kl_class(people, sums) == pytest.approx(divergence.mean())
    assert np.isfinite(metrics.kl_matrix(np.eye(3), np.eye(3))).all()


def test_classes_without_examples_are_left_out_of_means():
    p = jax.nn.softmax(LOGITS, axis=-1)
    whole = [metrics.class_sums(rows, LABEL, EVERY, CLASSES) for rows in (HUMAN, p)]
    # Two more classes, which no example has.
    more = [metrics.class_sums(rows, LABEL, EVERY, CLASSES + 2) for rows in (HUMAN, p)]
    assert metrics.class_separability(more[1]) == metrics.class_separability(whole[1]) > 0
    assert metrics.human_kl_class(*more) == metrics.human_kl_class(*whole) > 0
    nobody = metrics.class_sums(p, LABEL, ~EVERY, CLASSES)
    assert np.isnan(metrics.class_separability(nobody))


@pytest.mark.parametrize("embedding", [EMBEDDING, 1e3 + EMBEDDING, EMBEDDING.reshape(SIZE, 1, 7)])
def test_discrimination_is_that_of_all_pairs(embedding):
    flat = embedding.reshape(SIZE, -1).astype(np.float64)
    z = (flat - flat.mean(0)) / flat.std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosine = z @ z.T
    same = LABEL[:, None] == LABEL[None]
    within = [
        cosine[np.ix_(LABEL == k, LABEL == k)][~np.eye((LABEL == k).sum(), dtype=bool)].mean()
        for k in range(CLASSES)
    ]
    between = [
        cosine[np.ix_(LABEL == i, LABEL == j)].mean()
        for i in range(CLASSES) for j in range(i + 1, CLASSES)
    ]
    moments = metrics.moments(embedding, EVERY)
    sums = metrics.unit_sums(embedding, LABEL, EVERY, moments, CLASSES)
    result = metrics.class_discrimination(sums)
    tolerance = 1e-6 if embedding.max() < 100 else 1e-3  # what float32 holds of 1000 + x
    np.testing.assert_allclose(result.cohesion_per_class, within, atol=tolerance)
    np.testing.assert_allclose(
        result.adhesion_per_pair[np.triu_indices(CLASSES, 1)], between, atol=tolerance
    )
    value = (np.mean(within) - np.mean(between)) / np.sqrt(7)
    np.testing.assert_allclose(result.discrimination, value, atol=tolerance)
    table5 = metrics.class_discrimination(sums, table5=True)
    value = (np.mean(within) - np.mean(between) / 2) / np.sqrt(CLASSES)
    np.testing.assert_allclose(table5.discrimination, value, atol=tolerance)
    np.testing.assert_allclose(table5.adhesion, np.mean(between) / 2, atol=tolerance)
    other = metrics.class_discrimination(sums, dim=28).discrimination
    np.testing.assert_allclose(2 * other, result.discrimination, rtol=1e-9)
    assert same.any()


def test_classes_without_pairs_are_left_out():
    label = np.minimum(LABEL, 1)
    label[0] = 2
    run = functools.partial(metrics.unit_sums, EMBEDDING, label, EVERY, SEEN)
    result = metrics.class_discrimination(run(CLASSES))
    assert np.isnan(result.cohesion_per_class).tolist() == [False, False, True, True, True]
    assert np.isfinite(result.adhesion_per_pair).sum() == 6
    assert np.isfinite(result[:3]).all()


def test_dimensions_that_never_change_count_as_nothing():
    wide = np.concatenate([EMBEDDING, np.full((SIZE, 2), 3.5, np.float32)], axis=1)
    results = [
        metrics.class_discrimination(
            metrics.unit_sums(x, LABEL, EVERY, metrics.moments(x, EVERY), CLASSES), dim=7
        )
        for x in (EMBEDDING, wide)
    ]
    np.testing.assert_allclose(results[0].discrimination, results[1].discrimination, rtol=1e-5)
