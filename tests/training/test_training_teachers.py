"""What a run starts from: networks that it trains first, and weights that it takes over."""

import ast
import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.networks import Network, check_init
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.runtime import checkpoint
from kdaug_jax.training import loop, teachers
from tests.conftest import tiny_config
from tests.training.bench import INFO, Bench, distilled

SAME = dict(
    student=configs.network("tiny", trainable=True, init="teacher"),
    teacher=configs.network("tiny"),
)


def alike(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


def test_a_network_starts_from_a_frozen_one(frozen_teacher):
    bench = Bench(distilled(networks=SAME))
    start = bench.init(bench.program.hparams)
    teacher = bench.frozen["teacher"]
    assert alike(start.params["student"], teacher["params"])
    assert alike(start.network_state["student"], teacher["batch_stats"])
    state, rows = bench.run(2, state=start)
    assert rows[0]["fault"] == 0
    assert not alike(state.params["student"], teacher["params"])


def test_a_network_that_only_gives_its_weights_needs_no_term(frozen_teacher):
    networks = {
        "student": configs.network("tiny", trainable=True, init="origin"),
        "teacher": configs.network("tiny", trainable=True, init="origin"),
        "origin": configs.network("tiny"),
    }
    bench = Bench(distilled(networks=networks))
    start = bench.init(bench.program.hparams)
    assert alike(start.params["student"], start.params["teacher"])
    assert alike(start.params["student"], bench.frozen["origin"]["params"])
    assert {network for network, _ in bench.program.pairs} == {"student", "teacher"}
    assert bench.run(1, state=start)[1][0]["fault"] == 0


def test_the_state_does_not_share_memory_with_the_frozen_network(frozen_teacher):
    bench = Bench(distilled(networks=SAME))
    start = bench.init(bench.program.hparams)
    for leaf in jax.tree.leaves(start.params["student"]):
        leaf.delete()  # what giving the state to a step does
    assert np.isfinite(jax.tree.leaves(bench.frozen["teacher"])[0]).all()


@pytest.mark.parametrize(
    "student, message",
    [
        (dict(init="teachr"), "networks.student.init: no frozen network 'teachr'; did you mean"),
        (dict(init="student"), "networks.student.init: no frozen network 'student'"),
        (dict(checkpoint="runs/x"), "is given for a trained network; leave it empty, or name a"),
    ],
)
def test_sources_that_do_not_exist_are_refused(student, message):
    networks = {**SAME, "student": configs.network("tiny", trainable=True, **student)}
    with pytest.raises(ConfigError) as caught:
        configs.validate(distilled(networks=networks))
    assert message in str(caught.value)


def test_frozen_networks_start_from_nothing():
    networks = {**SAME, "teacher": configs.network("tiny", init="student")}
    with pytest.raises(ConfigError, match="networks.teacher.init: is given for a frozen network"):
        configs.validate(distilled(networks=networks))


def test_another_architecture_is_refused_by_path(frozen_teacher):
    networks = {**SAME, "teacher": configs.network("tiny_wide")}
    with pytest.raises(ConfigError, match=r"networks.student.init: the variables of 'teacher' do"):
        build_programs(distilled(networks=networks), INFO)


def test_weights_that_would_answer_otherwise_are_refused(frozen_teacher):
    """Equal shapes, but pixels are normalised otherwise."""
    mean, std = (99.0, 98.0, 97.5), (50.0, 51.0, 52.0)
    networks = {**SAME, "teacher": configs.network("tiny", mean=mean, std=std)}
    for field, values in (("mean", mean), ("std", std)):
        with pytest.raises(ConfigError, match=f"networks.student.init: 'teacher' normalises with "
                           f"the {field} ") as caught:
            build_programs(distilled(networks=networks), INFO)
        advised = str(caught.value).rpartition(" to ")[2]  # as it is printed
        networks["student"] = {**networks["student"], field: ast.literal_eval(advised)}
        assert networks["student"][field] == values
    build_programs(distilled(networks=networks), INFO)


@pytest.mark.parametrize("start, message", [
    (dict(options={"variant": "timm"}), "'teacher' is of variant 'timm', this network of 'tf'; set "
     "networks.student.options.variant to 'timm'"),
    (dict(class_order=[1, 0]), "the classes of 'teacher' are in another order"),
])
def test_networks_of_another_variant_or_order_of_classes_give_no_weights(start, message):
    facts = {"name": "efficientnet_b0", "mean": (1.0,), "std": (1.0,), "options": {}}
    shapes = {"params": {}, "batch_stats": {}}
    model = SimpleNamespace(init=lambda key, size: shapes)
    networks = {
        "student": Network(model, True, "", facts, "teacher"),
        "teacher": Network(model, False, "", {**facts, **start}),
    }
    with pytest.raises(ConfigError, match=message):
        check_init(networks, (8, 8))


def chain():
    """A student of a teacher that was itself distilled, and starts from its teacher's weights."""
    terms = {
        "ce": configs.term("cross_entropy", ("x",)),
        "kd": configs.term("kl", ("x",), teacher="teacher"),
    }
    inner = {
        "student": configs.network("tiny", trainable=True, init="teacher"),
        "teacher": configs.network("tiny", recipe=(("train.epochs", 1.0),)),
    }
    recipe = (("networks", inner), ("terms", terms), ("train.epochs", 1.0))
    return tiny_config(
        networks={
            "student": configs.network("tiny_wide", trainable=True),
            "teacher": configs.network("tiny", recipe=recipe),
        },
        terms=terms,
        train=dict(epochs=1.0, allow_weak_teacher=True),
        checkpoint=dict(every_epochs=0.0),
    )


def test_a_teacher_may_have_a_teacher(tmp_path):
    said = io.StringIO()
    full = teachers.ensure(chain(), tmp_path, stream=said)
    loop.train(full, tmp_path, stream=said)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("--- training")]
    where = ["teacher", "teacher/teacher", "teacher", ""]
    assert [line.split(" into ")[1] for line in lines] == [str(tmp_path / one) for one in where]
    for part in where:
        assert (tmp_path / part / "results.json").exists()
    # The middle one started from its teacher: one epoch cannot turn the weights round.
    weights = [
        checkpoint.load_subtree(
            tmp_path / part / "checkpoints", ("0", "params", "student"), print
        )["conv"]["kernel"].ravel()
        for part in ("teacher/teacher", "teacher")
    ]
    assert 0.8 < np.corrcoef(weights)[0, 1] < 1.0
    again = io.StringIO()
    teachers.ensure(chain(), tmp_path, stream=again)
    # Nothing is trained twice.
    assert "images/s" in said.getvalue() and "images/s" not in again.getvalue()


def test_what_is_wrong_with_the_innermost_is_told_before_anything_is_trained(tmp_path):
    config = chain()
    recipe = dict(config.networks.teacher.recipe)
    recipe["networks"]["teacher"]["recipe"] = (("train.epoch", 1.0),)
    config.networks.teacher.recipe = tuple(recipe.items())
    with pytest.raises(ConfigError) as caught:
        teachers.ensure(config, tmp_path, stream=io.StringIO())
    assert str(caught.value) == (
        "networks.teacher.recipe (networks.teacher.recipe (train.epoch)): there is no such field; "
        "did you mean epochs?"
    )
    assert list(tmp_path.iterdir()) == []
