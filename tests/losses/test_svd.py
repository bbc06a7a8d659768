import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from kdaug_jax.compile import hlo
from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import svd
from kdaug_jax.runtime import sharding


def maps(side, channels, seed=0, shift=0.5):
    draw = np.random.default_rng(seed)
    return jnp.asarray(shift + draw.normal(0, 1, (3, side, side, channels)), jnp.float32)


STUDENT = [maps(4, 6), maps(2, 8, 1)]
TEACHER = [maps(4, 6, 2), maps(2, 8, 3)]


@partial(jax.jit, static_argnames=("k", "mode"))
def total(student, teacher=TEACHER, k=1, mode="svd"):
    return sum(part.sum() for part in svd.kd_svd_parts(student, teacher, k, mode))


gradient_of = jax.jit(jax.value_and_grad(total), static_argnames=("k", "mode"))


@pytest.mark.parametrize("side, channels", [(4, 6), (2, 8), (3, 9)])
def test_vectors_and_values_are_those_of_numpy(side, channels):
    x = maps(side, channels)
    vectors, values = jax.jit(svd.right_singular, static_argnums=1)(x, 3)
    _, expected, theirs = np.linalg.svd(np.asarray(svd.pixel_rows(x), np.float64), False)
    np.testing.assert_allclose(values, expected[:, :3], rtol=1e-4)
    cosine = np.abs(np.einsum("bck,bkc->bk", np.asarray(vectors), theirs[:, :3]))
    np.testing.assert_allclose(cosine, 1.0, atol=1e-4)
    assert (vectors.sum(1) >= 0).all()


@pytest.mark.parametrize("side, channels", [(4, 5), (2, 8)])
def test_the_gradient_is_that_of_a_full_decomposition(side, channels):
    x, weight = maps(side, channels), maps(side, channels, 1)

    def ours(x):
        vectors, _ = svd.right_singular(x, 2)
        return jnp.sum(weight[:, 0, 0, :, None] * (vectors @ jnp.swapaxes(vectors, 1, 2)))

    def full(x):
        vectors = jnp.linalg.svd(svd.pixel_rows(x), full_matrices=False)[2][:, :2]
        return jnp.sum(weight[:, 0, 0, :, None] * (jnp.swapaxes(vectors, 1, 2) @ vectors))

    gradient, expected = jax.jit(jax.grad(ours))(x), jax.jit(jax.grad(full))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def test_eigenvalues_have_their_gradient():
    x = maps(2, 4)[0].reshape(4, 4)
    check_grads(
        lambda x: svd.leading_eigenvectors(x @ x.T, 2)[0], (x,), 1, modes=("rev",), rtol=2e-2
    )


@pytest.mark.parametrize("case", ["equal values", "zero", "rank one", "one value repeated"])
def test_ties_have_a_finite_gradient(case):
    x = {
        "equal values": jnp.tile(jnp.eye(4).reshape(1, 2, 2, 4), (3, 1, 1, 1)),
        "zero": jnp.zeros((3, 2, 2, 4)),
        "rank one": jnp.ones((3, 2, 2, 4)),
        "one value repeated": jnp.tile(jnp.diag(jnp.asarray([2.0, 2.0, 1.0, 0.5])).reshape(
            1, 2, 2, 4), (3, 1, 1, 1)),
    }[case]
    teacher = [maps(2, 4), maps(2, 4, 1)]
    for mode in svd.MODES:
        value, gradients = gradient_of([x, x], teacher, mode=mode)
        assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("mode, k", [("svd", 1), ("svd", 2), ("project", 4)])
def test_nothing_is_left_to_learn_from_equal_maps(mode, k):
    value, gradient = gradient_of(TEACHER, mode=mode, k=k)
    np.testing.assert_allclose(value, 0.0, atol=1e-8)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-4)
    assert total(STUDENT, mode=mode, k=k) > 1e-3


def test_signs_and_order_of_vectors_do_not_matter():
    singular, align = jax.jit(svd.right_singular, static_argnums=1), jax.jit(svd.align)
    student, teacher = (singular(x[0], 4)[0] for x in (STUDENT, TEACHER))
    chosen = align(student, teacher[..., :1])
    flips = jnp.asarray([1.0, -1.0, -1.0, 1.0])[None, None]
    np.testing.assert_array_equal(align(flips * student, teacher[..., :1]), chosen)
    np.testing.assert_array_equal(align(student[..., ::-1], teacher[..., :1]), chosen)
    cosine = jnp.sum(chosen * teacher[..., :1], axis=1)
    assert (cosine > jnp.abs(jnp.einsum("bcn,bc->bn", student, teacher[..., 0])) - 1e-6).all()


def test_the_loss_sees_neither_sign_nor_scale_nor_order_of_pixels():
    value = total(STUDENT)
    turned = [x[:, ::-1, ::-1] for x in STUDENT]
    for student in ([-x for x in STUDENT], [3.0 * x for x in STUDENT], turned):
        np.testing.assert_allclose(total(student), value, rtol=1e-4)
    for other in ([-x for x in TEACHER], [x[:, ::-1] for x in TEACHER]):
        np.testing.assert_allclose(total(STUDENT, other), value, rtol=1e-4)


def test_gradients():
    check_grads(total, (STUDENT,), 1, modes=("rev",), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "student, options, message",
    [
        (STUDENT, dict(k=7), "7 singular vectors of 16 pixels with 6 channels"),
        ([maps(2, 6), STUDENT[1]], dict(mode="project"), "mode 'project' needs maps of equal size"),
        ([maps(4, 5), STUDENT[1]], {}, "the student has 5 channels and the teacher 6"),
    ],
)
def test_what_does_not_fit(student, options, message):
    with pytest.raises(ValueError) as caught:
        total(student, **options)
    assert message in caught.value.args[0]


def test_a_sum_is_the_mean_times_the_examples_of_a_group():
    values, mask = jnp.arange(8.0), jnp.ones(8, bool)
    assert svd.reduced(values, mask, 1, "mean") == 3.5
    assert svd.reduced(values, mask, 1, "sum") == 28.0
    assert svd.reduced(values, mask, 2, "sum") == 14.0
    with pytest.raises(ArgumentError, match="must be 'mean' or 'sum'"):
        svd.reduced(values, mask, 1, "max")


def test_matrices_are_decomposed_one_by_one_on_a_cpu():
    """Many at once may wait for each other for ever, see `_decompose`."""
    gram = jax.ShapeDtypeStruct((2, 8, 16, 16), jnp.float32)
    compiled = jax.jit(svd.leading_eigenvectors, static_argnums=1).lower(gram, 4).compile()
    calls = [line for line in compiled.as_text().splitlines() if "lapack_ssyevd" in line]
    assert calls and all(re.search(r"\(f32\[16,16\]", line) for line in calls), calls
    batched = jax.jit(jnp.linalg.eigh).lower(gram).compile().as_text()
    line = next(line for line in batched.splitlines() if "lapack_ssyevd" in line)
    assert "f32[2,8,16,16]" in line


def test_several_decompositions_at_once_end_on_several_devices():
    mesh = sharding.make_mesh(4, 8)
    draw = np.random.default_rng(0)
    many = [jnp.asarray(draw.normal(0.5, 1, (8, 8, 8, 24)), jnp.float32) for _ in range(4)]

    def values(many):
        vectors = [svd.right_singular(features, 2) for features in many]
        return sum(jnp.sum(jnp.abs(part)) for pair in vectors for part in pair)

    single = jax.jit(values)(many)
    spread = jax.jit(sharding.within(mesh, values))(sharding.put_batch(mesh, many))
    np.testing.assert_allclose(single, spread, rtol=1e-4)


def test_each_device_decomposes_the_matrices_of_its_examples():
    mesh = sharding.make_mesh(-1, 8)
    rows = jax.ShapeDtypeStruct(
        (8, 5, 5), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(sharding.DATA))
    )
    decompose = jax.jit(sharding.within(mesh, svd.leading_eigenvectors), static_argnums=1)
    compiled = decompose.lower(rows, 2).compile()
    assert hlo.profile(compiled.as_text()).collectives == {}
    gram = np.random.default_rng(0).normal(size=(8, 5, 5)).astype(np.float32)
    gram = gram @ gram.swapaxes(1, 2)
    made = compiled(sharding.put_batch(mesh, gram))
    expected = jax.jit(svd.leading_eigenvectors, static_argnums=1)(gram, 2)
    for value, reference in zip(made, expected, strict=True):
        np.testing.assert_array_equal(value, reference)
