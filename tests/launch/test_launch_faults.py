"""What goes wrong between the processes of a run ends all of them, soon, and says why."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A run of many steps; where the environment says so, a process takes its time to read it.
CONFIG = """
import os, time
from kdaug_jax.experiment import config as configs
from tests import tiny

tiny.register()
if "READING" in os.environ:
    print("reading", flush=True)
    time.sleep(float(os.environ["READING"]))


def get_config(arg=""):
    c = configs.default()
    with c.unlocked():
        c.data.source = "synthetic:8x8,4,40"
        c.data.batch_size = 8
        c.views = {"x": "pad_crop(1)|flip"}
        c.networks = {"student": configs.network("tiny", trainable=True)}
        c.terms = {"ce": configs.term("cross_entropy", ("x",))}
        c.train.epochs = 100000.0
        c.log.every_steps = 1
    return c
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Pair:
    """Two processes of `main.py` on one machine, with options and environments of their own."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "own.py").write_text(CONFIG)
        self.processes = []

    def start(self, *options, first=(), second=(), **environment):
        address = f"127.0.0.1:{free_port()}"
        for number, more in enumerate((first, second)):
            words = [
                sys.executable, "main.py", f"--config={self.folder / 'own.py'}",
                f"--distributed={number}/2@{address}", "--heartbeat_seconds=10",
                "--join_seconds=60", *options, *more,
            ]
            if not any(word.startswith("--workdir") for word in words):
                words.append(f"--workdir={self.folder / 'w'}")
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            with contextlib.ExitStack() as stack:
                out, err = (
                    stack.enter_context(open(self.folder / f"{name}{number}", "w"))
                    for name in ("out", "err")
                )
                self.processes.append(subprocess.Popen(
                    words, cwd=ROOT, text=True, stdout=out, stderr=err,
                    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **environment},
                ))

    def said(self, number):
        return (self.folder / f"out{number}").read_text()

    def errors(self, number):
        return (self.folder / f"err{number}").read_text()

    def wait_for(self, text, number=0, seconds=120):
        ends = time.monotonic() + seconds
        while text not in self.said(number):
            assert time.monotonic() < ends, self.errors(0) + self.errors(1)
            assert self.processes[number].poll() is None, self.errors(number)
            time.sleep(0.05)

    def statuses(self, seconds=120):
        return [process.wait(seconds) for process in self.processes]


@pytest.fixture
def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    for process in pair.processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_processes_that_differ_are_refused_before_the_first_step(pair):
    pair.start(second=("--config.seed=3", "--config.views.x=flip"))
    assert pair.statuses() == [2, 2]
    expected = "error: --distributed: the processes differ from process 0: process 1 has "
    for number in (0, 1):
        said = pair.errors(number)
        assert said.startswith(expected) and said.count("\n") == 1
        assert 'config.seed 3 instead of 0, config.views.x.ops "flip" instead of' in said
    assert not (pair.folder / "w" / "config.json").exists()


def test_an_error_of_one_process_ends_the_others_with_it(pair):
    pair.start(second=("--config.optim.momentun=0.9",))
    assert pair.statuses() == [2, 2]
    known = "error: optim.momentun: there is no such field{}; did you mean momentum?\n"
    assert pair.errors(1) == known.format("")
    assert pair.errors(0) == known.format(" (in process 1)")


def test_a_workdir_that_is_not_shared_is_refused(pair):
    apart = f"--workdir={pair.folder / 'elsewhere'}"
    pair.start("--shared_seconds=1", second=(apart,))
    assert pair.statuses() == [2, 2]
    for number in (0, 1):
        assert "is not shared: what process 0 writes there, process 1 did not see within 1 s" in (
            pair.errors(number)
        )
    assert not list((pair.folder / "w").glob(".shared-*"))


def test_sigterm_before_the_loop_ends_all_with_75(pair):
    pair.start(READING="2")
    pair.wait_for("reading", number=1)
    pair.processes[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert pair.statuses() == [75, 75]
    assert time.monotonic() - began < 60
    assert pair.errors(0) == "error: SIGTERM: nothing was being trained; run again\n"
    assert pair.errors(1) == ""


def test_the_death_of_a_peer_ends_the_others_with_76(pair):
    pair.start()
    pair.wait_for("loss")
    pair.processes[1].kill()
    began = time.monotonic()
    assert pair.processes[0].wait(60) == 76
    assert time.monotonic() - began < 15
    assert re.search("error: --distributed: (a peer|process 1) is gone.*; run the same command "
                     "again\n", pair.errors(0))


@pytest.mark.slow
def test_a_peer_that_is_stopped_ends_the_others_after_the_heartbeat(pair):
    pair.start()
    pair.wait_for("loss")
    pair.processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    # JAX ends the process natively there; launch/local.py and launch/supervise.py make it 76.
    assert pair.processes[0].wait(60) in (76, -signal.SIGABRT)
    assert time.monotonic() - began < 10 + 5 + 5  # the heartbeat is seen late by up to its half
