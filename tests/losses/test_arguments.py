"""Logits and labels that do not belong together are refused, with both numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import losses
from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import need_logits
from kdaug_jax.types import Outputs, features_of, select_features
from tests.losses.made import PLAIN

OF_LABELS = [name for name in PLAIN if name in ("cross_entropy", "binary_cross_entropy")]
OTHERS = {"kl_score": losses.kl_score} | {
    f"ensemble_{form}": lambda s, t, form=form: losses.ensemble_distance(s, t, form=form)
    for form in ("kl", "l2_norm")
}
OF_TEACHERS = {name: loss for name, loss in PLAIN.items() if name not in OF_LABELS} | OTHERS


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("name", OF_TEACHERS)
def test_teachers_of_other_classes_or_examples_are_refused(name):
    labels = (np.zeros(4, np.int32),) if name.startswith("dkd") else ()
    loss = jax.jit(OF_TEACHERS[name])
    with pytest.raises(ArgumentError, match="the student has 6 classes and the teacher 5"):
        loss(zeros(4, 6), zeros(4, 5), *labels)
    with pytest.raises(ArgumentError, match=r"shape \[4, 6\] and the teacher \[3, 6\]"):
        loss(zeros(4, 6), zeros(3, 6), *labels)


@pytest.mark.parametrize("name", [*OF_LABELS, "dkd"])
def test_labels_that_do_not_fit_are_refused(name):
    def loss(student, labels):
        return PLAIN[name](student, *([student] if name == "dkd" else []), labels)

    with pytest.raises(ArgumentError, match="the logits have 6 classes and the labels 5"):
        jax.jit(loss)(zeros(4, 6), zeros(4, 5))
    with pytest.raises(ArgumentError, match=r"shape \[4, 6\] and the labels \[3, 6\]"):
        jax.jit(loss)(zeros(4, 6), zeros(3, 6))
    with pytest.raises(ArgumentError, match=r"got logits \[4, 6\] and class numbers \[3\]"):
        jax.jit(loss)(zeros(4, 6), np.zeros(3, np.int32))
    for number in (6, -1):
        labels = np.asarray([0, 5, number, 1])
        for given in (labels, jnp.asarray(labels)):
            with pytest.raises(ArgumentError) as caught:
                loss(zeros(4, 6), given)
            assert str(caught.value) == f"got class number {number} with 6 classes; must be 0..5"


def test_traced_class_numbers_out_of_range_are_labels_without_a_class():
    labels = jnp.asarray([0, 6, -1])
    value = jax.jit(losses.cross_entropy)(zeros(3, 6), labels)
    np.testing.assert_allclose(value, [np.log(6), 0.0, 0.0], rtol=1e-6)


def test_what_fits_passes():
    need_logits(zeros(4, 6), zeros(4, 6), zeros(4, 6))
    need_logits(zeros(6), zeros(6), np.int32(5))
    need_logits(zeros(0, 6), labels=np.zeros(0, np.int32))


def test_the_average_of_teachers_is_that_of_their_probabilities():
    a, b = (np.random.default_rng(i).normal(0, 3, (4, 6)).astype(np.float32) for i in (0, 1))
    mean = (jax.nn.softmax(a) + jax.nn.softmax(b)) / 2
    np.testing.assert_allclose(jnp.exp(losses.average_teachers([a, b])), mean, rtol=1e-5)
    for temperature in (0.5, 4.0):  # of softened probabilities, for a loss at that temperature
        softened = (jax.nn.softmax(a / temperature) + jax.nn.softmax(b / temperature)) / 2
        got = losses.average_teachers([a, b], temperature)
        np.testing.assert_allclose(jax.nn.softmax(got / temperature), softened, rtol=1e-5)
    np.testing.assert_allclose(losses.average_teachers([a]), jax.nn.log_softmax(a), rtol=1e-5)
    with pytest.raises(ArgumentError, match="6 classes and the teacher 5"):
        losses.average_teachers([a, zeros(4, 5)])


def test_features_are_chosen_by_name():
    outputs = Outputs(zeros(2, 3), {"f0": zeros(2, 4)})
    assert list(features_of(outputs)) == ["logits", "f0"]
    f0, logits = select_features(outputs, ("f0", "logits"), ("student@x",))
    assert f0 is outputs.features["f0"] and logits is outputs.logits
    for networks, message in {
        ("a@x",): "a@x has no feature 'f9'; it has logits, f0",
        ("a@x", "b@x"): "a@x and b@x have no feature 'f9'; they have logits, f0",
    }.items():
        with pytest.raises(ArgumentError) as caught:
            select_features(outputs, ("f0", "f9"), networks)
        assert str(caught.value) == message
