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


LOGITS = np.random.RandomState(0).normal(0, 3, (6, 5)).astype(np.float32)
UNUSED = np.zeros(6, np.int32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", OF_TEACHERS)
def test_probabilities_in_place_of_logits_are_refused(name):
    labels = (np.arange(6) % 5,) if name.startswith("dkd") else ()
    message = "the teacher has rows that are positive and sum to 1, so these are prob"
    with pytest.raises(ArgumentError, match=message):
        OF_TEACHERS[name](LOGITS, PROBABILITIES, *labels)
    with pytest.raises(ArgumentError, match="the student has rows .*give logits, or the logarithm"):
        OF_TEACHERS[name](PROBABILITIES, LOGITS, *labels)


def test_logarithms_of_probabilities_are_logits():
    value = losses.kl(LOGITS, np.log(PROBABILITIES[::-1]))
    expected = (PROBABILITIES[::-1] * np.log(PROBABILITIES[::-1] / PROBABILITIES)).sum(axis=1)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    with pytest.raises(ArgumentError, match="a teacher has rows that are positive"):
        losses.average_teachers([PROBABILITIES])
    with pytest.raises(ArgumentError, match="these are probabilities"):
        losses.entropy(PROBABILITIES)


def test_labels_that_are_no_distribution_are_refused():
    for loss in (losses.cross_entropy, losses.binary_cross_entropy):
        with pytest.raises(ArgumentError, match="got a label that gives a class 100; must be class "
                           r"probabilities, 0\.\.1, or class numbers"):
            loss(LOGITS, 100.0 * np.eye(6, 5, dtype=np.float32))
        with pytest.raises(ArgumentError, match="got a label that gives a class -"):
            loss(LOGITS, LOGITS[::-1])
    several = np.ones((6, 5), np.float32)
    with pytest.raises(ArgumentError, match="sum to 5; must be at most 1; binary_cross_entropy"):
        losses.cross_entropy(LOGITS, several)
    expected = np.log1p(np.exp(-LOGITS.astype(np.float64))).mean(axis=1)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, several), expected, rtol=1e-5
    )


@pytest.mark.parametrize("call, message", [
    (lambda z: losses.kl(z, z, temperature=-1.0), "temperature = -1.0; must be more than 0"),
    (lambda z: losses.kl(z, z, temperature=0), "temperature = 0; must be more than 0"),
    (lambda z: losses.average_teachers([z, z], 0.0), "temperature = 0.0; must be more than 0"),
    (lambda z: losses.info_nce(z, z, UNUSED, temperature=0.0),
     "temperature = 0.0; must be more than 0"),
    (lambda z: losses.cross_entropy(z, np.zeros(6, int), label_smoothing=1.5),
     "label_smoothing = 1.5; must be 0..1"),
    (lambda z: losses.topk_kl(z, z, k=0), "k = 0; must be a whole number 1..5"),
    (lambda z: losses.topk_kl(z, z, k=6), "k = 6; must be a whole number 1..5"),
    (lambda z: losses.topk_kl(z, z, k=2.5), "k = 2.5; must be a whole number 1..5"),
    (lambda z: losses.ensemble_distance(z, z, form="kl_norn"),
     "got form='kl_norn'; must be one of l2_norm, kl, kl_norm"),
    (lambda z: losses.l2_normalized(z, -1.0), "scale = -1.0; must be more than 0"),
    (lambda z: losses.hardest(z, 2), "got scores [6, 5]; must be one an example, [B]"),
    (lambda z: losses.average_teachers(z),
     "got logits [6, 5] of one teacher; give a list of teachers' logits"),
    (lambda z: losses.ensemble_logits(np.stack([z, z]), np.zeros(1)),
     "got logits [2, 6, 5] and weights [1]; must be [N,B,C] and [N], a weight for each view"),
])
def test_options_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError) as caught:
        call(LOGITS)
    assert str(caught.value) == message


def test_embeddings_of_other_lengths_or_examples_are_refused():
    unit = LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True)
    score = unit.astype(np.float64) @ unit[::-1].T / 0.07
    expected = np.log(np.exp(score).sum(axis=1)) - np.diag(score)
    np.testing.assert_allclose(losses.info_nce(unit, unit[::-1], UNUSED), expected, rtol=1e-4)
    with pytest.raises(ArgumentError, match="the teacher's embeddings have lengths 2 to 2; divide"):
        losses.info_nce(unit, 2 * unit, UNUSED)
    with pytest.raises(ArgumentError, match=r"got features \[6, 5\] and \[5, 5\]"):
        losses.info_nce(unit, unit[:5], UNUSED)
    with pytest.raises(ArgumentError, match=r"got labels \[6, 1\]; must be class numbers \[6\]"):
        losses.info_nce(unit, unit, UNUSED[:, None], ignore_same_class=True)
