"""The command line: what it prints, its exit statuses, and every config's smoke form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main

ROOT = Path(__file__).parents[1]
CONFIG = "--config=configs/digits_kd.py:smoke"
EXPERIMENTS = sorted(
    path.name
    for path in (ROOT / "configs").glob("*.py")
    if path.name not in ("common.py", "__init__.py")
)


@pytest.fixture
def run(monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        return main.main()

    return call


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "error: --config: is missing; --config=configs/digits_kd.py"),
        (["--config=configs/nope.py"], "error: --config: there is no file 'configs/nope.py'"),
        ([CONFIG], "error: --workdir: is missing"),
        ([CONFIG, "--workdir=/tmp/w", "stray"], "error: command line: does not know 'stray'"),
        ([CONFIG, "--workdri=/tmp/w"], "error: command line: "),
        ([CONFIG, "--workdir=/tmp/w", "--config.optim.lrr=0.1"], "lrr"),
        ([CONFIG, "--workdir=/tmp/w", "--config.train.epochs=many"], "many"),
        (
            [CONFIG, "--workdir=/tmp/w", "--config.optim.momentum=nan"],
            "error: optim.momentum: got nan",
        ),
        ([CONFIG, "--workdir=/tmp/w", "--mode=trian"], "error: command line: "),
        (
            ["--config=configs/digits_kd.py:smok", "--workdir=/tmp/w"],
            "error: --config: has no option 'smok'; did you mean smoke?",
        ),
        (["--config=configs/digits_kd.py:magnitude=high", "--workdir=/tmp/w"], "must be a int"),
        ([CONFIG, "--workdir=/proc/none"], "error: --workdir: /proc/none cannot be written"),
        (["--config=configs/digits_kd.py", "--workdir=/tmp/w", "--mode=evaluate"], "holds no run"),
        (
            [CONFIG, "--workdir=/tmp/w", "--distributed=2/2@host:1"],
            "error: --distributed: cannot read '2/2@host:1'; --distributed=auto, or NUMBER/COUNT@",
        ),
    ],
)
def test_bad_command_lines_end_in_one_line(run, words, message, capsys, tmp_path):
    words = [word.replace("/tmp/w", str(tmp_path / "w")) for word in words]
    assert run(*words) == 2
    output = capsys.readouterr()
    assert message in output.err.replace(str(tmp_path / "w"), "/tmp/w")
    assert len(output.err.strip().splitlines()) == 1
    assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "config.py:1: SyntaxError"),
        ("import no_such_module", "config.py:1: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "config.py:2: ZeroDivisionError"),
        ("def get_config():\n    return 3", "has no get_config() that returns a ConfigDict"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(run, tmp_path, capsys, text, message):
    (tmp_path / "config.py").write_text(text)
    assert run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}") == 2
    output = capsys.readouterr().err
    assert message in output and len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "override, message",
    [
        ("terms.kd.loss=topk_kll", "error: terms.kd.loss: unknown loss 'topk_kll'; did you mean"),
        ("terms.kd.k=99", "error: terms.kd.k: got 99; must be at least 1 and at most 10"),
        ("views.x='flip|flop'", "error: views.x: unknown stage 'flop'; did you mean flip"),
        ("eval.view='view(\"x\")'", "error: eval.view: starts from another view"),
        ("checkpoint.best=eval/validation/acc", "did you mean eval/validation/accuracy"),
        ("population='((\"terms.kd.wait\", (1.0,)),)'", "error: terms.kd.wait: is not a traced"),
        ("data.batch_size=7", "cannot be shared by"),
    ],
)
def test_an_experiment_is_checked_before_its_teacher_is_trained(
    run, tmp_path, capsys, override, message
):
    name, value = override.split("=", 1)
    words = [CONFIG, f"--workdir={tmp_path}", f"--config.{name}={value.strip(chr(39))}"]
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "teacher" / "metrics.jsonl").exists()
    assert not (tmp_path / "config.json").exists()


def test_evaluating_on_other_data_is_refused(run, tmp_path, capsys):
    words = ["--config=configs/digits_kd.py:smoke", f"--workdir={tmp_path}"]
    words += ["--config.train.epochs=1.0"]
    assert run(*words) == 0
    other = [*words, "--config.data.source=synthetic:32x32,10,80", "--mode=evaluate"]
    assert run(*other) == 2
    assert "was trained on other data (data.source: " in capsys.readouterr().err
    assert run(*other, "--allow_config_change") == 0


def test_ctrl_c_ends_in_one_line(run, monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.teachers, "ensure", interrupted)
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
    assert run(f"--config=configs/{name}:smoke", f"--workdir={tmp_path}") == 0
    assert (tmp_path / "results.json").exists()
    assert "test accuracy" in capsys.readouterr().out
    # The run is enough to evaluate it again.
    assert run(f"--config=configs/{name}:smoke", f"--workdir={tmp_path}", "--mode=evaluate") == 0
    assert "test accuracy" in capsys.readouterr().out


def test_preview_draws_the_first_views(run, tmp_path, capsys):
    from PIL import Image

    assert run(CONFIG, f"--workdir={tmp_path}", "--mode=preview") == 0
    assert "preview.png" in capsys.readouterr().out
    with Image.open(tmp_path / "preview.png") as image:
        assert image.width > 800 and np.asarray(image).std() > 10
    assert not (tmp_path / "config.json").exists()


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
