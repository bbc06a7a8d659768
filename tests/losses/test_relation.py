import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import feature, relation

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(0, 1, (6, d)), jnp.float32) for d in (5, 7))
LOSSES = {
    name: jax.jit(getattr(relation, name))
    for name in ("rkd_distance", "rkd_angle", "rkd", "rkd_role", "sp", "pkt")
}
GRADIENTS = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_left_to_learn_from_equal_features(name):
    value, gradient = GRADIENTS[name](TEACHER, TEACHER)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
    assert LOSSES[name](STUDENT, TEACHER) > 1e-4


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "rkd"])
def test_rkd_sees_neither_rotation_nor_scale_nor_shift(name):
    rotation, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    changed = 3.0 * STUDENT @ jnp.asarray(rotation, jnp.float32) + 2.0
    np.testing.assert_allclose(
        LOSSES[name](changed, TEACHER), LOSSES[name](STUDENT, TEACHER), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["sp", "pkt"])
def test_similarities_see_no_rotation(name):
    rotation, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    changed = STUDENT @ jnp.asarray(rotation, jnp.float32)
    np.testing.assert_allclose(
        LOSSES[name](changed, TEACHER), LOSSES[name](STUDENT, TEACHER), rtol=1e-4
    )


def test_the_order_of_examples_matters_to_none_but_cc():
    order = np.asarray([3, 1, 5, 0, 2, 4])
    for name, loss in LOSSES.items():
        np.testing.assert_allclose(
            loss(STUDENT[order], TEACHER[order]), loss(STUDENT, TEACHER), rtol=1e-5, err_msg=name
        )
    pair = STUDENT, TEACHER[:, :5]
    assert relation.cc(*(x[order] for x in pair)) != relation.cc(*pair)


def test_distances_are_those_of_numpy():
    relative = []
    for rows in (STUDENT, TEACHER):
        distance = np.linalg.norm(np.asarray(rows)[:, None] - np.asarray(rows)[None], axis=-1)
        relative.append(distance / distance[~np.eye(6, dtype=bool)].mean())
    difference = np.abs(relative[0] - relative[1])
    huber = np.where(difference < 1, 0.5 * difference**2, difference - 0.5)
    np.testing.assert_allclose(LOSSES["rkd_distance"](STUDENT, TEACHER), huber.mean(), rtol=1e-5)


def test_close_examples_keep_their_digits():
    """Distances of 1e-3 at an offset of 100, where a Gram matrix would have lost them."""
    suggest = 1e-3 * STUDENT
    value = LOSSES["rkd_distance"](suggest, TEACHER)
    np.testing.assert_allclose(LOSSES["rkd_distance"](suggest + 2.0**7, TEACHER), value, rtol=0.05)


@pytest.mark.parametrize("name", LOSSES)
def test_examples_that_are_equal_have_a_moderate_gradient(name):
    twice = jnp.concatenate([STUDENT[:3], STUDENT[:3]])
    for student in (twice, twice + 1e-8, jnp.zeros_like(twice)):
        value, gradient = GRADIENTS[name](student, TEACHER)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        # The longest legal step: pkt divides by lengths of 1e-7.
        assert name == "pkt" or np.abs(gradient).max() < 1e4


@pytest.mark.parametrize("name", [*LOSSES, "cc"])
def test_gradients(name):
    teacher = TEACHER[:, :5] if name == "cc" else TEACHER
    loss = jax.jit(getattr(relation, name))
    check_grads(
        lambda s: loss(s, teacher), (STUDENT,), 1, modes=("rev",), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("name", [*LOSSES, "cc"])
def test_too_few_examples_are_refused(name):
    min_group = 3 if name in ("rkd", "rkd_angle", "rkd_role") else 2
    with pytest.raises(ValueError) as caught:
        getattr(relation, name)(STUDENT[: min_group - 1], STUDENT[: min_group - 1])
    assert caught.value.args[1] == f"needs at least {min_group} in a group"


def test_cc_needs_equal_widths():
    with pytest.raises(ValueError) as caught:
        relation.cc(STUDENT, TEACHER)
    assert "the student has [5] and the teacher [7]" in caught.value.args[0]


@pytest.mark.parametrize("loss", [
    relation.rkd_distance, relation.rkd_angle, relation.rkd, relation.rkd_role, relation.sp,
    relation.pkt, relation.cc, feature.at, feature.nst, feature.factor_distance,
])
def test_one_example_is_not_compared_with_all(loss):
    student = jnp.ones((4, 3, 3, 2)) if loss.__module__.endswith("feature") else jnp.ones((4, 5))
    with pytest.raises(ArgumentError, match=r"same examples|needs equal"):
        loss(student, student[:1])
