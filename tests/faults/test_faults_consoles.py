"""Consoles that take nothing, or not every letter: output is dropped or replaced, work goes on."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from kdaug_jax.deploy import predict
from kdaug_jax.errors import printable
from kdaug_jax.runtime import commands, streams
from kdaug_jax.runtime.console import Console, table
from tests.bad_input.helpers import ROOT

PRINTING = """
import sys
from kdaug_jax.runtime import streams
streams.prepare()
opened = open("first", "w")
for _ in range(3000):
    print("4 × cpu, " + "long " * 20)
print("warning", file=sys.stderr)
opened.write("kept")
"""


def printed(tmp_path, redirection, **environment):
    """Runs a script that prints a lot, in a shell; gives its exit status, output and files."""
    script = tmp_path / "printing.py"
    script.write_text(PRINTING)
    words = f"set -o pipefail; {sys.executable} {script} {redirection}"
    return subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


@pytest.mark.parametrize("redirection", [
    "| head -1", ">&-", "<&- >&- 2>&-", "> /dev/full", "> /dev/full 2> /dev/full", "2>&-",
])
def test_no_console_ends_a_command(tmp_path, redirection):
    done = printed(tmp_path, redirection)
    assert done.returncode == 0
    assert (tmp_path / "first").read_text() == "kept"  # nothing that was printed got into it
    assert done.stderr == (b"" if "2>" in redirection else b"warning\n")


@pytest.mark.parametrize("encoding, shown", [
    ("ascii", b"4 ? cpu"), ("latin-1", "4 × cpu".encode("latin-1")), ("utf-8", "4 × cpu".encode()),
])
def test_letters_that_an_encoding_lacks_are_replaced(tmp_path, encoding, shown):
    done = printed(tmp_path, "| head -1", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"warning\n")
    assert done.stdout.startswith(shown)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


class Full(io.StringIO):
    def flush(self):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("make", [lambda: None, closed, Full])
def test_a_console_without_a_reader_drops_what_it_is_given(monkeypatch, make):
    monkeypatch.setattr(sys, "stdout", make())
    console = Console()
    console.say("line")
    console.progress(0.5, "step 1")
    console.end_bar()


def test_a_run_goes_on_whatever_its_console_is(tiny, tmp_path, monkeypatch, capsys):
    """As where the program is not one of our commands: no blame of the working directory."""

    class Narrow(io.TextIOWrapper):
        def write(self, text):
            super().write(text)
            if "evaluation" in text:
                raise OSError(28, "No space left on device")

    stream = Narrow(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert tiny({}, "--config.train.epochs=0.2") == 0
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "w" / "results.json").read_text())
    assert "8?8 pixels" in stream.buffer.getvalue().decode("ascii")


HOSTILE = "cat\n\x1b[2Jdog\r\x07"


def test_names_reach_no_terminal_as_codes():
    stream = io.StringIO()
    console = Console(stream)
    console.say(f"class {HOSTILE}")
    console.progress(0.5, f"step 1 {HOSTILE}")
    console.say(*table([("name", "accuracy"), (HOSTILE, "9 %")]).split("\n"))
    said = stream.getvalue()
    assert said.count("\n") == 5 and "\x1b" not in said and "\r" not in said
    assert said.count(r"cat\n\x1b[2Jdog\r\x07") == 3
    # The columns are aligned as the escapes are shown.
    *_, header, _, row = said.splitlines()
    assert len(header) == len(row)


def test_predict_shows_hostile_names_on_a_line(tmp_path, monkeypatch, capsys):
    class Card:
        fill = ()
        num_classes, size, class_names = 2, (8, 8), (HOSTILE, "bee")

        def describe(self):
            return f"run {HOSTILE}"

    name = tmp_path / HOSTILE
    monkeypatch.setattr(predict.artifact, "read", lambda *_: (Card(), lambda x: [[2.0, 0.0]]))
    monkeypatch.setattr(predict, "read_image", lambda *_: [[[0]]])
    assert predict.main(["--model", str(tmp_path), str(name)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        printable(str(name)), f"   88.08 %  {printable(HOSTILE)}", "   11.92 %  bee",
    ]
    assert said.err == f"model: run {printable(HOSTILE)}\n"


def test_commands_end_in_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(streams, "prepare", lambda: None)
    with pytest.raises(SystemExit) as caught:
        commands.run(lambda: signal.raise_signal(signal.SIGINT))
    assert caught.value.code == 130
    assert capsys.readouterr().err == "error: Ctrl-C: the command was stopped; run again\n"
    with pytest.raises(SystemExit) as caught:
        commands.run(lambda: 3)
    assert caught.value.code == 3


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| head -1", "<&- >&- 2>&-", "> /dev/full 2>&1"])
def test_the_command_itself(tmp_path, redirection):
    words = f"{sys.executable} main.py --config=configs/digits_kd.py:smoke --workdir={tmp_path}/w"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {redirection}"], cwd=ROOT, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "w" / "results.json").exists()
