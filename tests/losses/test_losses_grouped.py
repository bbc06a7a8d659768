"""Losses that compare examples: within groups, and alike however the batch lies on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.experiment.loss_registry import as_term
from kdaug_jax.losses import LOSSES, Loss
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Clock, Info, Outputs, View
from tests.losses_through_step import OPTIONS

INFO = Info(5, (4, 4), np.arange(16, dtype=np.int32) % 5, (0.0,), (1.0,))
ROWS = [name for name, row in LOSSES.items() if not callable(row)]
# Those that compare examples (ii_kd is made of three of them), and one of each other kind.
SHARDED = [
    name for name in ROWS
    if LOSSES[name].min_group > 1 and name != "ii_kd"
    or name in ("fitnet", "kd_svd", "crd", "a2aug")
]
SHAPES = {"f0": (4, 4, 5), "f1": (4, 4, 6), "pooled": (7,), "logits": (5,)}


def arrays(seed, size=8, **changed):
    draw = np.random.default_rng(seed)
    made = {
        name: draw.normal(0, 1, (size, *changed.get(name, shape))).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    return made


def feature_pairs(name):
    return [tuple(feature.split(":") * 2)[:2] for feature in OPTIONS[name].get("features", ())]


def make(name, size=8):
    """A function of arrays that gives the value of a term on one view, and its arrays."""
    row = LOSSES[name]
    term = as_term(row) if isinstance(row, Loss) else row
    options = {key: value for key, value in OPTIONS.get(name, {}).items() if key != "features"}
    wide = {} if name == "fsp" else {"f0": (4, 4, 6), "f1": (4, 4, 8), "pooled": (9,)}
    student, teacher = arrays(0, size), arrays(1, size, **wide)
    of_student, of_teacher = zip(*feature_pairs(name), strict=True) if term.features else ((), ())

    def inputs(student, teacher):
        target = jax.nn.one_hot(jnp.arange(size) % 5, 5)
        view = View(None, target, jnp.arange(size), jnp.arange(size), jnp.ones(size, bool))
        outputs = [Outputs(network["logits"], {}) for network in (student, teacher)]
        chosen = (tuple(student[f] for f in of_student), tuple(teacher[f] for f in of_teacher))
        count = 2 if name == "a2aug" else 1
        return (TermInput(*outputs, view, *chosen),) * count

    shapes = jax.eval_shape(inputs, student, teacher)
    filled = {**defaults(row), **options}
    params, state = term.init(jax.random.key(2), shapes, INFO, **filled)

    def value(student, teacher, groups=1, epoch=50):
        zero = jnp.int32(0)
        clock = Clock(jnp.uint32(0), jnp.int32(epoch), zero)
        context = Context(clock, rng.batch_key(clock, "terms/own"), INFO, groups)
        return term.apply(params, state, inputs(student, teacher), context, **filled)[0]

    return value, student, teacher


def defaults(row):
    function = row.function if isinstance(row, Loss) else row.apply
    return dict(function.__kwdefaults__ or {})


def test_the_value_does_not_depend_on_how_the_batch_lies_on_devices():
    made = {name: make(name) for name in SHARDED}

    @jax.jit
    def values(given):
        return {name: made[name][0](*given[name], groups=2) for name in made}

    given = {name: parts[1:] for name, parts in made.items()}
    single, spread = values(given), values(sharding.put_batch(sharding.make_mesh(4, 8), given))
    for name in made:
        np.testing.assert_allclose(single[name], spread[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.isfinite(single[name])
        assert single[name].dtype == jnp.float32 and single[name].shape == ()


@pytest.mark.parametrize(
    "name", [name for name in ROWS if LOSSES[name].min_group > 1 and name not in ("mhgd", "ii_kd")]
)
def test_groups_do_not_see_each_other(name):
    """The value of two groups is the mean of their own values."""
    value, student, teacher = make(name)
    value = jax.jit(value, static_argnames="groups")
    alone = jax.jit(make(name, size=4)[0])
    halves = [
        alone(*jax.tree.map(lambda x, rows=rows: x[rows], (student, teacher)))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    both = value(student, teacher, groups=2)
    np.testing.assert_allclose(both, np.mean(halves), rtol=1e-5)
    assert abs(both - value(student, teacher, groups=1)) > 1e-6


@pytest.mark.parametrize("name", ROWS)
def test_gradients_are_finite_at_zeros_ties_and_in_bfloat16(name):
    value, student, teacher = make(name)
    gradient = jax.jit(jax.value_and_grad(value))
    for change in (
        lambda x: 0.0 * x, lambda x: np.repeat(x[:1], 8, axis=0), lambda x: np.ones_like(x),
    ):
        changed = jax.tree.map(change, student)
        for other in (jax.tree.map(change, teacher), teacher):
            result, by_student = gradient(changed, other)
            assert np.isfinite(result)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_student))
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (student, teacher))
    rounded = jax.jit(value)(*half)
    wide, _ = gradient(*jax.tree.map(lambda x: x.astype(jnp.float32), half))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, wide, rtol=1e-4)
