import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import reference
from kdaug_jax.experiment.fields import FIELDS
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.hosting import order_seed
from kdaug_jax.types import Info
from tests.conftest import tiny_config

INFO = Info(4, (8, 8), np.zeros(40, np.int32), (0.0,) * 3, (1.0,) * 3)


def refused(config):
    with pytest.raises(ConfigError) as caught:
        configs.validate(config)
    return str(caught.value)


def test_numpys_numbers_and_arrays_are_pythons():
    """A sweep is written with np.linspace, a mean comes out of an array."""
    config = tiny_config(
        population=(("optim.schedule", np.linspace(0.1, 0.3, 3, dtype=np.float32)),),
    )
    given = configs.plain(config)
    given["networks"]["student"] |= {
        "mean": np.array([1.5, 2.0, 3.0]), "std": (np.float32(0.1), np.float64(2), 3),
    }
    given["data"]["batch_size"], given["train"]["epochs"] = np.int64(8), jax.numpy.float32(2)
    full = configs.validate(given)
    assert json.loads(json.dumps(full))["population"] == [["optim.schedule", [0.1, 0.2, 0.3]]]
    assert full["data"]["batch_size"] == 8 and type(full["data"]["batch_size"]) is int
    student = full["networks"]["student"]
    assert student["mean"] == (1.5, 2.0, 3.0) and student["std"] == (0.1, 2.0, 3)
    assert configs.fingerprint(full) == configs.fingerprint(configs.canonical(full))


def test_a_complete_config_survives_json():
    full = configs.validate(tiny_config())
    again = configs.canonical(full)
    assert configs.validate(again) and configs.difference(full, again) == []
    assert configs.fingerprint(full) == configs.fingerprint(json.loads(json.dumps(again)))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("trian", {}, "config.trian: is not a field; did you mean train?"),
        ("train.epoch", 3, "did you mean epochs"),
        ("train.epochs", "three", "must be a float"),
        ("train.epochs", 0.0, "more than 0"),
        ("train.epochs", float("nan"), "train.epochs: got nan"),
        ("data.batch_size", 0, "at least 1"),
        ("data.batch_size", 2.5, "must be a int"),
        ("data.seed", -2, "at least -1"),
        ("seed", 2**32, "at most"),
        ("train.replica_batch_size", 3, "3 does not divide data.batch_size 8"),
        ("mode", "evalute", "did you mean evaluate"),
        ("precision", "float16", "must be float32 or bfloat16"),
        ("views", {}, "is empty"),
        ("views", 3, "views: got 3; must be a section"),
        ("views.x", 3, "must be a section"),
        ("views.x", {"ops": "flip", "brunch": 1}, "did you mean branch"),
        ("networks.student", {"trainable": True}, "has no 'name'"),
        ("networks.student", {"name": "tiny", "trainible": True}, "did you mean trainable"),
        ("networks.student", {"name": "tiny"}, "none is trainable"),
        (
            "networks.student",
            {"name": "tiny", "trainable": True, "checkpoint": "runs/x"},
            "is given for a trained network",
        ),
        ("terms.ce", {"on": ("x",)}, "has no 'loss'"),
        ("networks.student", {"name": "tiny", "trainable": "no"}, "must be a bool"),
        ("networks.student", {"name": 3, "trainable": True}, "must be a str"),
        ("networks.student", {"name": "tiny", "trainable": True, "mean": 5}, "must be a tuple"),
        ("networks.student", {"name": "tiny", "trainable": True, "std": (0.0,)}, "more than 0"),
        ("terms.ce", {"loss": "kl", "on": ("x",), "detach": "no"}, "must be a bool"),
        ("terms.ce", {"loss": "kl", "on": 5}, "terms.ce.on: got 5"),
        ("terms.ce", {"loss": "kl", "on": ("x",), "teacher": None}, "terms.ce.teacher: got None"),
        (
            "terms.ce", {"loss": "kl", "on": ("x",), "gradient_group": "tusk"},
            "terms.ce.gradient_group: got 'tusk'; must be task or distill",
        ),
        ("train.group_size", 4, "train.group_size: is not a field; did you mean replica_batch"),
        ("optim.clip_norm", -1.0, "more than 0"),
        ("optim.ema", 1.0, "optim.ema: got 1.0; must be more than 0 and at most 0.999999"),
        ("views.x", {"ops": "", "branch": -1}, "views.x.branch: got -1; must be at least 0"),
        ("terms.ce", {"loss": 3, "on": ("x",)}, "terms.ce.loss: got 3"),
        ("views.x", {"ops": 3}, "views.x.ops: got 3"),
        ("phases", (3,), "must be a tuple of pairs"),
        ("log.every_steps", 0, "at least 1"),
    ],
)
def test_bad_fields_are_named(path, value, message):
    config = configs.plain(tiny_config())
    section, _, name = path.partition(".")
    if name:
        config[section][name] = value
    else:
        config[section] = value
    assert message in refused(config)


def test_a_single_view_may_be_written_without_a_tuple():
    config = configs.plain(tiny_config())
    config["terms"]["ce"]["on"] = "x"
    assert configs.validate(config)["terms"]["ce"]["on"] == ("x",)


def test_put_keeps_the_rest_and_names_wrong_paths():
    full = configs.validate(tiny_config(views={"x": dict(ops="flip", branch=1)}))
    assert configs.set_path(full, "views.x", "")["views"]["x"] == {
        "ops": "", "branch": 1, "place": "auto",
    }
    assert full["views"]["x"]["ops"] == "flip"
    with pytest.raises(ConfigError, match="did you mean epochs"):
        configs.set_path(full, "train.epoch", 3)


def test_difference_lists_paths():
    old, new = (configs.validate(tiny_config(train=dict(epochs=e))) for e in (2.0, 3.0))
    assert configs.difference(old, new) == ["train.epochs: 2.0 -> 3.0"]
    assert configs.difference(old, {**old, "mode": "evaluate"}) == []
    assert configs.difference(old, configs.set_path(old, "views.x.place", "host")) == []


def test_where_weights_and_batches_lie_may_differ():
    old = configs.validate(tiny_config())
    new = configs.validate(tiny_config(mesh=dict(data=2, model=2)))
    new["networks"]["student"]["shard"] = "auto"
    assert configs.difference(old, new) == configs.difference(new, old) == []
    del old["mesh"]["model"], old["networks"]["student"]["shard"]  # of an earlier version
    assert configs.difference(old, new) == []


def test_names_sort_by_their_numbers():
    assert configs.natural_sort(["a10", "a2", "b", "a"]) == ["a", "a2", "a10", "b"]


@pytest.mark.parametrize(
    "name, hint", [("group", "did you mean gradient_group"), ("taps", "features")]
)
def test_fields_of_older_versions_are_refused_with_near_names(name, hint):
    config = tiny_config(terms={"ce": configs.term("cross_entropy", ("x",), **{name: "task"})})
    with pytest.raises(ConfigError) as caught:
        build_programs(config, INFO)
    assert f"terms.ce.{name}: is not a field" in str(caught.value) and hint in str(caught.value)


def test_the_documentation_lists_every_field():
    """docs/config.md is what `python -m kdaug_jax.experiment.reference` writes."""
    text = reference.document()
    assert (Path(__file__).parents[2] / "docs" / "config.md").read_text() == text
    assert all(f"| `{path}` |" in text for path in FIELDS)


def test_a_default_config_has_the_fields_of_the_table():
    fields = {path for path in FIELDS if "*" not in path}
    config = configs.plain(configs.default())
    assert config["optim"].pop("schedule") == FIELDS["optim.schedule"].default
    paths = set(configs.flatten(config))
    assert fields - paths == {"optim.schedule"}
    assert paths - fields == {"optim.momentum", "optim.nesterov", "views", "networks", "terms"}


def test_the_order_of_examples_follows_the_seed_unless_it_has_its_own():
    for given, expected in ((dict(seed=3), 3), (dict(seed=3, data=dict(seed=0)), 0)):
        assert order_seed(configs.validate(tiny_config(**given))) == expected
    with pytest.raises(ConfigError, match="data.seed: got -2; must be at least -1"):
        configs.validate(tiny_config(data=dict(seed=-2)))
