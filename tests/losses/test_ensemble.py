import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import losses
from kdaug_jax.losses import ensemble
from kdaug_jax.losses.term import TermInput
from kdaug_jax.types import Info, Outputs, View

INFO = Info(5, (4, 4), np.zeros(8, np.int32), (0.0,), (1.0,))
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(0, 2, (3, 6, 5)), jnp.float32)
TARGET = jax.nn.one_hot(jnp.arange(6) % 5, 5)


def inputs(logits=LOGITS, mask=None):
    mask = jnp.ones(6, bool) if mask is None else mask
    view = View(None, TARGET, jnp.arange(6), jnp.arange(6), mask)
    return tuple(TermInput(Outputs(view_logits, {}), None, view) for view_logits in logits)


def run(logits=LOGITS, mask=None, mu=(0.3, -0.2, 0.1), **options):
    params = {"mu": jnp.asarray(mu, jnp.float32)}
    value, _, metrics = losses.a2aug.apply(params, {}, inputs(logits, mask), None, **options)
    return value, metrics


def test_the_weights_start_equal_and_do_not_decay():
    params, state = losses.a2aug.init(None, inputs(), INFO, form="kl", logit_scale=1.0)
    np.testing.assert_array_equal(params["mu"], np.zeros(3, np.float32))
    assert state == {} and losses.a2aug.no_decay == ("mu",)
    _, metrics = run(mu=(0.0, 0.0, 0.0))
    np.testing.assert_allclose([float(total) for total, _ in metrics.values()], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("form", ensemble.FORMS)
def test_who_learns_from_what(form):
    """Views learn from the ensemble alone, mu from the ensemble's cross entropy alone."""
    by_logits = jax.grad(lambda z: run(z, form=form)[0])(LOGITS)
    assert bool(by_logits.any()) == (form != "joint_ce")
    by_mu = jax.grad(lambda mu: run(mu=mu, form=form)[0])
    alone = jax.grad(lambda mu: run(mu=mu, form="joint_ce")[0])
    start = jnp.asarray([0.3, -0.2, 0.1])
    np.testing.assert_allclose(by_mu(start), alone(start), atol=1e-7)


@pytest.mark.parametrize("form", ["kl", "kl_norm", "l2_norm"])
def test_equal_views_have_nothing_to_learn_from_each_other(form):
    same = jnp.stack([LOGITS[0]] * 3)
    value, gradient = jax.value_and_grad(lambda z: run(z, form=form)[0])(same)
    np.testing.assert_allclose(value, run(same, form="joint_ce")[0], atol=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_scales():
    together = losses.ensemble_logits(LOGITS, jnp.zeros(3))
    norms = np.linalg.norm(together, axis=-1)
    for scale, length in (("sqrt_classes", np.sqrt(5)), ("mean_norm", norms.mean()), (10, 10.0)):
        scaled = losses.l2_normalized(together, ensemble.scale_of(scale, together))
        np.testing.assert_allclose(np.linalg.norm(scaled, axis=-1), length, rtol=1e-5)
    assert run(logit_scale="mean_norm")[0] > run(logit_scale=0.1)[0]


def test_views_may_be_averaged():
    joint = run(form="joint_ce")[0]
    total, mean = (run(branch_mean=mean)[0] - joint for mean in (False, True))
    np.testing.assert_allclose(total, 3 * mean, rtol=1e-5)


def test_masked_rows_do_not_count():
    mask = jnp.arange(6) < 4
    junk = LOGITS.at[:, 4:].set(7.0)
    for form in ensemble.FORMS:
        options = dict(form=form, logit_scale=1.0)
        np.testing.assert_allclose(
            run(mask=mask, **options)[0], run(junk, mask=mask, **options)[0], rtol=1e-6
        )


def test_zero_logits_have_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda z: run(z)[0])(jnp.zeros((3, 6, 5)))
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "views, options, message",
    [
        (LOGITS, dict(form="norm", logit_scale=1.0), "must be one of joint_ce"),
        (LOGITS, dict(form="kl", logit_scale=0.0), "must be a number more than 0, or sqrt_classes"),
        (
            LOGITS, dict(form="kl", logit_scale="classes"),
            "must be a number more than 0, or sqrt_classes",
        ),
        (LOGITS[:1], dict(form="kl", logit_scale=1.0), "needs at least 2 in `on`"),
    ],
)
def test_what_makes_no_ensemble(views, options, message):
    with pytest.raises(ValueError) as caught:
        losses.a2aug.init(None, inputs(views), INFO, **options)
    assert message in caught.value.args[1]
