from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import graph, ii_kd, mhgd
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.types import Clock, Outputs, View


def maps(side, channels, seed):
    draw = np.random.default_rng(seed)
    return jnp.asarray(0.5 + draw.normal(0, 1, (6, side, side, channels)), jnp.float32)


STUDENT = (maps(4, 5, 0), maps(2, 6, 1))
TEACHER = (maps(4, 5, 2), maps(2, 6, 3))
LOGITS = [jnp.asarray(np.random.default_rng(i).normal(0, 1, (6, 4)), jnp.float32) for i in (0, 1)]


def inputs(student, teacher=TEACHER):
    view = View(None, None, None, None, jnp.ones(6, bool))
    outputs = (Outputs(logits, {}) for logits in LOGITS)
    return (TermInput(*outputs, view, tuple(student), tuple(teacher)),)


@partial(jax.jit, static_argnames=("term", "heads"))
def start(term=mhgd, student=STUDENT, heads=2):
    options = {**term.apply.__kwdefaults__, "heads": heads}
    return term.init(jax.random.key(0), inputs(student), None, **options)


@partial(jax.jit, static_argnames=("term", "groups", "heads", "part"))
def run(params, state, student=STUDENT, term=mhgd, groups=1, heads=2, **options):
    clock = Clock(jnp.uint32(0), jnp.int32(0), jnp.int32(0))
    context = Context(clock, jax.random.key(1), None, groups)
    return term.apply(params, state, inputs(student), context, heads=heads, **options)


def moved(tree):
    return [bool(leaf.any()) for leaf in jax.tree.leaves(tree)]


def test_student_and_attention_learn_from_different_parts():
    params, state = start()
    value = lambda part: lambda p, s: run(p, state, s)[2][part][0]  # noqa: E731
    by_params, by_student = jax.jit(jax.grad(value("graph"), (0, 1)))(params, STUDENT)
    assert not any(moved(by_params)) and all(moved(by_student))
    by_params, by_student = jax.jit(jax.grad(value("attention"), (0, 1)))(params, STUDENT)
    assert all(moved(by_params)) and not any(moved(by_student))


def test_an_equal_student_has_equal_graphs():
    params, state = start()
    _, _, metrics = run(params, state, TEACHER)
    np.testing.assert_allclose(metrics["graph"][0], 0.0, atol=1e-5)
    assert run(params, state)[2]["graph"][0] > 1e-3


@pytest.mark.parametrize(
    "part, graphs, attention",
    [("attention", False, True), ("both", True, True), ("graphs", True, False)],
)
@pytest.mark.parametrize("term", [mhgd, ii_kd])
def test_who_learns_in_each_part(term, part, graphs, attention):
    params, state = start(term)
    value, after, metrics = run(params, state, term=term, part=part)
    names = set(["graph"] * graphs + ["attention"] * attention)
    assert set(metrics) - {"relation", "flow"} == names
    assert ("flow" in metrics) == (graphs and term is ii_kd)
    assert all(total > 0 for total, _ in metrics.values())
    np.testing.assert_allclose(value, sum(float(total) for total, _ in metrics.values()), rtol=1e-6)
    same = [bool((a == b).all()) for a, b in zip(
        jax.tree.leaves(state), jax.tree.leaves(after), strict=True)]
    assert not any(same) if attention else all(same)


def test_another_part_is_refused():
    params, state = start()
    with pytest.raises(ArgumentError, match="must be 'both' or 'attention' or 'graphs'"):
        run(params, state, part="student")


def test_initial_kernels_of_the_attention():
    """TF's variance scaling of paper 003's code has a variance of 2 / inputs."""
    layers, _ = graph.attention_init(jax.random.key(0), 64, 32, 8, "fan_in")
    for name, inputs in (("sender", 64), ("receiver", 32), ("out", 48 * 8)):
        np.testing.assert_allclose(layers[name]["kernel"].var(), 2 / inputs, rtol=0.1)
    with pytest.raises(ArgumentError, match="must be 'glorot' or 'fan_in'"):
        graph.attention_init(jax.random.key(0), 64, 32, 8, "he")


def test_the_attention_learns_the_teacher():
    params, state = start()

    @jax.jit
    def step(params):
        def loss(params):
            return run(params, state)[2]["attention"][0]

        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)

    values = []
    for _ in range(30):
        value, params = step(params)
        values.append(float(value))
    assert values[-1] < 0.7 * values[0]


def test_graphs_stay_inside_their_group():
    params, state = start()
    both = run(params, state, groups=2)[2]["graph"][0]
    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        cut = lambda maps, rows=rows: tuple(x[rows] for x in maps)  # noqa: E731
        view = View(None, None, None, None, jnp.ones(3, bool))
        item = TermInput(None, None, view, cut(STUDENT), cut(TEACHER))
        clock = Clock(jnp.uint32(0), jnp.int32(0), jnp.int32(0))
        context = Context(clock, jax.random.key(1), None, 1)
        apply = jax.jit(partial(mhgd.apply, params, state, context=context, heads=2))
        halves.append(apply(inputs=(item,))[2]["graph"][0])
    np.testing.assert_allclose(both, np.mean(halves), rtol=1e-5)


def test_heads_are_interleaved_units():
    """Unit d heads + h of the dense layers is coordinate d of head h."""
    params, state = start(heads=3)
    layers, moments = params["attention"]["1"], state["1"]
    vectors, before = (jnp.asarray(np.random.default_rng(i).normal(size=(6, d)), jnp.float32)
                       for i, d in ((0, 6), (1, 5)))
    graphs, _ = jax.jit(graph.graph, static_argnums=3)(layers, vectors, before, 3, moments)
    sender, receiver = (
        np.asarray(x @ layers[name]["kernel"]) / np.sqrt(1 + graph.EPS)
        for name, x in (("sender", vectors), ("receiver", before))
    )
    for head in range(3):
        np.testing.assert_allclose(
            graphs[head], sender[:, head::3] @ receiver[:, head::3].T, rtol=1e-4, atol=1e-5
        )


def test_adapters_stand_where_widths_differ():
    narrow = (maps(4, 3, 5), STUDENT[1])
    params, _ = start(student=narrow)
    assert set(params["adapters"]) == {"0"} and "adapters" not in start()[0]
    with pytest.raises(ValueError, match="needs equal widths"):
        run(*start(), narrow)


def test_ii_kd_is_the_sum_of_its_parts():
    params, state = start(ii_kd)
    value, _, metrics = run(params, state, term=ii_kd)
    parts = {name: float(total) for name, (total, _) in metrics.items()}
    np.testing.assert_allclose(value, sum(parts.values()), rtol=1e-6)
    weights = dict(rkd=2.0, graphs=0.0, vectors=3.0)
    value, _, _ = run(params, state, term=ii_kd, **weights)
    np.testing.assert_allclose(value, 2.0 * parts["relation"] + 3.0 * parts["flow"], rtol=1e-5)
    assert set(parts) == {"graph", "attention", "relation", "flow"}
