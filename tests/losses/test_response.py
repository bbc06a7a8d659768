from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax import losses
from tests.losses.made import PLAIN, RELATIONAL, arguments, logits

topk_kl = jax.jit(losses.topk_kl, static_argnames="renormalize")




@pytest.mark.parametrize("renormalize", [False, True])
def test_with_all_classes_topk_kl_is_kl(renormalize):
    student, teacher = logits(0), logits(1)
    value = topk_kl(student, teacher, k=6, renormalize=renormalize)
    np.testing.assert_allclose(value, losses.kl(student, teacher), rtol=1e-5)


def test_k_may_be_traced():
    student, teacher = logits(0), logits(1)
    topk_kl(student, teacher, k=np.int32(1))
    before = topk_kl._cache_size()
    for k in range(1, 7):
        traced = topk_kl(student, teacher, k=np.int32(k))
        np.testing.assert_allclose(traced, losses.topk_kl(student, teacher, k=k), rtol=1e-5)
    assert topk_kl._cache_size() == before


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_top_classes_are_those_of_lax_top_k_ties_included(k):
    values = jnp.asarray(np.random.default_rng(0).integers(-2, 2, (20, 12)), jnp.float32)
    indices = np.asarray(jax.lax.top_k(values, k)[1])
    expected = np.zeros(values.shape, bool)
    np.put_along_axis(expected, indices, True, axis=1)
    np.testing.assert_array_equal(losses.top_classes(values, k), expected)


@pytest.mark.parametrize("teacher", [[0.0, -jnp.inf, 1.0], [0.0, -500.0, 1.0]], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        losses.kl,
        partial(losses.kl, temperature=4.0),
        partial(losses.topk_kl, k=3),
        partial(losses.topk_kl, k=2, renormalize=True),
    ],
    ids=["kl", "kl_T4", "topk_kl", "renormalized"],
)
def test_a_class_that_the_teacher_rules_out_adds_nothing(loss, teacher):
    teacher, student = jnp.array([teacher]), logits(0, (1, 3))
    value, gradient = jax.value_and_grad(lambda s, t: loss(s, t).sum(), (0, 1))(student, teacher)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    if loss is losses.kl:
        p = np.asarray(jax.nn.softmax(teacher))
        keep = np.array([0, 2])
        ratio = np.log(p) if p.all() else np.log(p[:, keep])
        log_s = np.asarray(jax.nn.log_softmax(student))[:, keep]
        np.testing.assert_allclose(value, (p[:, keep] * (ratio - log_s)).sum(), rtol=1e-5)


def test_a_teacher_that_is_nan_is_not_hidden():
    teacher = logits(1).at[2, 3].set(jnp.nan)
    for loss in (losses.kl, partial(losses.topk_kl, k=2)):
        value = np.isnan(loss(logits(0), teacher))
        assert value.tolist() == [False, False, True, False]


OF_LABELS = ("cross_entropy", "binary_cross_entropy")


@pytest.mark.parametrize("name", PLAIN)
def test_float32_under_jit_vmap_and_bfloat16(name):
    loss = PLAIN[name]
    other = jax.nn.softmax(logits(1)) if name in OF_LABELS else logits(1)
    given = arguments(name, logits(0), other)
    value = loss(*given)
    assert value.shape == (() if name in RELATIONAL else (4,)) and value.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(loss)(*given), value, rtol=1e-5)
    if name not in RELATIONAL:
        np.testing.assert_allclose(jax.vmap(loss)(*given), value, rtol=1e-5)
    half = tuple(array.astype(jnp.bfloat16) for array in given)
    rounded = loss(*half)
    assert rounded.dtype == jnp.float32
    wide = loss(*(array.astype(jnp.float32) for array in half))
    np.testing.assert_array_equal(rounded, wide)
    check_grads(
        lambda s: loss(s, *given[1:]), given[:1], 1, modes=("rev",), atol=1e-2, rtol=1e-2, eps=1e-2
    )


@pytest.mark.parametrize("case", ["equal", "sure", "wrong"])
@pytest.mark.parametrize("name", PLAIN)
def test_values_and_gradients_are_finite(name, case):
    """Of logits that are all equal, and of networks that are as sure as they can be."""
    sure = 1e4 * jnp.eye(4, 6, dtype=jnp.float32)
    student, teacher = {
        "equal": (jnp.zeros((4, 6)), jnp.zeros((4, 6))), "sure": (sure, sure),
        "wrong": (sure, -sure),
    }[case]
    labels = jax.nn.softmax(teacher)
    given = arguments(name, student, labels if name in OF_LABELS else teacher)
    given = (*given[:2], labels) if name.startswith("dkd") else given
    value, gradient = jax.value_and_grad(lambda s: PLAIN[name](s, *given[1:]).sum())(student)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e6


@pytest.mark.parametrize(
    "name",
    ["kl", "renormalized", "dml", "dml_symmetric", "lskd", "dkd", "dist", "mlkd", "mlkd_masked"],
)
def test_nothing_is_left_to_learn_from_an_equal_teacher(name):
    student, labels = logits(0), jnp.arange(4, dtype=jnp.int32)
    teacher = (student, labels) if name == "dkd" else (student,)
    value, gradient = jax.value_and_grad(lambda s: PLAIN[name](s, *teacher).sum())(student)
    np.testing.assert_allclose(value, 0.0, atol=1e-4)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


def test_dkd_with_weights_of_kd_is_kl():
    """KL = T^2 (binary + (1 - p_t of the target) rest), eq. 6 of the paper."""
    student, teacher = logits(0, (1, 6)), logits(1, (1, 6))
    labels = jnp.asarray([2], jnp.int32)
    rest = 1.0 - jax.nn.softmax(teacher / 4.0)[0, 2]
    value = losses.dkd(student, teacher, labels, alpha=1.0, beta=rest, temperature=4.0)
    np.testing.assert_allclose(value, losses.kl(student, teacher, temperature=4.0), rtol=1e-5)
    soft = losses.dkd(student, teacher, jax.nn.one_hot(labels, 6), beta=rest, temperature=4.0)
    np.testing.assert_array_equal(soft, value)


def test_dist_is_one_minus_pearsons_correlation():
    student, teacher = logits(0), logits(1)
    p, q = (np.asarray(jax.nn.softmax(z / 2.0)) for z in (student, teacher))
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    value = losses.dist(student, teacher, beta=3.0, gamma=0.5, temperature=2.0)
    np.testing.assert_allclose(value, 4.0 * (3.0 * (1 - rows) + 0.5 * (1 - columns)), rtol=1e-5)


def test_dist_does_not_see_scale_and_shift_of_probabilities():
    """It asks for a linear relation only, so a teacher that is only surer costs little."""
    p = jax.nn.softmax(logits(0))
    value = losses.dist(jnp.log(p), jnp.log(0.5 * p + 0.5 / 6))
    np.testing.assert_allclose(value, 0.0, atol=1e-5)


def test_standardized_logits_do_not_see_scale_and_shift():
    student, teacher = logits(0), logits(1)
    np.testing.assert_allclose(
        losses.lskd(3.0 * student + 1.0, 0.5 * teacher - 2.0), losses.lskd(student, teacher),
        rtol=1e-4,
    )


def test_a_masked_multi_level_loss_leaves_out_what_the_teacher_is_sure_of():
    teacher = logits(1).at[:2].set(0.0).at[2:].multiply(9.0)
    student = logits(0)
    options = dict(temperatures=(1.0,))
    before = losses.mlkd(student, teacher, masked=True, **options)
    gradient = jax.grad(lambda t: losses.kl(student, t)[2:].sum())(teacher)
    assert gradient.any()
    parts = np.asarray(losses.kl(student, teacher))
    unmasked = losses.mlkd(student, teacher, **options)
    assert before < unmasked - 0.9 * parts[2:].sum() / 4


def test_parts_of_the_multi_level_loss_add_up():
    """MLKD with standardised logits standardises the KL and not the Grams, as two terms."""
    student, teacher, options = logits(0), logits(1), dict(temperatures=(2.0, 4.0))
    total = losses.mlkd(student, teacher, **options)
    parts = ("kl",), ("examples",), ("classes",)
    values = [losses.mlkd(student, teacher, parts=part, **options) for part in parts]
    np.testing.assert_allclose(sum(values), total, rtol=1e-6)
    np.testing.assert_allclose(
        values[0], sum(losses.kl(student, teacher, temperature=t).mean() for t in (2.0, 4.0)),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="got parts=") as caught:
        losses.mlkd(student, teacher, parts=("kl", "grams"))
    assert caught.value.args[1] == "must be of kl, examples, classes"


@pytest.mark.parametrize("temperatures", [(), (0.0,), ("a",)])
def test_temperatures_that_make_no_sense(temperatures):
    with pytest.raises(ValueError) as caught:
        losses.mlkd(logits(0), logits(1), temperatures=temperatures)
    assert caught.value.args[1] == "must be numbers more than 0"


def test_hard_labels_and_soft_cross_entropy():
    student, teacher = logits(0), logits(1)
    chosen = np.argmax(teacher, axis=-1).astype(np.int32)
    np.testing.assert_array_equal(
        losses.hard_kd(student, teacher), losses.cross_entropy(student, chosen)
    )
    unknown = np.array(teacher)
    unknown[1, 2] = np.nan  # names no class; an argmax would call it one
    value = losses.hard_kd(student, unknown)
    assert np.isnan(value[1]) and np.isfinite(np.delete(value, 1)).all()
    p = jax.nn.softmax(teacher / 3.0)
    value = losses.cross_entropy_kd(student, teacher, temperature=3.0)
    entropy = -jnp.sum(p * jnp.log(p), axis=-1)
    parts = losses.kl(student, teacher, temperature=3.0, times_t2=False) + entropy
    np.testing.assert_allclose(value, parts, rtol=1e-5)


def test_no_gradient_flows_through_the_choice_of_classes():
    gradient = jax.grad(lambda t: losses.top_classes(t, 2).astype(jnp.float32).sum())(logits(0))
    assert not gradient.any()


def test_binary_cross_entropy_follows_torch(torch):
    student, target = logits(3), np.random.default_rng(4).uniform(size=(4, 6))
    target = target.astype(np.float32)
    theirs = torch.tensor(np.asarray(student), requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(theirs, torch.tensor(target))
    loss.backward()
    value, gradient = jax.value_and_grad(lambda s: losses.binary_cross_entropy(s, target).mean())(
        student
    )
    np.testing.assert_allclose(value, loss.detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-6)


def test_binary_cross_entropy_takes_classes_above_a_threshold_as_present():
    student = logits(3)
    mixed = np.asarray([[0.85, 0.15, 0, 0, 0, 0], [0.7, 0.3, 0, 0, 0, 0]] * 2, np.float32)
    present = np.asarray([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]] * 2, np.float32)
    np.testing.assert_array_equal(
        losses.binary_cross_entropy(student, mixed, threshold=0.2),
        losses.binary_cross_entropy(student, present),
    )
    with pytest.raises(ValueError, match="threshold"):
        losses.binary_cross_entropy(student, mixed, threshold=1.5)


def test_binary_cross_entropy_of_sure_logits_is_finite():
    sure = jnp.asarray([[1e4, -1e4]], jnp.float32)
    assert losses.binary_cross_entropy(sure, np.asarray([0], np.int32))[0] == 0.0
    assert losses.binary_cross_entropy(sure, np.asarray([1], np.int32))[0] == 1e4
    smooth = losses.binary_cross_entropy(sure, np.asarray([0], np.int32), label_smoothing=0.2)
    np.testing.assert_allclose(smooth, [0.1 * 1e4], rtol=1e-5)
