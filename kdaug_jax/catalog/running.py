"""Runs the jobs of a row or an experiment one after another, each as its own process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdaug_jax.catalog.jobs import Job, shell_line
from kdaug_jax.catalog.origins import origin
from kdaug_jax.catalog.records import changes, lines_of
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.finished import comparable
from kdaug_jax.runtime import manifest, records
from kdaug_jax.runtime.signals import ENDING


def run_jobs(
    jobs: Sequence[Job], main: Path, say: Callable[[str], None], *, dry_run: bool = False,
    finished: Callable[[Job], int] = lambda job: 0,
) -> int:
    """Runs what is not finished yet.

    Args:
      jobs: in their order.
      main: path of main.py.
      say: prints a line.
      dry_run: whether only the commands are printed.
      finished: called with each job that has come to its end, now or before; returns an exit
        status.

    Returns:
      0, or the exit status of the first job that did not come to its end; those after it are not
      started. Signals are passed on to the job, which then saves and ends with its own status.

    Raises:
      ConfigError: a directory holds a finished run of another config.
    """
    for number, job in enumerate(jobs, start=1):
        state = state_of(job.directory)
        say(f"--- {number}/{len(jobs)} {job.name}: {state}")
        if dry_run:
            measuring = [words for _, words in job.wanted if words[0] != job.words[0]]
            for words in (job.words, *measuring):
                say(shell_line(job._replace(words=words), main))
            continue
        if state == "finished":
            require_same_config(job, main)
        elif status := run_words(job.words, main):
            if status == DataError.exit_code:
                source = wanted_config(job, main)["data"]["source"]
                if files := origin(source):
                    say(f"data of {job.name}: {files}")
            say(f"{job.name}: ended with status {status}; the same command goes on from there")
            return status
        if status := finished(job):
            return status
    return 0


def state_of(directory: Path) -> str:
    """Returns "finished", "stopped at step N" or "not run" of a working directory."""
    if records.read_results(directory) is not None:
        return "finished"
    steps = manifest.steps(directory / "checkpoints")
    return f"stopped at step {steps[0]:,}" if steps else "not run"


def require_same_config(job: Job, main: Path) -> None:
    """Validates that the finished run in the directory of a job is of the job's config.

    Raises:
      ConfigError: it is of another one, which is told by its differences.
    """
    stored = records.read_fields(job.directory)
    if stored is None:
        return
    wanted = wanted_config(job, main)
    differing = changes(stored, "", wanted, evaluated_so=True)
    grids = wanted.get("population") or (), stored["config"].get("population") or ()
    if comparable(grids[0]) != comparable(grids[1]):
        differing["population"] = grids
    if differing:
        raise ConfigError(
            str(job.directory), "holds a finished run of another config "
            f"({'; '.join(lines_of(differing))})", "name another --dir, or move it away",
        )


def wanted_config(job: Job, main: Path) -> dict[str, Any]:
    """Returns the complete config of a job, as main.py reads its command line.

    Raises:
      ConfigError: main.py refuses the command line.
    """
    printed = subprocess.run(
        [sys.executable, str(main), *job.words, "--print_config"], capture_output=True, text=True,
    )
    if printed.returncode:
        what = " ".join(printed.stderr.split()).removeprefix("error: ")
        raise ConfigError(job.name, what or f"main.py ended with status {printed.returncode}")
    return json.loads(printed.stdout)


def run_words(words: Sequence[str], main: Path) -> int:
    """Runs a command line and returns its exit status, 128 + N where signal N killed it.

    Args:
      words: after `main.py`.
      main: path of main.py.
    """
    received: list[int] = []
    child: subprocess.Popen | None = None

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        deliver()

    def deliver() -> None:
        while child is not None and received:
            child.send_signal(received.pop(0))

    with _handling(pass_on):
        # A group of its own: Ctrl-C of a terminal reaches it once, through this process.
        child = subprocess.Popen([sys.executable, str(main), *words], process_group=0)
        deliver()  # what came before there was a child
        status = child.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Sets the handler of the signals that end a process, apart from those that are ignored."""
    known = {number: signal.getsignal(number) for number in ENDING}
    replaced = [number for number, other in known.items() if other not in (signal.SIG_IGN, None)]
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, known[number])
