import jax
import numpy as np
import pytest

from kdaug_jax import metrics

RNG = np.random.default_rng(3)
P = np.asarray(jax.nn.softmax(RNG.normal(0, 2, (23, 5)).astype(np.float32)))


def test_it_is_the_mean_deviation_of_the_groups_mean_answers():
    sums = metrics.group_sums(P, np.int32(0), np.ones(23, bool), 4, 5)
    means = P[:20].reshape(4, 5, 5).mean(axis=1)
    expected = means.std(axis=0, ddof=1).mean()
    np.testing.assert_allclose(metrics.t_stddev(sums, 5), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_batches_add_up_wherever_they_are_cut(size):
    whole = metrics.group_sums(P, np.int32(0), np.ones(23, bool), 4, 5)
    total = 0
    for start in range(0, 23, size):
        rows = np.arange(start, start + size)
        mask = rows < 23
        part = np.where(mask[:, None], P[np.minimum(rows, 22)], np.nan)
        total += metrics.group_sums(part, np.int32(start), mask, 4, 5)
    np.testing.assert_allclose(total, whole, rtol=1e-6)


def test_a_teacher_that_always_says_the_same_has_none_and_one_group_is_refused():
    same = metrics.group_sums(
        np.full((12, 3), 1 / 3, np.float32), np.int32(0), np.ones(12, bool), 3, 4
    )
    assert metrics.t_stddev(same, 4) == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError) as caught:
        metrics.t_stddev(same[:1], 4)
    assert caught.value.args == ("got 1 groups of 4 views", "needs at least 2")


def test_sums_of_another_number_of_views_are_refused():
    sums = metrics.group_sums(P, np.int32(0), np.ones(23, bool), 4, 5)
    with pytest.raises(ValueError, match="sums over 640 views are .* give the number of views"):
        metrics.t_stddev(sums)
    part = metrics.group_sums(P, np.int32(0), np.ones(23, bool), 5, 5)  # of the last only 3 rows
    with pytest.raises(ValueError, match="full groups, and probabilities"):
        metrics.t_stddev(part, 5)
    with pytest.raises(ValueError, match="full groups, and probabilities"):
        metrics.t_stddev(metrics.group_sums(np.log(P), np.int32(0), np.ones(23, bool), 4, 5), 5)
