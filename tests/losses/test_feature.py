import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import LOSSES, adapters, feature
from kdaug_jax.losses.arrays import normalized, pool_to
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.types import Clock, View

RNG = np.random.default_rng(0)


def maps(side, channels, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.normal(0, 1, (3, side, side, channels)), jnp.float32)


STUDENT, TEACHER = maps(4, 5), maps(2, 6, seed=1)
EACH = {
    "at": feature.at, "nst": feature.nst, "factor_distance": feature.factor_distance,
    "fsp": lambda s, t: feature.fsp([s, pool_to(s, 2)], [t, t]), "hint": feature.hint,
    "ab": lambda s, t: feature.ab(s, t, margin=0.0),
}
EACH = {name: jax.jit(loss) for name, loss in EACH.items()}


@pytest.mark.parametrize("name", EACH)
def test_per_example_and_nothing_left_to_learn_from_equal_maps(name):
    if name == "fsp":
        loss = jax.jit(lambda s: feature.fsp([s, s], [STUDENT, STUDENT]))
    else:
        loss = lambda s: EACH[name](s, STUDENT)  # noqa: E731
    gradient = jax.jit(jax.grad(lambda s: loss(s).sum()))(STUDENT)
    assert loss(STUDENT).shape == (3,)
    np.testing.assert_allclose(loss(STUDENT), 0.0, atol=1e-6)
    if name != "factor_distance":  # whose gradient has a jump at 0
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_gradients(name):
    teacher = TEACHER if name in ("at", "nst", "factor_distance") else maps(4, 5, seed=1)
    check_grads(
        lambda s: EACH[name](s, teacher), (STUDENT,), 1, modes=("rev",), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("name", ["at", "nst", "factor_distance"])
def test_what_attention_does_not_see(name):
    """Neither the scale of a map nor the order of its channels."""
    value = EACH[name](STUDENT, TEACHER)
    np.testing.assert_allclose(EACH[name](3.0 * STUDENT, TEACHER), value, rtol=1e-4)
    np.testing.assert_allclose(EACH[name](STUDENT[..., ::-1], TEACHER), value, rtol=1e-4)


def test_the_larger_map_is_pooled_whoever_has_it():
    np.testing.assert_allclose(
        feature.at(STUDENT, TEACHER), feature.at(pool_to(STUDENT, 2), TEACHER), rtol=1e-6
    )
    np.testing.assert_allclose(
        feature.at(TEACHER, STUDENT), feature.at(TEACHER, pool_to(STUDENT, 2)), rtol=1e-6
    )
    with pytest.raises(ValueError) as caught:
        feature.at(maps(4, 5), maps(3, 5))
    assert caught.value.args[0] == "cannot pool maps of 4×4 to 3×3"


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_activation_boundaries_ask_for_the_right_side_of_zero(margin):
    student = jnp.asarray([[2.0, -2.0, 0.2, -0.2]])
    teacher = jnp.asarray([[1.0, -1.0, -1.0, 1.0]])
    expected = 2 * (0.2 + margin) ** 2
    np.testing.assert_allclose(feature.ab(student, teacher, margin=margin), [expected], rtol=1e-5)
    assert feature.feature_weights(3) == [0.25, 0.5, 1.0]


def test_normalized_rows_follow_torch(torch):
    rows = np.asarray([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]], np.float32)
    expected = torch.nn.functional.normalize(torch.tensor(rows)).numpy()
    np.testing.assert_allclose(normalized(rows), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: normalized(x)[:, 0].sum())(jnp.asarray(rows))
    assert np.isfinite(gradient).all() and not gradient[1].any()


@pytest.mark.parametrize("side, target", [(8, 4), (4, 8), (5, 5), (6, 4)])
def test_regressors_give_the_teachers_shape(side, target):
    student, teacher = (3, side, side, 5), (3, target, target, 7)
    params = adapters.regressor_init(jax.random.key(0), student, teacher)
    mapped = adapters.regress(params, maps(side, 5), teacher, groups=1, relu=False)
    assert mapped.shape == teacher
    np.testing.assert_allclose(mapped.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(mapped.std((0, 1, 2)), 1.0, atol=1e-2)
    assert (adapters.regress(params, maps(side, 5), teacher, groups=1, relu=True) >= 0).all()


def test_a_transposed_convolution_is_torchs(torch):
    x, kernel = maps(4, 5), RNG.normal(size=(4, 4, 5, 7)).astype(np.float32)
    ours = adapters.conv({"kernel": jnp.asarray(kernel)}, x, padding=2, dilation=2)
    flipped = torch.tensor(kernel[::-1, ::-1].copy()).permute(2, 3, 0, 1)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.tensor(np.asarray(x)).permute(0, 3, 1, 2), flipped, stride=2, padding=1
    )
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-4)


def test_adapters_normalise_within_groups():
    x = jnp.concatenate([maps(2, 4), 5.0 + 3.0 * maps(2, 4)])
    y = adapters.norm(adapters.norm_init(4), x, groups=2)
    np.testing.assert_allclose(y[:3], y[3:], atol=1e-3)
    assert abs(adapters.norm(adapters.norm_init(4), x, groups=1)[:3].mean()) > 0.1


def run(name, student, teacher, epoch=0, **options):
    """Parameters of a term, and its value as a function of them and of the student."""
    term = LOSSES[name]
    mask = jnp.ones(3, bool)
    view = View(None, None, None, None, mask)
    filled = {**(term.apply.__kwdefaults__ or {}), **options}
    item = TermInput(None, None, view, (student,), (teacher,))
    params, state = term.init(jax.random.key(0), (item,), None, **filled)
    clock = Clock(jnp.uint32(0), jnp.int32(epoch), jnp.int32(0))

    def value(params, student):
        item = TermInput(None, None, view, (student,), (teacher,))
        return term.apply(params, state, (item,), Context(clock, None, None, 1), **filled)[0]

    return params, value


def test_the_paraphraser_learns_first_and_is_then_held_fixed():
    for part, moved in (("paraphraser", {"encoder", "decoder"}), ("translator", {"translator"})):
        params, value = run("ft", STUDENT, maps(4, 6, seed=1), part=part)
        by_params, by_student = jax.jit(jax.grad(value, (0, 1)))(params, STUDENT)
        changed = {
            part for part, tree in by_params["0"].items()
            if any(leaf.any() for leaf in jax.tree.leaves(tree))
        }
        assert changed == moved and bool(by_student.any()) == (part == "translator")


def test_a_part_of_factor_transfer_that_is_none_is_named():
    _, value = run("ft", STUDENT, maps(4, 6, seed=1), part="decoder")
    with pytest.raises(ArgumentError, match="must be 'paraphraser' or 'translator'"):
        jax.eval_shape(value, run("ft", STUDENT, maps(4, 6, seed=1))[0], STUDENT)


def test_connectors_stand_only_where_shapes_differ():
    assert run("ab", STUDENT, maps(4, 5, seed=1))[0] == {}
    assert set(run("ab", STUDENT, TEACHER)[0]) == {"0"}


def test_the_first_variance_of_vid_is_five():
    params, value = run("vid", STUDENT, TEACHER)
    variance = jax.nn.softplus(params["0"]["log_scale"]) + 1e-5
    np.testing.assert_allclose(variance, 5.0, rtol=1e-6)
    by_params, by_student = jax.jit(jax.grad(value, (0, 1)))(params, STUDENT)
    assert all(leaf.any() for leaf in jax.tree.leaves(by_params)) and by_student.any()
