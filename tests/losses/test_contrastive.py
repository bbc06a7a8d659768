import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax import data, losses
from kdaug_jax.losses import contrastive, sampling
from kdaug_jax.losses.lanes import take_along_rows
from kdaug_jax.losses.term import Context, TermInput, written
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Clock, Info, View

RNG = np.random.default_rng(0)
# 12, 6, 2 and 0 examples of four classes.
LABELS = RNG.permutation(np.repeat([0, 1, 2], [12, 6, 2])).astype(np.int32)
INFO = Info(4, (4, 4), LABELS, (0.0,), (1.0,))


# Of three classes, one of which is small: where they begin and end cuts strata and vectors.
UNEVEN = Info(3, (4, 4), np.repeat([2, 0, 1], [7, 600, 900]).astype(np.int32), (0.0,), (1.0,))


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


@partial(jax.jit, static_argnames=("negatives", "positive"))
def draw(rows, number=0, negatives=8, positive="exact", state=None):
    state = sampling.sampling_state(INFO, negatives) if state is None else state
    key = jax.random.fold_in(jax.random.key(0), number)
    return sampling.contrast_rows(state, key, rows, rows, negatives, positive)[0]


ALL = jnp.arange(20, dtype=jnp.int32)


@pytest.mark.parametrize("negatives", [1, 3, 8])
def test_negatives_are_of_other_classes_and_come_once(negatives):
    for number in range(5):
        drawn = np.asarray(draw(ALL, number, negatives))
        assert drawn.shape == (20, 1 + negatives) and (drawn[:, 0] == ALL).all()
        assert (LABELS[drawn[:, 1:]] != LABELS[:, None]).all()
        assert all(len(set(row[1:])) == negatives for row in drawn.tolist())


def test_negatives_are_equally_likely():
    drawn = np.stack([draw(ALL, number, 3) for number in range(400)])[:, :, 1:]
    for row in (0, int(np.argmax(LABELS == 2))):
        counts = np.bincount(drawn[:, row].ravel(), minlength=20)
        others = LABELS != LABELS[row]
        expected = 1200 / others.sum()
        assert not counts[~others].any()
        assert (np.abs(counts[others] - expected) < 5 * np.sqrt(expected)).all()


def test_too_few_other_examples_repeat():
    drawn = np.asarray(draw(ALL, 0, 30))
    assert (LABELS[drawn[:, 1:]] != LABELS[:, None]).all()
    row = int(np.argmax(LABELS == 0))
    assert set(drawn[row, 1:]) <= set(np.flatnonzero(LABELS != 0))
    assert len(set(np.asarray(draw(ALL, 0, 30))[row, 1:])) > 4


def test_relaxed_positives_are_of_the_same_class():
    drawn = np.stack([draw(ALL, number, 2, "relax") for number in range(200)])[:, :, 0]
    assert (LABELS[drawn] == LABELS[None]).all()
    assert all(len(set(drawn[:, row])) == (LABELS == LABELS[row]).sum() for row in range(20))


def test_an_example_draws_the_same_wherever_it_lies():
    order = jnp.asarray(RNG.permutation(20), jnp.int32)
    np.testing.assert_array_equal(draw(ALL)[order], draw(order))
    assert (draw(ALL, 1) != draw(ALL, 2)).any()


def test_many_rows_stay_inside_32_bits():
    labels = jnp.arange(2_000_000, dtype=jnp.int32)
    place = sampling._places(jnp.ones((1, 46_340)) - 1e-6, labels[-1:, None], 46_340)
    assert (jnp.diff(place) > 0).all() and 0 < place.min() and place.max() == 1_999_998


def test_parts_of_a_split_have_rows_of_their_own():
    """Positions in the base split go beyond the number of training examples."""
    splits = dict(train="train[20:]", validation="validation", test="test")
    dataset = data.load("synthetic:8x8,4,40", splits)
    info = data.describe(dataset)
    state = sampling.sampling_state(info, 8)
    index = dataset.splits["train"].index
    assert len(index) == 20 and index.max() >= 20
    np.testing.assert_array_equal(sampling.rows_of(state, index), np.arange(20))
    np.testing.assert_array_equal(state["label"], dataset.splits["train"].label)
    shuffled = info._replace(index=index[::-1], labels=info.labels[::-1])
    rows = sampling.rows_of(sampling.sampling_state(shuffled, 8), index)
    np.testing.assert_array_equal(rows, np.arange(20)[::-1])


def whole_numbers(*shape):
    """Of which all sums are exact in whatever order."""
    return jnp.asarray(np.random.default_rng(1).integers(-9, 10, shape), jnp.float32)


@pytest.mark.parametrize("labels, most", [(UNEVEN.labels, 607), (LABELS, 8)])
def test_negatives_come_once_where_every_class_leaves_enough(labels, most):
    info = UNEVEN._replace(labels=labels, num_classes=4)
    assert sampling.has_strata(info, most) and not sampling.has_strata(info, most + 1)


@pytest.mark.parametrize("negatives", [1, 300, 607])
def test_every_row_knows_its_stratum(negatives):
    labels = np.sort(UNEVEN.labels)
    first, end = np.searchsorted(labels, [[0], [1], [2]]), np.searchsorted(labels, [[1], [2], [3]])
    place = np.zeros((3, negatives), np.int32)
    strata = sampling.Strata(np.arange(len(labels)), place, first, end - first)
    stratum, other_class = jax.jit(sampling.stratum_of)(jax.tree.map(jnp.int32, strata))
    for label in range(3):
        others = np.flatnonzero(labels != label)
        np.testing.assert_array_equal(np.flatnonzero(other_class[label]), others)
        edges = np.arange(negatives + 1) * len(others) // negatives
        expected = np.searchsorted(edges, np.arange(len(others)), side="right") - 1
        np.testing.assert_array_equal(np.asarray(stratum)[label, others], expected)


def test_the_form_for_tpus_gives_the_same_bits():
    """Sorted by class and taken by lanes, interpreted on a CPU; and its gradient."""
    negatives, labels, size = 300, UNEVEN.labels, len(UNEVEN.labels)
    rows = jnp.asarray([int(np.argmax(labels == c)) for c in (0, 1, 2, 1)], jnp.int32)
    state = sampling.sampling_state(UNEVEN, negatives)
    drawn, strata = sampling.contrast_rows(
        state, jax.random.key(3), rows, rows, negatives, "exact"
    )
    bank, query, given = whole_numbers(size, 6), whole_numbers(4, 6), whole_numbers(*drawn.shape)

    def both(form):
        scores, back = jax.vjp(lambda query: form(query, bank, drawn, strata), query)
        return scores, back(given)[0]

    expected = jax.jit(lambda: both(contrastive._by_elements))()
    by_lanes = partial(contrastive._by_lanes, interpret=True)
    for value, reference in zip(jax.jit(lambda: both(by_lanes))(), expected, strict=True):
        np.testing.assert_array_equal(value, reference)


@pytest.mark.parametrize("shape, count", [((2, 5000), 1500), ((4, 100), 7)])
def test_lanes_take_what_elements_are(shape, count):
    """In any order, under the mesh of four devices that share the examples or cannot."""
    generator = np.random.default_rng(0)
    table = jnp.asarray(generator.normal(size=shape), jnp.float32)
    index = jnp.asarray(generator.integers(0, shape[1], (shape[0], count)), jnp.int32)
    mesh = sharding.make_mesh(-1, 4)
    take = jax.jit(sharding.within(mesh, partial(take_along_rows, interpret=True)))
    taken = take(*sharding.put_whole(mesh, (table, index)))
    np.testing.assert_array_equal(taken, jnp.take_along_axis(table, index, axis=1))


def test_programs_for_tpus_gather_no_elements_of_banks():
    """Neither for the scores of 16 examples nor for their gradient: rows of 128 numbers alone."""
    state = sampling.sampling_state(UNEVEN, 300)
    bank, rows = jnp.zeros((len(UNEVEN.labels), 128)), jnp.arange(16, dtype=jnp.int32)
    key = jax.random.key(0)

    def loss(query):
        drawn, strata = sampling.contrast_rows(state, key, rows, rows, 300, "exact")
        return jnp.sum(contrastive.bank_scores(bank, query, drawn, 8, strata))

    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=["tpu"])(
        jax.ShapeDtypeStruct((16, 128), jnp.float32)
    ).mlir_module()
    gathers = re.findall(r'"?stablehlo\.(?:dynamic_)?gather"?.*-> tensor<([^>]*xf32)>', exported)
    assert gathers and all(text.endswith("x128xf32") for text in gathers), gathers
    assert "scatter" not in exported and exported.count("tpu_custom_call") == 3


@pytest.mark.parametrize("chunk", [3, 8, 100])
def test_fetching_rows_gives_what_the_whole_product_gives(monkeypatch, chunk):
    bank, query = unit(50, 6), unit(4, 6, seed=1)
    rows = jnp.asarray(RNG.integers(0, 50, (4, 8)), jnp.int32)

    def scores(query):
        return jnp.sum(jnp.exp(contrastive.bank_scores(bank, query, rows, chunk)))

    dense = jax.value_and_grad(scores)(query)
    monkeypatch.setattr(contrastive, "DENSE", 0)
    for value, expected in zip(jax.value_and_grad(scores)(query), dense, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected = jnp.einsum("bkd,bd->bk", bank[rows], query)
    np.testing.assert_allclose(
        contrastive.bank_scores(bank, query, rows, chunk), expected, atol=1e-6
    )
    half = contrastive.bank_scores(bank.astype(jnp.bfloat16), query, rows, chunk)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=1e-2)


def test_only_rows_that_were_seen_move():
    bank, embedded = unit(10, 4), unit(3, 4, seed=1)
    rows = jnp.asarray([7, 2, 10], jnp.int32)  # the last is a row that only fills the batch up
    after = written(contrastive.moved(bank, rows, embedded, 0.5))
    same = np.asarray((after == bank).all(axis=1))
    assert np.flatnonzero(~same).tolist() == [2, 7]
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, rtol=1e-5)
    replaced, same = (written(contrastive.moved(bank, rows, embedded, part)) for part in (0.0, 1.0))
    np.testing.assert_allclose(replaced[7], embedded[0], rtol=1e-5)
    np.testing.assert_allclose(same, bank, rtol=1e-5)
    waiting = contrastive.moved(bank, rows, embedded, 0.5)
    np.testing.assert_array_equal(written({"bank": waiting}, jnp.bool_(False))["bank"], bank)


def test_the_normaliser_is_set_once_and_is_a_constant():
    score = 0.3 * unit(4, 9)
    each, z = contrastive.nce(score, jnp.float32(-1), 50, 0.07)
    np.testing.assert_allclose(z, np.exp(score / np.float32(0.07)).mean() * 50, rtol=1e-5)
    again, kept = contrastive.nce(2.0 * score, z, 50, 0.07)
    assert kept == z and (again != each).all()
    by_z = jax.grad(lambda z: contrastive.nce(score, z, 50, 0.07)[0].sum())(z)
    assert by_z == 0


def run(name, student, teacher, state=None, params=None, mask=None, **options):
    term = losses.LOSSES[name]
    filled = {**term.apply.__kwdefaults__, "dim": 5, **options}
    mask = jnp.ones(4, bool) if mask is None else mask
    index = jnp.asarray([3, 0, 8, 5], jnp.int32)
    view = View(None, None, jnp.asarray(LABELS)[index], index, mask)
    inputs = (TermInput(None, None, view, (student,), (teacher,)),)
    made, first = term.init(jax.random.key(0), inputs, INFO, **filled)
    params, state = made if params is None else params, first if state is None else state
    clock = Clock(jnp.uint32(0), jnp.int32(0), jnp.int32(0))
    context = Context(clock, jax.random.key(1), INFO, 1)
    value, after, _ = term.apply(params, state, inputs, context, **filled)
    return value, written(after), params, state


FEATURES = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32), jnp.asarray(
    RNG.normal(size=(4, 2, 2, 3)), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_crd_keeps_its_banks_in_its_state(dtype):
    value, after, params, before = run("crd", *FEATURES, negatives=8, dtype=dtype)
    assert np.isfinite(value) and before["student"].shape == (20, 5)
    for name in ("student", "teacher"):
        assert after[name].dtype == dtype
        moved = np.asarray((after[name] != before[name]).any(axis=1))
        assert np.flatnonzero(moved).tolist() == [0, 3, 5, 8]
    assert (before["z"] == -1).all() and (after["z"] > 0).all()
    mask = jnp.asarray([True, False, True, False])
    _, masked, _, _ = run("crd", *FEATURES, negatives=8, dtype=dtype, mask=mask)
    moved = np.asarray((masked["student"] != before["student"]).any(axis=1))
    assert np.flatnonzero(moved).tolist() == [3, 8]
    _, later, _, _ = run("crd", *FEATURES, negatives=8, dtype=dtype, state=after)
    np.testing.assert_array_equal(later["z"], after["z"])


def test_crd_trains_both_layers_and_the_student():
    _, after, params, _ = run("crd", *FEATURES, negatives=8)

    @jax.jit
    def loss(params, student):
        return run("crd", student, FEATURES[1], after, params, negatives=8, temperature=0.5)[0]

    by_params, by_student = jax.grad(loss, (0, 1))(params, FEATURES[0])
    assert all(leaf.any() for leaf in jax.tree.leaves(by_params)) and by_student.any()
    check_grads(
        lambda s: loss(params, s), FEATURES[:1], 1, modes=("rev",), atol=2e-2, rtol=2e-2, eps=1e-2
    )


def test_info_nce_is_a_cross_entropy_over_the_group():
    student, teacher, labels = unit(5, 4), unit(5, 4, seed=1), jnp.asarray([0, 1, 0, 2, 1])
    score = np.asarray(student @ teacher.T) / 0.2
    forth = losses.cross_entropy(jnp.asarray(score), jnp.arange(5))
    back = losses.cross_entropy(jnp.asarray(score.T), jnp.arange(5))
    options = dict(temperature=0.2)
    value = losses.info_nce(student, teacher, labels, **options)
    np.testing.assert_allclose(value, forth, rtol=1e-5)
    both = losses.info_nce(student, teacher, labels, symmetric=True, **options)
    np.testing.assert_allclose(both, (forth + back) / 2, rtol=1e-5)
    fewer = losses.info_nce(student, teacher, labels, ignore_same_class=True, **options)
    assert (fewer <= value + 1e-6).all() and fewer[0] < value[0]
    np.testing.assert_allclose(fewer[3], value[3], rtol=1e-6)  # alone in its class


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("crd", dict(negatives=0), "must be 1..46340"),
        ("crd", dict(negatives=50_000), "must be 1..46340"),
        ("crd", dict(positive="any"), "must be 'exact' or 'relax'"),
        ("crd", dict(dtype="float16"), "must be 'float32' or 'bfloat16'"),
        ("crd", dict(chunk=0), "must be at least 1"),
        ("crd", dict(dim=0), "must be at least 1"),
        ("info_nce", dict(dim=0), "must be at least 1"),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(ValueError) as caught:
        run(name, *FEATURES, **options)
    assert caught.value.args[1] == message


def test_one_class_has_no_negatives():
    with pytest.raises(ValueError) as caught:
        sampling.sampling_state(INFO._replace(labels=np.zeros(5, np.int32)), 2)
    assert caught.value.args[1] == "needs at least 2 classes"
