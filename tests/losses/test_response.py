from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax import losses

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
topk_kl = jax.jit(losses.topk_kl, static_argnames="renormalize")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def logits(seed, shape=(4, 6)):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, shape), jnp.float32)


def labels(data):
    return data["labels"].astype(np.int32)


def total(data, loss):
    """Checks a batch loss of the student's logits against a golden value and gradient."""
    value, gradient = jax.jit(jax.value_and_grad(loss))(data["logits_s"])
    np.testing.assert_allclose(value, data["loss"], rtol=2e-5, atol=1e-6)
    expected = data["grad_logits_s"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["ce_ls00", "ce_ls10"])
def test_cross_entropy_is_the_reference(name):
    data = load(name)
    smoothing = data["cfg_eps"].astype(np.float32)
    options = {"label_smoothing": smoothing}
    total(data, lambda s: losses.cross_entropy(s, labels(data), **options).mean())
    one_hot = jax.nn.one_hot(labels(data), 10)
    total(data, lambda s: losses.cross_entropy(s, one_hot, **options).mean())


def test_cross_entropy_of_mixed_labels_is_the_reference():
    data = load("ce_mixed_targets")
    one_hot, lam = np.eye(10, dtype=np.float32)[data["labels"]], np.float32(data["lam"])
    mixed = lam * one_hot + (1 - lam) * one_hot[data["perm"]]
    total(data, lambda s: losses.cross_entropy(s, mixed).mean())


@pytest.mark.parametrize("name", ["kd_T1", "kd_T4", "kd_T20"])
def test_kl_is_the_reference(name):
    data = load(name)
    temperature = data["cfg_T"].astype(np.float32)
    total(data, lambda s: losses.kl(s, data["logits_t"], temperature=temperature).mean())


def test_distillation_of_paper_001_is_the_reference():
    data = load("kd_total_alpha09_T4")

    def loss(student):
        soft = losses.kl(student, data["logits_t"], temperature=4.0).mean()
        return 0.1 * losses.cross_entropy(student, labels(data)).mean() + 0.9 * soft

    total(data, loss)


@pytest.mark.parametrize("name", ["K3", "K5", "K3_renorm", "K5_renorm"])
def test_topk_kl_is_the_reference(name):
    data = load(f"topk_kl_{name}")
    k, weight = data["cfg_K"].astype(np.int32), data["cfg_lam"].astype(np.float32)
    term = partial(losses.topk_kl, teacher=data["logits_t"], k=k, renormalize="renorm" in name)
    value = jax.jit(term)(data["logits_s"])
    np.testing.assert_allclose(value, data["kl_per_example"], rtol=2e-5, atol=1e-6)
    total(
        data,
        lambda s: losses.cross_entropy(s, labels(data)).mean() + weight * term(s).mean(),
    )


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


@pytest.mark.parametrize("name", losses.LOSSES)
def test_per_example_in_float32_under_jit_vmap_and_bfloat16(name):
    loss = partial(losses.LOSSES[name], **({"k": 3} if name == "topk_kl" else {}))
    student, other = logits(0), jax.nn.softmax(logits(1))
    value = loss(student, other)
    assert value.shape == (4,) and value.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(loss)(student, other), value, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(loss)(student, other), value, rtol=1e-6)
    half = student.astype(jnp.bfloat16), other.astype(jnp.bfloat16)
    rounded = loss(*half)
    assert rounded.dtype == jnp.float32
    wide = loss(*(array.astype(jnp.float32) for array in half))
    np.testing.assert_array_equal(rounded, wide)
    check_grads(lambda s: loss(s, other), (student,), 1, modes=("rev",), atol=1e-2, rtol=1e-2)


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


def test_binary_cross_entropy_of_sure_logits_is_finite():
    sure = jnp.asarray([[1e4, -1e4]], jnp.float32)
    assert losses.binary_cross_entropy(sure, np.asarray([0], np.int32))[0] == 0.0
    assert losses.binary_cross_entropy(sure, np.asarray([1], np.int32))[0] == 1e4
    smooth = losses.binary_cross_entropy(sure, np.asarray([0], np.int32), label_smoothing=0.2)
    np.testing.assert_allclose(smooth, [0.1 * 1e4], rtol=1e-5)
