"""Runs a command as several processes of this machine, each with virtual CPU devices.

    python launch/local.py --processes=2 --devices=2 -- python main.py --config=... --workdir=...

For trying a run over several hosts without a cluster. Each process gets
`--distributed=NUMBER/COUNT@127.0.0.1:PORT` appended to the command. When a process fails the others
are killed and its exit status is returned, 134 as 76 (see `launch/supervise.py`); 75 and 130,
preempted or interrupted and saved, are no failures. SIGTERM, SIGHUP and Ctrl-C are passed on, a
second signal kills. On Linux the processes are killed when this program is; elsewhere they live on.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from supervise import INTERRUPTED, PREEMPTED, bound_to_parent, shell_status, translated

# Seconds that the other processes have to save and end once one was preempted.
SAVING = 120.0
# Exit status of a process that was preempted, or interrupted by Ctrl-C, and saves like the others.
SAVED = (PREEMPTED, INTERRUPTED)


def free_port(port: int = 0) -> int:
    """Returns a port that nobody listens on, on any interface, as process 0 binds it.

    Args:
      port: the one that is wanted; 0 for any.

    Raises:
      OSError: it is taken, or needs rights that this process has not.
    """
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", port), family=family, dualstack_ipv6=dual) as probe:
        return probe.getsockname()[1]


def start(
    command: list[str], processes: int, devices: int, port: int,
    started: list[subprocess.Popen],
) -> None:
    """Starts the processes, all in one process group of their own.

    Args:
      command: the command of each process.
      processes: number of processes.
      devices: virtual CPU devices of each process.
      port: where process 0 listens.
      started: list to which the processes are appended.
    """
    others = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in others if "force_host_platform_device_count" not in flag]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
    for number in range(processes):
        started.append(subprocess.Popen(
            [*command, f"--distributed={number}/{processes}@127.0.0.1:{port}"], env=environment,
            process_group=started[0].pid if started else 0,
            preexec_fn=bound_to_parent(signal.SIGKILL),
        ))


def pass_on(started: list[subprocess.Popen]) -> None:
    """Passes SIGTERM, SIGINT and SIGHUP on to the processes; a second signal kills them."""
    got: list[int] = []

    def send(number: int, frame: object) -> None:
        got.append(number)
        if started:
            os.killpg(started[0].pid, number if len(got) == 1 else signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, send)


def wait(started: list[subprocess.Popen], grace: float) -> int:
    """Waits until all processes have ended, or kills the rest after one has failed.

    Args:
      started: the processes.
      grace: seconds that the others have to end by themselves.

    Returns:
      0, or the exit status of the first that failed; 128 + N for signal N, and 76 for 134.
    """
    status, ends = 0, float("inf")
    while None in (states := [process.poll() for process in started]):
        if not status:
            status = next((state for state in states if state), 0)
            if status:
                ends = time.monotonic() + (SAVING if status in SAVED else grace)
        if time.monotonic() > ends:
            os.killpg(started[0].pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    for process in started:
        status = status or process.wait()
    return translated(shell_status(status))


def main() -> int:
    """Reads the command line and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="how many processes")
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices of each")
    parser.add_argument(
        "--port", type=int, default=0, help="where process 0 listens; a free port by default"
    )
    parser.add_argument(
        "--grace", type=float, default=10.0,
        help="seconds that the others have to end by themselves once one has failed",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="-- and the command of each process"
    )
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command; write it after --")
    if given.processes < 1 or given.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    if not 0 <= given.port < 65536:
        parser.error("--port must be between 1 and 65535, or 0 for a free one")
    try:
        port = free_port(given.port)
    except OSError as error:
        reason = os.strerror(error.errno)
        parser.error(f"port {given.port} cannot be used ({reason}); name another --port")
    started: list[subprocess.Popen] = []
    pass_on(started)
    try:
        start(command, given.processes, given.devices, port, started)
    except OSError as error:
        if started:
            os.killpg(started[0].pid, signal.SIGKILL)
        parser.error(f"{command[0]} cannot be run ({error.strerror})")
    return wait(started, given.grace)


if __name__ == "__main__":
    sys.exit(main())
