"""The supervisor: when it runs a command again, passes signals on and gives up."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdaug_jax import errors
from kdaug_jax.runtime import manifest

LAUNCH = Path(__file__).parents[2] / "launch"
SUPERVISE = LAUNCH / "supervise.py"
QUICK = ["--pause=0.01", "--longest=0.05"]
# Counts its attempts in a file; ends with the status of the attempt, killing itself for -N.
CHILD = """
import os, signal, sys
from pathlib import Path
workdir = Path(sys.argv[-1].removeprefix("--workdir="))
attempts = workdir / "attempts"
number = len(attempts.read_text()) if attempts.exists() else 0
attempts.write_text("x" * (number + 1))
def save(step):
    (workdir / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    (workdir / "checkpoints" / str(step) / "MANIFEST").write_text("{}")
def end(status):
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != 9 else None
        os.kill(os.getpid(), -status)
    sys.exit(status)
""".replace("MANIFEST", manifest.MANIFEST)


def command(tmp_path, body, *options):
    child = [sys.executable, "-c", CHILD + body, f"--workdir={tmp_path}"]
    return [sys.executable, SUPERVISE, *QUICK, *options, "--", *child]


def supervise(tmp_path, body, *options):
    done = subprocess.run(
        command(tmp_path, body, *options), capture_output=True, text=True, timeout=60
    )
    attempts = tmp_path / "attempts"
    return done.returncode, len(attempts.read_text()) if attempts.exists() else 0, done.stderr


def test_the_statuses_are_those_of_the_package():
    sys.path.insert(0, str(LAUNCH))
    try:
        import supervise as module
    finally:
        sys.path.remove(str(LAUNCH))
    assert module.PREEMPTED == errors.Preempted.exit_code
    assert module.PEER_GONE == errors.PeerGone.exit_code
    assert module.INTERRUPTED == errors.Interrupted.exit_code
    assert module.TEACHER_IN_USE == errors.TeacherInUse.exit_code
    assert module.MANIFEST == manifest.MANIFEST
    assert set(map(module.runs_again, (75, 76, 6, 137, 143, 129))) == {True}
    assert set(map(module.runs_again, (0, 1, 2, 3, 4, 5, 130, 253, 255))) == {False}


def test_the_table_of_the_documentation_is_what_is_done(tmp_path):
    text = (LAUNCH.parent / "docs" / "launch.md").read_text()
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (ends|again)", text, re.MULTILINE)
    assert {int(status) for status, _ in rows} >= {0, 1, 2, 3, 4, 5, 6, 75, 76, 130, 134}
    for status, done in rows:
        _, attempts, _ = supervise(tmp_path, f"end(0 if number else {status})")
        assert attempts == (2 if done == "again" else 1), status
        (tmp_path / "attempts").unlink()


@pytest.mark.parametrize("status", [75, 76, -signal.SIGKILL, -signal.SIGSEGV, 137, 6])
def test_these_ends_are_followed_by_the_same_command(tmp_path, status):
    ended, attempts, said = supervise(tmp_path, f"end(0 if number else {status})")
    assert (ended, attempts) == (0, 2)
    shown = 128 - status if status < 0 else status
    assert f"supervise: status {shown}; restart 1 of at most 100 in" in said


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 5, 130, -signal.SIGINT])
def test_these_ends_are_final(tmp_path, status):
    ended, attempts, said = supervise(tmp_path, f"end({status})")
    assert (ended, attempts, said) == (130 if status < 0 else status, 1, "")


@pytest.mark.parametrize("status", [134, -signal.SIGABRT])
def test_an_abort_is_told_as_the_end_of_a_peer(tmp_path, status):
    ended, attempts, said = supervise(tmp_path, f"end({status})", "--restarts=0")
    assert (ended, attempts) == (76, 1)
    assert said.startswith("error: a peer is gone, run the same command again\n")


def test_attempts_without_a_newer_checkpoint_end_it(tmp_path):
    ended, attempts, said = supervise(tmp_path, "save(min(number, 2)); end(76)", "--idle=3")
    assert (ended, attempts) == (76, 6)  # steps 0, 1 and 2 are new; three attempts add nothing
    assert f"3 attempts in a row left no newer checkpoint in {tmp_path}: given up" in said


def test_an_unfinished_checkpoint_is_no_progress(tmp_path):
    body = "(workdir / 'checkpoints' / str(number)).mkdir(parents=True); end(76)"
    assert supervise(tmp_path, body, "--idle=2")[:2] == (76, 2)


def test_restarts_are_limited_and_waiting_for_a_teacher_is_no_failure(tmp_path):
    ended, attempts, said = supervise(tmp_path, "end(6)", "--restarts=4", "--idle=1")
    assert (ended, attempts) == (6, 5)
    assert "the limit of 4 restarts is reached: given up" in said


def test_pauses_double_and_a_newer_checkpoint_resets_them(tmp_path):
    body = "save(0 if number < 3 else 1); end(76 if number < 5 else 0)"
    _, _, said = supervise(tmp_path, body, "--longest=0.02")
    pauses = [line.split(" in ")[1] for line in said.splitlines()]
    assert pauses == ["0.01 s", "0.02 s", "0.02 s", "0.01 s", "0.02 s"]


SAVES = """
import time
def handle(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, handle)
print("ready", os.getpid(), flush=True)
time.sleep(600)
"""


def start(words, **pipes):
    return subprocess.Popen(words, text=True, **{name: subprocess.PIPE for name in pipes})


def test_a_signal_is_passed_on_and_nothing_is_run_again(tmp_path):
    with start(command(tmp_path, SAVES), stdout=True, stderr=True) as started:
        assert started.stdout.readline().startswith("ready")
        started.send_signal(signal.SIGTERM)
        output, said = started.communicate(timeout=60)
    assert (started.returncode, output, said) == (75, "saved\n", "")


def test_a_signal_within_a_pause_ends_it(tmp_path):
    words = command(tmp_path, "end(76)", "--longest=600", "--pause=600")
    with start(words, stderr=True) as started:
        assert "restart 1 of at most 100 in 600 s" in started.stderr.readline()
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=60) == 76


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_the_command_gets_sigterm_when_the_supervisor_is_killed(tmp_path):
    with start(command(tmp_path, SAVES), stdout=True) as started:
        assert started.stdout.readline().startswith("ready")
        started.kill()
        output, _ = started.communicate(timeout=60)  # its pipe closes when the command is gone
    assert output == "saved\n"


def test_it_needs_no_installed_package(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", SUPERVISE, "--", sys.executable, "-c", "print('ran')"],
        capture_output=True, text=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "the command has no --workdir, so that only --restarts limits" in done.stderr


def test_a_dry_run_says_what_would_be_run(tmp_path):
    done = subprocess.run(command(tmp_path, "end(0)", "--dry-run"), capture_output=True, text=True)
    assert done.returncode == 0 and f"workdir: {tmp_path}" in done.stdout
    assert not (tmp_path / "attempts").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no command; write it after --"),
        (["--restarts=-1", "--", "true"], "--restarts must be at least 0, --idle at least 1"),
        (["--idle=0", "--", "true"], "--restarts must be at least 0, --idle at least 1"),
        (["--pause=9", "--longest=1", "--", "true"], "--pause must be between 0 and --longest"),
        (["--", "no-such-program"], "no-such-program cannot be run"),
    ],
)
def test_what_cannot_be_supervised(words, message):
    done = subprocess.run([sys.executable, SUPERVISE, *words], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
