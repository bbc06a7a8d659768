"""Stages, schedules, optimisers and combinations that a user brings by name."""

import re

import jax
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import optim, schedules, views
from kdaug_jax.types import Batch, Clock, Info, Range
from tests.conftest import tiny_config
from tests.training.bench import Bench, distilled

INFO = Info(4, (8, 8), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))
EXAMPLES, PARTS = "docs.examples", "tests.experiment.parts_of_a_user"
POSITIVE = Range(np.float32, 0.0)


def made(text):
    specs = views.parse_all({"x": text}, INFO)
    index = np.arange(16, dtype=np.int32)
    images = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3), np.uint8)
    batch = Batch(images, index % 4, index, np.ones(16, bool))
    clock = Clock(np.uint32(0), np.int32(0), np.int32(0))
    values, _ = views.hparams(specs)
    return batch, jax.jit(lambda: views.make(specs, clock, batch, values, INFO, 1))()["x"]


def test_everything_of_a_user_trains_in_one_run(frozen_teacher):
    triangle = f"{EXAMPLES}.schedule:triangle"
    optimiser = configs.optimizer(
        f"{EXAMPLES}.optimizer:lion", dict(name=triangle, base=0.01, peak=0.25), b2=0.98,
        weight_decay=0.1, combine=f"{EXAMPLES}.combine.project(0.5)",
    )
    config = distilled(
        views={"x": f"pad_crop(1)|{EXAMPLES}.stage.salt(0.1)|{EXAMPLES}.stage.swap_labels"},
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term(
                "kl", ("x",), teacher="teacher", gradient_group="distill",
                weight=dict(name=triangle, base=0.5),
            ),
        },
    )
    with config.unlocked():
        config.optim = optimiser
    bench = Bench(config)
    paths = {
        "views.x.salt.share", "views.x.salt.level", "views.x.swap_labels.share",
        "optim.b1", "optim.b2", "optim.project.strength",
    }
    assert paths <= set(bench.program.hparams)
    _, rows = bench.run(2)
    assert rows[0]["optim/lr"] == 0.0 and rows[1]["optim/lr"] > 0.0
    assert all(np.isfinite(value) for row in rows for value in row.values())


def test_the_other_examples_train_too():
    config = tiny_config(views={"x": f"{EXAMPLES}.stage.half|flip"})
    with config.unlocked():
        config.optim = configs.optimizer(
            f"{EXAMPLES}.optimizer.signed", 0.01, combine=f"{EXAMPLES}.combine.fade(0.5)"
        )
    bench = Bench(config)
    assert bench.program.view_specs[0].size == (4, 4)
    assert "optim.fade.rate" in bench.program.hparams
    state, _ = bench.run(1)
    start = bench.init(bench.program.hparams).params["student"]["fc"]["kernel"]
    change = np.abs(np.asarray(state.params["student"]["fc"]["kernel"]) - start)
    np.testing.assert_allclose(change[change > 0], 0.01, rtol=1e-3)


def test_the_last_name_is_the_role_and_counts_with_stages_of_that_name():
    text = f"flip(0.0)|{PARTS}.flip|{PARTS}.flip|{EXAMPLES}.stage.salt(0.0)"
    spec = views.parse("x", text, INFO)
    assert [call.role for call in spec.calls] == ["flip", "flip_1", "flip_2", "salt"]
    batch, view = made(text)
    np.testing.assert_array_equal(view.image, batch.image)  # flipped twice
    key = rng.fold(rng.root(0), "salt")
    assert np.array_equal(
        jax.random.key_data(rng.fold(rng.root(0), spec.calls[-1].role)), jax.random.key_data(key)
    )


def test_draws_and_forms():
    batch, view = made(f"{EXAMPLES}.stage.salt(0.5, level=255)")
    salted = (np.asarray(view.image) == 255).all(-1)
    assert 0.4 < salted.mean() < 0.6 and not np.array_equal(salted[0], salted[1])
    np.testing.assert_array_equal(view.image[~salted], batch.image[~salted])
    built = views.build_augment(f"{EXAMPLES}.stage.half|flip(0.0)")
    np.testing.assert_array_equal(
        built(jax.random.split(jax.random.key(0), 16), batch.image), batch.image[:, ::2, ::2]
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("unit", "views.x.unit: returned float32[8,8,3] for uint8[8,8,3]; return uint8 pixels "
                 "0..255, or name a Stage(..., floats=True)"),
        ("cropped", "views.x.cropped: returned uint8[7,8,3] for uint8[8,8,3]; return uint8[8,8,3]"),
        ("pair", "views.x.pair: returned tuple; return a single image array"),
        ("odd", "views.x.odd: returned uint8[2,8,8,1] for uint8[2,8,8,3]"),
        ("rowwise", "views.x.rowwise: returned float32[2,3] as target; return float32[2,4]"),
        ("few", "views.x.few: does not take 2 positional arguments; name a function f(key, image"),
        ("loose", "views.x.loose: takes **options; name each option"),
        ("number", "views.x.number: is of type int, which has no signature; name"),
        ("pooled", "views.x.pooled: has form 'repeat'; must be one of example"),
        ("no_policy", "views.x.no_policy: returned int; return a kdaug_jax.augment.policies"),
        ("refusing(3)", "views.x.refusing: got level=3; must be even"),
        ("flip(3)", "views.x.flip: got 1 argument; takes no arguments"),
        ("flipp", "views.x: module tests.experiment.parts_of_a_user has no 'flipp'; did you mean "
                  "flip"),
    ],
)
def test_a_stage_of_another_form_is_refused_by_name(text, message):
    with pytest.raises(ConfigError) as caught:
        views.parse("x", f"{PARTS}.{text}", INFO)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("nowhere.at_all", "views.x: cannot import 'nowhere.at_all': there is no module 'nowhere'"),
        ("package:stage(3)", "write name(values)|name(values), and a name of your own as package."),
        ("f(3).g", "cannot read"),
    ],
)
def test_what_is_no_name(text, message):
    with pytest.raises(ConfigError) as caught:
        views.parse("x", text, INFO)
    assert message in str(caught.value)


def refused(**fields):
    section = configs.optimizer(**{"name": "sgd", "schedule": 0.1, **fields})
    with pytest.raises(ConfigError) as caught:
        optim.build_optimizer(section, 10, 100, INFO)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(name="sdg"), "optim.name: unknown optimiser 'sdg'; did you mean sgd"),
        (dict(name=3), "optim.name: unknown optimiser '3'"),
        (dict(name=f"{PARTS}:number"), "optim.name: is of type int, which has no"),
        (dict(name=f"{PARTS}:nothing"), "optim.name: returned NoneType; return an optax."),
        (dict(name=f"{PARTS}:scalars"), "optim.name: returned {'student': 'float32[]'} for"),
        (dict(name=f"{PARTS}:nothing", momentum=1), "optim: has no argument 'momentum'"),
        (dict(combine="smu()"), "optim.combine: unknown combination 'smu'; did you mean sum"),
        (dict(combine=""), "optim.combine: got 0 calls; write one, such as 'sum()'"),
        (dict(combine=f"{PARTS}.half_of"), "optim.combine: returned {'student'"),
        (dict(combine=f"{PARTS}.immediate"), "optim.combine: is of type "),
        (dict(schedule=dict(name=f"{PARTS}:vector", base=1.0)),
         "optim.schedule.name: its multiplier returned float32[3]; return float32[]"),
        (dict(schedule=dict(name=f"{PARTS}:height", base=1.0)),
         "optim.schedule.name: is of type float, which has no"),
        (dict(schedule=dict(name="docs.examples.schedule:triangle", base=1.0, peak=2.0)),
         "optim.schedule: peak = 2.0; must lie between 0 and 1"),
        (dict(schedule=dict(name="cosin", base=1.0)), "did you mean cosine"),
    ],
)
def test_optimisers_schedules_and_combinations_are_refused_by_name(fields, message):
    assert message in refused(**fields)


@pytest.mark.parametrize("kind", [ValueError, TypeError, IndexError])
def test_mistakes_in_a_users_code_keep_their_traceback(kind):
    with pytest.raises(kind, match="planted"):
        views.parse("x", f"{PARTS}.stage_{kind.__name__}", INFO)
    with pytest.raises(kind, match="planted"):
        views.parse("x", f"{PARTS}.policy_{kind.__name__}", INFO)
    with pytest.raises(kind, match="planted"):
        schedules.build_schedule(
            "w", dict(name=f"{PARTS}:schedule_{kind.__name__}", base=1.0), 4, 40, POSITIVE, INFO
        )


@pytest.mark.parametrize("kind", [ValueError, TypeError, IndexError])
def test_mistakes_of_this_package_keep_their_traceback(monkeypatch, kind):
    def planted(*args, **options):
        raise kind("planted")

    stage = views.STAGES["cutout"]
    monkeypatch.setitem(views.STAGES, "cutout", stage._replace(check=planted))
    with pytest.raises(kind, match="planted"):
        views.parse("x", "cutout(2)", INFO)
    specs = views.parse_all({"x": "flip"}, INFO)
    call = specs[0].calls[0]
    call = call._replace(stage=call.stage._replace(apply=planted))
    monkeypatch.setattr(views, "parse_all", lambda *_: (specs[0]._replace(calls=(call,)),))
    with pytest.raises(kind, match="planted"):
        made("flip")


def test_an_argument_refused_while_a_view_is_traced_gets_its_path(monkeypatch):
    from kdaug_jax.errors import ArgumentError

    def late(key, image, **options):
        raise ArgumentError("is too late", "come earlier")

    specs = views.parse_all({"x": "flip"}, INFO)
    call = specs[0].calls[0]
    call = call._replace(stage=call.stage._replace(apply=late))
    monkeypatch.setattr(views, "parse_all", lambda *_: (specs[0]._replace(calls=(call,)),))
    with pytest.raises(ConfigError, match=re.escape("views.x.flip: is too late; come earlier")):
        made("flip")
