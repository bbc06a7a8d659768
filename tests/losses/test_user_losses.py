"""Losses that a config names as `module:attribute`, and what becomes of their errors."""

import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import data, registry
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.loss_registry import as_term, resolve
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.losses import Loss, Term
from kdaug_jax.losses.term import Context, TermInput
from kdaug_jax.training.step import make_train_step
from kdaug_jax.types import Outputs, View
from tests.conftest import tiny_config

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DATASET = data.load("synthetic:8x8,4,40", {s: s for s in ("train", "validation", "test")})
INFO = data.describe(DATASET)


@pytest.fixture
def name_as(monkeypatch):
    """Returns a function that makes a loss an attribute of this module and returns its name."""

    def name(loss):
        monkeypatch.setattr(sys.modules[__name__], "loss_of_a_test", loss, raising=False)
        return f"{__name__}:loss_of_a_test"

    return name


def failing(error, place):
    """A loss with a mistake: a plain function, or a `Term` that fails in `init` or in `apply`."""

    def mistake(*args, **options):
        raise error("planted")

    if place == "function":
        return lambda student: mistake()
    init = mistake if place == "init" else lambda *args, **options: ({}, {})
    return Term(init, mistake, roles=("student",))


def checked(name):
    config = tiny_config(terms={"own": configs.term(name, ("x",))})
    (program,) = build_programs(config, INFO)
    program.check_terms()


@pytest.mark.parametrize("place", ["function", "init", "apply"])
@pytest.mark.parametrize("error", [ValueError, TypeError, IndexError])
def test_a_mistake_in_a_loss_keeps_its_traceback(name_as, error, place):
    with pytest.raises(error, match="planted") as caught:
        checked(name_as(failing(error, place)))
    assert type(caught.value) is error
    assert 'raise error("planted")' in "".join(traceback.format_exception(caught.value))


def test_a_refused_argument_is_told_in_one_line(name_as):
    def refuses(student):
        raise ArgumentError("got two", "must be three")

    with pytest.raises(ConfigError) as caught:
        checked(name_as(refuses))
    assert str(caught.value) == "terms.own: got two; must be three"


def test_the_examples_of_the_documentation_train():
    terms = {
        "plain": configs.term(
            "loss_plain:confident_kl", ("x",), teacher="peer", threshold=0.2
        ),
        "hint": configs.term(
            "loss_with_parameters:centred_hint", ("x",), teacher="peer", features=("pooled",)
        ),
        "peer_ce": configs.term("cross_entropy", ("x",), student="peer"),
    }
    networks = {name: configs.network("tiny", trainable=True) for name in ("student", "peer")}
    with registry.importable(EXAMPLES / "config.py"):
        (program,) = build_programs(tiny_config(networks=networks, terms=terms), INFO)
    assert {"terms.plain.threshold", "terms.hint.momentum"} <= set(program.hparams)
    first = state = jax.jit(lambda: program.init(program.hparams, {}))()
    feed, step = data.resident(DATASET.splits["train"], 0, 8), jax.jit(make_train_step(program))
    for number in range(2):
        batch = feed.batch(feed.constants, feed.item(number))
        state, metrics = step(state, {}, batch, program.hparams)
    assert all(np.isfinite(total) for total, _ in metrics.values())
    assert "train/plain" in metrics and "train/hint/mean_length" in metrics
    kernel, trained = (s.params["terms"]["hint"]["kernel"] for s in (first, state))
    assert (kernel != trained).all() and state.term_state["hint"]["mean"].all()


def test_names_that_stand_for_no_loss_are_refused(name_as):
    for name, message in {
        "klx": "terms.own.loss: unknown loss 'klx'; did you mean kl",
        "math:pi": "'math:pi' is of type float, which is not a readable function",
        "math:nothing": "module math has no 'nothing'",
        "no_module.of_mine:loss": "cannot import 'no_module.of_mine:loss': there is no module",
        name_as(lambda logits: logits): "has no argument that it could be given; name at least one",
        name_as(lambda stud, labels: labels): "argument 'stud' of 'test_user_losses:loss_of_a_te"
        "st' is no role; roles are student, teacher, labels",
    }.items():
        with pytest.raises(ConfigError) as caught:
            resolve("terms.own.loss", name)
        assert message in str(caught.value)


def test_argument_names_are_roles_in_any_order(name_as):
    def difference(teacher, *, scale, student):
        return scale * (teacher - student)[:, 0]

    term, _, _ = resolve("terms.own.loss", name_as(difference))
    outputs = [Outputs(jnp.full((2, 3), value), {}) for value in (1.0, 4.0)]
    rows = jnp.arange(2)
    view = View(None, jnp.ones((2, 3)), rows, rows, jnp.asarray([True, False]))
    context = Context(None, None, INFO, 1)
    value, _, _ = term.apply({}, {}, (TermInput(*outputs, view),), context, scale=2.0)
    assert value == 6.0


def test_values_of_low_precision_are_averaged_in_float32():
    """A sum of 300 values in bfloat16 has 8 bits: off by up to 0.4 %."""
    values = jnp.linspace(1.0, 7.0, 300, dtype=jnp.bfloat16)
    term = as_term(Loss(lambda student: student[:, 0]))
    rows = jnp.arange(300)
    view = View(None, None, rows, rows, jnp.ones(300, bool))
    item = TermInput(Outputs(values[:, None], {}), None, view, (), ())
    value, _, _ = term.apply({}, {}, (item,), Context(None, None, INFO, 1))
    np.testing.assert_allclose(value, np.asarray(values, np.float64).mean(), rtol=1e-6)
