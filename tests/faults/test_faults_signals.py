"""Ctrl-C, SIGTERM and SIGHUP at every phase: what is computed is saved, nothing is forgotten."""

import io
import os
import signal
import subprocess
import sys

import pytest

from kdaug_jax.errors import Interrupted, Preempted
from kdaug_jax.evaluation import run as evaluation_run
from kdaug_jax.runtime import checkpoint, manifest, mark, signals, streams
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop, saving
from tests.bad_input.helpers import ROOT, TEACHER, one_line
from tests.conftest import tiny_config

ENDS = {
    signal.SIGINT: ("Ctrl-C", 130), signal.SIGTERM: ("SIGTERM", 75), signal.SIGHUP: ("SIGHUP", 75),
}
BEST = "eval/validation/accuracy"


def sending(number, monkeypatch, owner, name, when=(1).__eq__):
    """Has a call of a function, the first by default, send this process a signal beforehand."""
    function, calls = getattr(owner, name), []

    def signalling(*args, **kwargs):
        calls.append(1)
        if when(len(calls)):
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalling)


@pytest.fixture
def terminated(monkeypatch):
    """What a program around the run is told, in the order in which it comes."""
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


def measured(directory):
    """Rows without what is measured by the clock, by step and member."""
    return [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in read_rows(directory)
    ]


def scores(directory):
    """Steps that are kept and the metric by which."""
    place = directory / "checkpoints"
    return {
        step: checkpoint.json.loads((place / str(step) / checkpoint.METRICS).read_text())
        for step in manifest.steps(place)
    }


def test_an_evaluation_cut_short_is_made_up_for(tmp_path, monkeypatch, terminated):
    """Of a sweep: no row of a member is lost, and the checkpoint of the step gets its metric."""
    config = tiny_config(
        population=(("optim.schedule.base", (0.1, 0.2, 0.4)),), log=dict(every_steps=5),
    )
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    results = loop.train(config, straight, stream=io.StringIO())
    for at in (2, 5):  # the second member after five steps, and after the last
        with monkeypatch.context() as patch:
            sending(signal.SIGINT, patch, evaluation_run, "eval_batches", at.__eq__)
            with pytest.raises(Interrupted, match="Ctrl-C: step (5|10) is saved; run again"):
                loop.train(config, cut, stream=io.StringIO())
        assert BEST not in scores_of_newest(cut)
    # A signal that comes when all is done is for the program around the run.
    sending(signal.SIGTERM, monkeypatch, mark, "write_results")
    assert loop.train(config, cut, stream=io.StringIO()) == results
    assert terminated == [signal.SIGTERM]

    def key(row):
        return row["step"], row.get("member", ""), sorted(row)

    assert sorted(measured(cut), key=key) == sorted(measured(straight), key=key)
    assert scores(cut) == scores(straight)
    assert checkpoint.best_step(cut / "checkpoints", BEST) == checkpoint.best_step(
        straight / "checkpoints", BEST
    )
    assert all(not manifest.verify(cut / "checkpoints" / str(step)) for step in scores(cut))


def scores_of_newest(directory):
    step = manifest.steps(directory / "checkpoints")[0]
    file = directory / "checkpoints" / str(step) / checkpoint.METRICS
    return checkpoint.json.loads(file.read_text()) if file.exists() else {}


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_while_a_teacher_is_finished_ends_the_command(
    tiny, tmp_path, capsys, monkeypatch, number
):
    sending(number, monkeypatch, mark, "write_results")
    name, status = ENDS[number]
    sections = {**TEACHER, "train": dict(TEACHER["train"], epochs=0.2)}
    assert tiny(sections) == status
    line = one_line(capsys.readouterr().err)
    assert line == f"error: {name}: nothing was trained yet; run again to start\n"
    assert (tmp_path / "w" / "teacher" / "results.json").exists()
    assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("phase", ["prepare", "restore_states", "save"])
def test_a_signal_at_other_phases(tiny, finished, capsys, monkeypatch, number, phase):
    """While data are read, the state is restored or saved: the same line, and steps are kept."""
    (finished / "results.json").unlink()
    (finished / "results.npz").unlink(missing_ok=True)
    owner = saving.Saving if phase == "save" else loop
    sending(number, monkeypatch, owner, phase)
    name, status = ENDS[number]
    words = ["--config.train.epochs=3", "--allow_config_change"] if phase == "save" else []
    assert tiny(dict(checkpoint=dict(every_steps=5, every_epochs=0.0)), *words) == status
    line = one_line(capsys.readouterr().err)
    step = 15 if phase == "save" else 10
    assert line == f"error: {name}: step {step} is saved; run again to go on\n"
    assert manifest.verify(finished / "checkpoints" / str(step)) == ""


def test_a_signal_during_evaluate(run, tiny, finished, capsys, monkeypatch):
    sending(signal.SIGINT, monkeypatch, evaluation_run, "eval_batches")
    assert tiny(dict(checkpoint=dict(every_steps=5, every_epochs=0.0)), "--mode=evaluate") == 130
    assert one_line(capsys.readouterr().err).startswith("error: Ctrl-C: nothing was being trained;")


def test_no_library_takes_the_stop_for_its_own_failure():
    """Whoever catches exceptions in between; and a request that is swallowed all the same waits."""
    with pytest.raises(Preempted, match="SIGTERM: the command was stopped; run again"):
        with signals.handled():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Exception:
                pytest.fail("it was taken for a failure")
    with pytest.raises(Interrupted):
        with signals.handled():
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                pass
            signals.check()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


TWICE = """
import hashlib
from kdaug_jax.runtime import signals
with signals.handled(), signals.Preemption() as preemption:
    preemption.defer()
    print("ready", flush=True)
    try:
        # No instruction of Python runs in between, as while XLA compiles.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    finally:
        print("unwound", flush=True)
"""


def test_a_second_ctrl_c_ends_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", TWICE], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGINT)
            said, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert (said, error.strip()) == (
        "", "interrupted twice: ended at once; the last checkpoint is whole"
    )


COMMANDS = [
    ["main.py"], ["-m", "kdaug_jax.deploy.predict"], ["-m", "kdaug_jax.models.import_weights"],
    ["-m", "kdaug_jax.models.export_weights"], ["-m", "kdaug_jax.analysis.compare"],
    ["-m", "kdaug_jax.analysis.gallery"], ["-m", "kdaug_jax.analysis.rank_da"],
    ["-m", "kdaug_jax.augment.verify"], ["-m", "kdaug_jax.experiment.reference"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[-1])
def test_a_signal_while_a_command_is_imported(tmp_path, command):
    number = [*ENDS][COMMANDS.index(command) % len(ENDS)]
    name, status = ENDS[number]
    # Every command imports it before it does anything.
    (tmp_path / "numpy.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})")
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == f"error: {name}: nothing was under way; run again\n"


def test_statuses_of_early_signals_are_those_of_errors():
    assert streams.ENDING == {
        signal.SIGTERM: Preempted.exit_code, signal.SIGHUP: Preempted.exit_code,
        signal.SIGINT: Interrupted.exit_code,
    }
