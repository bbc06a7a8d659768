"""The command line: what it prints, and every config's smoke form."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main
from kdaug_jax.training import teachers

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/digits_kd.py:smoke"
# One of each paper; tests/slow has the others.
EXPERIMENTS = (
    "digits_kd", "wei2020_table1", "wang2020_cifar100", "a2aug_cifar", "rolewise",
    "das2020_cifar10", "cifar100_kd",
)


def test_ctrl_c_ends_in_one_line(run, monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(teachers, "ensure", interrupted)
    assert run(CONFIG, f"--workdir={tmp_path}") == 130
    assert capsys.readouterr().err.startswith("interrupted: run again")


def test_print_config_shows_every_field_and_overrides(run, capsys):
    assert run(CONFIG, "--config.terms.kd.weight=0.25", "--print_config") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["terms"]["kd"]["weight"] == 0.25
    assert shown["networks"]["teacher"]["trainable"] is False
    # Options that the config file leaves at their defaults are there too, and can be overridden.
    assert shown["terms"]["kd"]["renormalize"] is False
    assert run(CONFIG, "--config.terms.ce.label_smoothing=0.1", "--print_config") == 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_smoke_form(run, name, tmp_path, capsys):
    config = f"--config=configs/{name}.py:smoke"
    assert run(config, f"--workdir={tmp_path}") == 0
    assert (tmp_path / "results.json").exists()
    assert "test accuracy" in capsys.readouterr().out
    # The run is enough to evaluate it again.
    assert run(config, f"--workdir={tmp_path}", "--mode=evaluate") == 0
    assert "test accuracy" in capsys.readouterr().out


def test_preview_draws_the_first_views(run, tmp_path, capsys):
    from PIL import Image

    # A look before anything is trained: a teacher that is not there yet says nothing.
    assert run(CONFIG, f"--workdir={tmp_path}", "--mode=preview") == 0
    said = capsys.readouterr().out
    assert "preview.png" in said and "teacher is not trained yet" in said
    assert " train, " in said and " validation" in said and " classes, " in said
    assert {path.name for path in tmp_path.iterdir()} == {"preview.png", "kdaug_jax.json"}
    with Image.open(tmp_path / "preview.png") as image:
        assert image.width > 800 and np.asarray(image).std() > 10
    assert run(CONFIG, f"--workdir={tmp_path}") == 0
    capsys.readouterr()
    assert run(CONFIG, f"--workdir={tmp_path}", "--mode=preview") == 0
    assert "not trained" not in capsys.readouterr().out


def test_preview_chooses_with_initial_weights(tmp_path):
    import io

    from kdaug_jax.experiment import config as configs
    from kdaug_jax.training.preview import preview
    from tests.conftest import tiny_config

    mixed = 'view("x")|repeat(2)|cutmix(1.0)|pick("kl")'
    config = tiny_config(
        views={"x": "flip", "mixed": mixed},
        networks={"student": configs.network("tiny", trainable=True),
                  "teacher": configs.network("tiny_wide")},
        terms={"kd": configs.term("kl", ("x", "mixed"), teacher="teacher")},
    )
    said = io.StringIO()
    assert preview(config, tmp_path, stream=said).exists()
    assert "teacher is not trained yet" in said.getvalue()
    assert "selected with initial weights" in said.getvalue()


def test_sigterm_where_there_is_nothing_to_save(run, monkeypatch, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        main.preview, "preview", lambda *args: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert run(CONFIG, f"--workdir={tmp_path}", "--mode=preview") == 75
    assert capsys.readouterr().err == "error: SIGTERM: nothing was being trained; run again\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_fresh_process(tmp_path):
    """Devices, cache and exit status are set up before JAX starts, so only a process shows them."""
    words = [sys.executable, "main.py", CONFIG, "--config.train.epochs=1.0"]
    words += ["--config.networks.teacher.checkpoint=missing"]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [*words, f"--workdir={tmp_path / 'w'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: networks.teacher.checkpoint: 'missing' is not a working")
    assert "Traceback" not in done.stderr


BESIDE = '''
from kdaug_jax.experiment import config as configs


def get_config():
    config = configs.default()
    with config.unlocked():
        config.data.source = "synthetic:8x8,4,16"
        config.data.batch_size = 8
        config.views.x = ""
        config.networks.student = configs.network("tiny", trainable=True)
        config.terms.own = configs.term("a_loss_beside:squared", on=("x",))
        config.train.epochs = 1.0
    return config
'''
SQUARED = '''
import jax.numpy as jnp


def squared(student, labels):
    return jnp.sum((student - labels) ** 2, axis=-1)
'''


def test_a_config_may_name_modules_beside_it_and_in_the_current_directory(
    run, monkeypatch, tmp_path, capsys
):
    before = list(sys.path)
    for place in ("experiment", "elsewhere"):
        for folder in ("experiment", "elsewhere"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "experiment" / "a_config.py").write_text(BESIDE)
        module = tmp_path / place / "a_loss_beside.py"
        module.write_text(SQUARED)
        monkeypatch.chdir(tmp_path / "elsewhere")
        monkeypatch.delitem(sys.modules, "a_loss_beside", raising=False)
        config = f"--config={tmp_path}/experiment/a_config.py"
        directory = tmp_path / f"run_{place}"
        assert run(config, f"--workdir={directory}") == 0, capsys.readouterr().err
        assert (directory / "results.json").exists()
        module.unlink()
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "a_loss_beside")
    assert run(config, f"--workdir={tmp_path / 'w'}") == 2
    error = capsys.readouterr().err
    assert "there is no module 'a_loss_beside'" in error and "Traceback" not in error


def test_the_example_of_a_metric_runs(run, tmp_path, capsys):
    assert run("--config=docs/examples/metric.py", f"--workdir={tmp_path}") == 0
    output = capsys.readouterr().out
    assert "margin" in output and "worse_than_teacher" in output
    results = json.loads((tmp_path / "results.json").read_text())[""]
    assert -1 <= results["eval/test/margin"] <= 1
    assert 0 <= results["eval/test/worse_than_teacher"] <= 1
    teacher = json.loads((tmp_path / "teacher" / "results.json").read_text())[""]
    assert "eval/test/margin" in teacher and "eval/test/worse_than_teacher" not in teacher


def test_a_config_file_that_returns_nothing_is_named(run, tmp_path, capsys, recwarn):
    file = tmp_path / "nothing.py"
    file.write_text("def get_config():\n    pass\n")
    assert run(f"--config={file}", f"--workdir={tmp_path / 'w'}") == 2
    assert f"error: {file}: get_config() returned None; return" in capsys.readouterr().err
