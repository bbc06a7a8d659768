"""The launcher of several processes: what it starts, and how it ends them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"
# Prints its number and says when it is ready; then does what is written for that number.
CHILD = """
import os, sys, time
number = int(sys.argv[-1].removeprefix("--distributed=").split("/")[0])
def say(*words):  # in one piece, because both processes write to one pipe
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say(number, os.getpid(), sys.argv[-1], os.environ["XLA_FLAGS"])
"""


def launch(ending, *options, wait=True):
    command = [sys.executable, LOCAL, "--processes=2", *options, "--"]
    command += [sys.executable, "-c", CHILD + ending]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"},
    )
    if not wait:
        return started
    try:
        output, errors = started.communicate(timeout=60)
    finally:
        started.kill()
    return started.returncode, sorted(output.splitlines()), errors


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_every_process_learns_its_number_the_address_and_its_devices():
    status, lines, _ = launch("", "--devices=3")
    assert status == 0
    first, second = (line.split(maxsplit=3) for line in lines)
    assert first[2].startswith("--distributed=0/2@127.0.0.1:")
    assert second[2] == first[2].replace("=0/2", "=1/2")
    assert first[3].split() == [
        "--xla_cpu_enable_fast_math=false", "--xla_force_host_platform_device_count=3"
    ]


def test_the_first_failure_ends_all():
    started = time.monotonic()
    status, lines, _ = launch("time.sleep(600) if number == 0 else sys.exit(3)", "--grace=0.5")
    assert status == 3 and time.monotonic() - started < 30
    assert all(gone(int(line.split()[1])) for line in lines)


def test_a_killed_process_gives_the_status_of_a_shell():
    status, _, _ = launch("time.sleep(600) if number else os.kill(os.getpid(), 9)", "--grace=0.5")
    assert status == 128 + 9


@pytest.mark.parametrize("end", ["os.abort()", "sys.exit(134)"])
def test_an_abort_is_told_as_the_end_of_a_peer(end):
    status, _, errors = launch(f"time.sleep(600) if number else {end}", "--grace=0.1")
    assert status == 76 and "error: a peer is gone, run the same command again\n" in errors


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_the_processes_end_with_a_launcher_that_is_killed():
    with launch("time.sleep(600)", wait=False) as started:
        pids = [int(started.stdout.readline().split()[1]) for _ in range(2)]
        started.kill()
        started.communicate(timeout=60)  # its pipe closes when the last of them is gone
    end = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_port_that_is_taken_is_refused_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, lines, errors = launch("", f"--port={port}")
    assert status == 2 and not lines
    assert f"port {port} cannot be used (Address already in use); name another --port" in errors


def test_the_port_may_be_named():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    status, lines, _ = launch("", f"--port={port}")
    assert status == 0 and all(f"@127.0.0.1:{port} " in line for line in lines)


def test_sigterm_reaches_all_and_75_waits_for_the_others():
    ending = """
import signal
def save(*_):
    time.sleep(1.0 if number else 0.0)
    say("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
say("ready")
time.sleep(600)
"""
    started = launch(ending, "--grace=0.1", wait=False)
    ready = 0
    while ready < 2:
        line = started.stdout.readline()
        assert line, "the launcher ended"
        ready += "ready" in line
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 75 and output.split() == ["saved", "saved"]


def test_a_second_signal_kills():
    ending = """
import signal
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, lambda *_: say("no"))
say("ready")
while True:
    time.sleep(1)
"""
    started = launch(ending, wait=False)
    lines = [started.stdout.readline() for _ in range(4)]
    assert lines.count("ready\n") == 2
    started.send_signal(signal.SIGHUP)
    assert [started.stdout.readline() for _ in range(2)] == ["no\n", "no\n"]
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no command; write it after --"),
        (["--processes=0", "--", "true"], "must be at least 1"),
        (["--port=70000", "--", "true"], "--port must be between 1 and 65535"),
        (["--", "no-such-program"], "no-such-program cannot be run"),
    ],
)
def test_what_cannot_be_launched(words, message):
    done = subprocess.run([sys.executable, LOCAL, *words], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
