import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(0, 3, (8, 5)), jnp.float32) for _ in range(2))


def test_scores():
    for name, of in (("teacher_entropy", TEACHER), ("student_entropy", STUDENT)):
        p = np.asarray(jax.nn.softmax(of))
        expected = -(p * np.log(p)).sum(-1)
        np.testing.assert_allclose(losses.PICKERS[name](STUDENT, TEACHER), expected, rtol=1e-5)
    value = losses.PICKERS["kl"](STUDENT, TEACHER)
    np.testing.assert_allclose(
        16 * value, losses.kl(STUDENT, TEACHER, temperature=4.0), rtol=1e-5
    )


def test_the_entropy_of_a_sure_network_is_zero_and_of_an_unsure_one_log_c():
    value = losses.entropy(jnp.asarray([[1e4, -1e4, 0.0], [2.0, 2.0, 2.0]]))
    np.testing.assert_allclose(value, [0.0, np.log(3)], atol=1e-6)


def test_the_hardest_come_last_and_ties_by_position():
    score = jnp.asarray([1.0, 3.0, 2.0, 3.0, 0.0])
    assert losses.hardest(score, 3).tolist() == [2, 1, 3]
    assert losses.hardest(score, 1).tolist() == [3]
    assert losses.hardest(score, 5).tolist() == [4, 0, 2, 1, 3]


@pytest.mark.parametrize("keep", [0, 9])
def test_what_cannot_be_kept(keep):
    with pytest.raises(ValueError) as caught:
        losses.hardest(losses.kl_score(STUDENT, TEACHER), keep)
    assert caught.value.args == (f"keeps {keep} of 8", "must be 1..8")


@pytest.mark.parametrize("picker", losses.PICKERS)
def test_what_is_kept_scores_more_than_the_pool(picker):
    score = losses.PICKERS[picker](STUDENT, TEACHER)
    kept = losses.hardest(score, 4)
    assert losses.kept_ratio(score, kept) > 1
    assert losses.kept_ratio(jnp.zeros(8), kept) == 1


def test_disagreement_with_a_mixed_label():
    eye = np.eye(3, dtype=np.float32)
    teacher = jnp.asarray([[2.0, 1.0, 0.0]] * 4)
    target = np.stack([0.6 * eye[0] + 0.4 * eye[1], 0.4 * eye[0] + 0.6 * eye[1],
                       eye[0], 0.5 * eye[0] + 0.5 * eye[2]])
    disagrees = losses.label_disagreement(teacher, target)
    assert disagrees.tolist() == [False, True, False, False]
