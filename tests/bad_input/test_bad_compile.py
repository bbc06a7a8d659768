"""What --mode=compile refuses, in one line each, before any compiler is loaded."""

import pytest

from kdaug_jax.compile import compilers
from tests.bad_input.helpers import files, one_line

DIGITS = "--config=configs/digits_kd.py:smoke"
ASSUMED = "--assume=examples=6400,classes=10,size=32x32"


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "error: --topology: is missing; such as v5e:16x16, v4:2x2x1 or h200:8"),
        (["--topology=v5e-256"], "error: --topology: there is no 'v5e-256'; write the sides"),
        (["--topology=v5e:4x16"], "error: --topology: there is no 'v5e:4x16'; did you mean v5e:"),
        (["--topology=h200:9"], "error: --topology: there is no 'h200:9'; h200:N takes up to 8"),
        (
            ["--topology=v5e:2x2", "--assume=examples=6400"],
            "error: --assume: has no 'classes'; --assume=examples=1281167,classes=1000,size=mixed,",
        ),
        (
            ["--topology=v5e:2x2", ASSUMED],
            "error: --compilers: is missing, and so is $KDAUG_COMPILERS; pip install --no-deps "
            '--target compilers "libtpu==',
        ),
        (
            ["--topology=h200:8", ASSUMED, "--compilers=W"],
            "error: --compilers: there is no jax_plugins/xla_cuda12 in 'W'; pip install --no-deps "
            '--target W "jax-cuda12-plugin==',
        ),
        (["--topology=v5e:2x2", "--config.train.epochs=-1"], "error: train.epochs: "),
    ],
)
def test_command_line(run, words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(compilers.VARIABLE, raising=False)
    assert run(DIGITS, "--mode=compile", *words) == 2
    assert one_line(capsys.readouterr().err).startswith(message)
    assert files(tmp_path) == {}


def test_absent_data_can_be_described(run, monkeypatch, capsys, tmp_path):
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "libtpu.so").touch()
    monkeypatch.setenv(compilers.VARIABLE, str(tmp_path))
    source = f"--config.data.source=folder:{tmp_path / 'absent'}"
    assert run(DIGITS, "--mode=compile", "--topology=v5e:2x2", source) == 3
    line = one_line(capsys.readouterr().err)
    assert "absent" in line
    assert line.rstrip().endswith(
        "or describe them: --assume=examples=1281167,classes=1000,size=mixed, "
        "or size=32x32 where all have one size"
    )
