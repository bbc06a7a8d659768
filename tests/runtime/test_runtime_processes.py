"""How processes of a run connect, and what they say when one of them is gone."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.runtime import processes

ROOT = Path(__file__).parents[2]
DIES = """
import os, sys
import jax
from kdaug_jax.runtime import processes
def main():
    processes.start(sys.argv[-1].removeprefix("--distributed="))
    for step in range(1000):
        if step == 3 and jax.process_index() == int(sys.argv[1]):
            os.kill(os.getpid(), 9)
        int(processes.vote(step))
processes.end(main)
"""


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_who_waits_for_a_peer_that_is_killed_says_so_in_a_line(number):
    done = subprocess.run(
        [sys.executable, "launch/local.py", "--grace=20", "--",
         sys.executable, "-c", DIES, str(number)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 128 + 9
    gone = rf"error: --distributed: (a peer|process {number}) is gone.*; run the same command"
    assert re.search(gone, done.stderr) and "Traceback" not in done.stderr


def test_a_named_address_switches_the_detection_of_a_cluster_off(monkeypatch):
    slurm = dict(JOB_ID="7", STEP_NODELIST="node1", NTASKS="2", PROCID="3", LOCALID="3")
    code = """
import sys
from jax._src import xla_bridge
from kdaug_jax.runtime import processes
processes.start(sys.argv[1])
print(xla_bridge.CUDA_VISIBLE_DEVICES.value)
"""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"0/1@127.0.0.1:{probe.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-c", code, address], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}},
    )
    assert done.stdout == "all\n", done.stderr


def test_a_port_that_is_taken_is_refused_before_jax_binds_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"--distributed: port {port} of this host is taken by another program; name " \
            "another port to all processes"
        with pytest.raises(ConfigError, match=re.escape(text)):
            processes.start(f"0/2@127.0.0.1:{port}")
