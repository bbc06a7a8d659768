"""Runs a command again until it has finished, as a cluster or a machine interrupts it.

    python launch/supervise.py -- python main.py --config=... --workdir=...

Needs Python's standard library only, and no installed package. What an exit status leads to:

    status      meaning                                      run again
    0           finished                                     no
    1           a programming error                          no: it would fail again
    2, 3, 5     the config, the data, numbers not finite     no: somebody has to mend it
    4           a checkpoint or the disk                     no: somebody has to make room
    6           another run trains a teacher of this one     yes, after the longest pause
    75          preempted, and saved                         yes, unless this program was signalled
    76          a peer is gone                               yes
    130         interrupted by Ctrl-C                        no
    134         aborted natively, as JAX does without peers  yes; told, and returned, as 76
    128 + N     killed by signal N, or -N of Popen           yes

Pauses double from one failure to the next, and start anew with each newer checkpoint. Several
attempts in a row that leave no newer checkpoint in `--workdir` of the command end it. SIGTERM,
SIGHUP and Ctrl-C are passed on, and then nothing is run again. On Linux the command receives
SIGTERM when this program is killed; elsewhere it lives on.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TEACHER_IN_USE, PREEMPTED, PEER_GONE, INTERRUPTED = 6, 75, 76, 130
ABORTED = 128 + signal.SIGABRT
PEER_GONE_LINE = "a peer is gone, run the same command again"
# Written into a checkpoint when it is complete.
MANIFEST = "manifest.sha256.json"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def shell_status(returncode: int) -> int:
    """Returns the exit status that a shell would show: 128 + N for signal N, which Popen has as -N.

    Args:
      returncode: of a `subprocess.Popen`.
    """
    return returncode if returncode >= 0 else 128 - returncode


def translated(status: int) -> int:
    """Returns an exit status with 134 as 76, and prints the line of 76 in that case.

    JAX aborts natively when a peer or the coordinator is gone, so that no Python could say it.
    """
    if status != ABORTED:
        return status
    print(f"error: {PEER_GONE_LINE}", file=sys.stderr, flush=True)
    return PEER_GONE


def runs_again(status: int) -> bool:
    """Returns whether the same command is run again after an exit status."""
    killed = 128 < status <= 128 + signal.NSIG and status != INTERRUPTED
    return killed or status in (TEACHER_IN_USE, PREEMPTED, PEER_GONE)


def bound_to_parent(number: int) -> Callable[[], None] | None:
    """Returns a `preexec_fn` by which the system signals the child when this process is gone.

    Args:
      number: of the signal.

    Returns:
      None where the system cannot do it, which is everywhere but on Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above, and no signal will come
            os._exit(128 + number)

    return bind


def workdir_of(command: Sequence[str]) -> Path | None:
    """Returns the folder that `--workdir` names among the words of a command; None without it."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if name == "workdir" and word.startswith("-"):
            place = value if equals else following
            return Path(place).expanduser().absolute() if place else None
    return None


def newest_step(workdir: Path) -> int:
    """Returns the step of the newest complete checkpoint in a working directory; -1 without one."""
    manifests = (workdir / "checkpoints").glob(f"*/{MANIFEST}")
    names = (path.parent.name for path in manifests)
    return max((int(name) for name in names if name.isdecimal()), default=-1)


class Supervisor:
    """Runs one command again and again.

    Attributes:
      command: its words.
      workdir: where its checkpoints show whether it gets on; None if that is not known.
      received: signals that this process was sent.
    """

    def __init__(self, command: Sequence[str]):
        self.command = list(command)
        self.workdir = workdir_of(command)
        self.received: list[int] = []
        self._pending: list[int] = []
        self._child: subprocess.Popen | None = None

    def pass_on_signals(self) -> None:
        """Passes the signals that end a process on, apart from those that it ignores."""
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self.received.append(number)
        self._pending.append(number)
        self._deliver()

    def _deliver(self) -> None:
        while self._child is not None and self._pending:
            self._child.send_signal(self._pending.pop(0))

    def attempt(self) -> int:
        """Runs the command once and returns its exit status, 134 as 76."""
        # A group of its own: Ctrl-C of a terminal reaches it once, through this process.
        self._child = subprocess.Popen(
            self.command, process_group=0, preexec_fn=bound_to_parent(signal.SIGTERM)
        )
        self._deliver()  # what came before there was a child
        status = self._child.wait()
        self._child = None
        return translated(shell_status(status))

    def run(self, restarts: int, idle: int, pause: float, longest: float) -> int:
        """Runs the command until it finishes or is not to be run again.

        Args:
          restarts: how often it is run again at most.
          idle: attempts in a row without a newer checkpoint after which it is given up.
          pause: seconds before the command is run again, doubled from one failure to the next.
          longest: limit of that pause, in seconds.

        Returns:
          The exit status of the last attempt.
        """
        in_vain, wait = 0, pause
        for number in itertools.count(1):
            before = self._step()
            status = self.attempt()
            if not runs_again(status) or self.received:
                return status
            if self.workdir and self._step() > before:
                in_vain, wait = 0, pause
            elif status != TEACHER_IN_USE:  # which waits for another run, not for itself
                in_vain += 1
            if self.workdir and in_vain >= idle:
                say(f"status {status}; {in_vain} attempts in a row left no newer checkpoint in "
                    f"{self.workdir}: given up")
                return status
            if number > restarts:
                say(f"status {status}; the limit of {restarts} restarts is reached: given up")
                return status
            wait = longest if status == TEACHER_IN_USE else min(wait, longest)
            say(f"status {status}; restart {number} of at most {restarts} in {wait:g} s")
            if self._signalled_within(wait):
                return status
            wait *= 2

    def _step(self) -> int:
        return newest_step(self.workdir) if self.workdir else -1

    def _signalled_within(self, seconds: float) -> bool:
        """Waits; returns at once, and True, when a signal comes or has come."""
        end = time.monotonic() + seconds
        while not self.received and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return bool(self.received)


def say(text: str) -> None:
    """Prints a line to standard error."""
    print(f"supervise: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Reads the command line and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--restarts", type=int, default=100, help="restarts at most")
    parser.add_argument(
        "--idle", type=int, default=5,
        help="attempts in a row without a newer checkpoint after which it is given up",
    )
    parser.add_argument("--pause", type=float, default=5.0, help="seconds before the first restart")
    parser.add_argument("--longest", type=float, default=300.0, help="limit of a pause in seconds")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("no command; write it after --")
    if given.restarts < 0 or given.idle < 1:
        parser.error("--restarts must be at least 0, --idle at least 1")
    if not 0.0 <= given.pause <= given.longest < float("inf"):
        parser.error("--pause must be between 0 and --longest")
    supervisor = Supervisor(command)
    if not supervisor.workdir:
        say("the command has no --workdir, so that only --restarts limits how often it is run")
    if given.dry_run:
        print(f"command: {command}\nworkdir: {supervisor.workdir}")
        return 0
    supervisor.pass_on_signals()
    try:
        return supervisor.run(given.restarts, given.idle, given.pause, given.longest)
    except OSError as error:
        parser.error(f"{command[0]} cannot be run ({error.strerror})")


if __name__ == "__main__":
    sys.exit(main())
