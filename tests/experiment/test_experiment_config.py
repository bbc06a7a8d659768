import json

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from tests.conftest import tiny_config


def refused(config):
    with pytest.raises(ConfigError) as caught:
        configs.validate(config)
    return str(caught.value)


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
        ("data.seed", -1, "at least 0"),
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
    assert configs.set_path(full, "views.x", "")["views"]["x"] == {"ops": "", "branch": 1}
    assert full["views"]["x"]["ops"] == "flip"
    with pytest.raises(ConfigError, match="did you mean epochs"):
        configs.set_path(full, "train.epoch", 3)


def test_difference_lists_paths():
    old, new = (configs.validate(tiny_config(train=dict(epochs=e))) for e in (2.0, 3.0))
    assert configs.difference(old, new) == ["train.epochs: 2.0 -> 3.0"]
    assert configs.difference(old, {**old, "mode": "evaluate"}) == []


def test_names_sort_by_their_numbers():
    assert configs.natural_sort(["a10", "a2", "b", "a"]) == ["a", "a2", "a10", "b"]
