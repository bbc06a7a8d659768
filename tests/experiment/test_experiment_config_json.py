"""A config as data: what `--config_json` takes, and the code that it may not name."""

import json
import sys
import types

import pytest

from kdaug_jax import registry
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.imports import imported_names

CONFIG = "--config=configs/digits_kd.py:smoke"


@pytest.fixture
def printed(run, tmp_path, capsys):
    """A file with what --print_config prints, and its contents."""
    assert run(CONFIG, "--print_config") == 0
    path = tmp_path / "printed.json"
    path.write_text(capsys.readouterr().out)
    return path, json.loads(path.read_text())


def test_a_printed_config_gives_the_same_config(run, printed, capsys):
    path, config = printed
    assert run(f"--config_json={path}", "--print_config") == 0
    assert json.loads(capsys.readouterr().out) == config


@pytest.mark.slow
def test_the_record_of_a_run_goes_on_with_it(run, tmp_path, capsys):
    workdir = f"--workdir={tmp_path}/run"
    assert run(CONFIG, workdir) == 0
    results = (tmp_path / "run/results.json").read_text()
    assert run(f"--config_json={tmp_path}/run/config.json", workdir) == 0
    assert (tmp_path / "run/results.json").read_text() == results


def test_code_that_a_config_names_is_refused_with_its_list(run, printed, capsys):
    path, config = printed
    config["terms"]["kd"]["loss"] = "os:system"
    config["data"]["source"] = "bad.module:read:folder"
    config["views"][next(iter(config["views"]))]["ops"] = "flip|other.stage(3)"
    path.write_text(json.dumps(config))
    assert run(f"--config_json={path}", "--print_config") == 2
    said = capsys.readouterr().err
    assert "would be imported, and so run: bad.module:read, os:system, other.stage;" in said
    assert said.endswith("read these modules, then --allow_imports\n")


def test_code_may_be_allowed(run, printed, capsys, monkeypatch):
    path, config = printed
    module = types.ModuleType("brought")
    module.schedule = lambda span: 1.0
    monkeypatch.setitem(sys.modules, "brought", module)
    config["optim"]["schedule"] = {"name": "brought:schedule", "base": 0.1}
    path.write_text(json.dumps(config))
    assert run(f"--config_json={path}", "--print_config") == 2
    assert run(f"--config_json={path}", "--print_config", "--allow_imports") == 0


@pytest.mark.parametrize("content, message", [
    ("[]", "holds no config; name config.json of a run"),
    ("{", "cannot be read ("),
    (None, "cannot be read (No such file or directory); name config.json of a run"),
    ('{"trainn": 1}', "trainn"),
])
def test_what_is_no_config(run, tmp_path, capsys, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    assert run(f"--config_json={path}", "--print_config") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_program_and_data_are_not_given_together(run, printed, capsys):
    assert run(CONFIG, f"--config_json={printed[0]}", "--print_config") == 2
    assert "--config_json: stands beside --config; give one of them" in capsys.readouterr().err
    assert run(f"--config_json={printed[0]}", "--config.train.epochs=2", "--print_config") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_record_may_import_what_the_config_names_and_nothing_else():
    with registry.importable():
        registry.trust_only("networks: collections:OrderedDict, string.Template(3)")
        for name in ("collections:OrderedDict", "collections.OrderedDict", "string:Template"):
            registry.resolve("networks.x.name", "network", name, {})
        for name in ("os:system", "collections:Ordered", "x.collections:OrderedDict"):
            message = f"networks.x.name: '{name}' would import, and so run, code that no config"
            with pytest.raises(ConfigError, match=message):
                registry.resolve("networks.x.name", "network", name, {})
    registry.resolve("networks.x.name", "network", "os:sep", {})  # nothing limits a library's user


def test_names_of_sets_files_and_runs_are_no_code():
    config = {
        "data": {"source": "folder:data/x?val=a.b", "train": "0.5"},
        "eval": {"sets": ("cifar100c:data/c",)},
        "networks": {"t": {"checkpoint": "cell:name", "name": "resnet20"}},
        "views": {"x": {"ops": "policy('policies/best.json')|crop(0.5)|view(\"a\")"}},
    }
    assert imported_names(config) == []
