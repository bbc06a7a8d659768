"""Checkpoints that cannot be saved: told at once, tried again, and never in the way of training."""

import contextlib
import errno
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from kdaug_jax.errors import CheckpointError
from kdaug_jax.runtime import checkpoint, manifest, retries
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import saving
from tests.bad_input.helpers import one_line, results

STATE = {"a": np.zeros(64)}
# Five checkpoints, and a row of the log with each.
OFTEN = dict(checkpoint=dict(every_steps=2, every_epochs=0.0), log=dict(every_steps=2))


@contextlib.contextmanager
def without_rights(directory):
    """Nobody may write: as root, this process becomes somebody else meanwhile."""
    os.chmod(directory, 0o500)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chmod(directory, 0o700)


@contextlib.contextmanager
def in_the_way(directory):
    """A folder that is no checkpoint lies where the next one is to be made."""
    place = directory / "2.orbax-checkpoint-tmp"
    place.write_text("")
    yield
    place.unlink(missing_ok=True)


@contextlib.contextmanager
def without_inodes(directory):
    with contextlib.suppress(OSError):
        for number in range(1000):
            (directory / f"filler{number}").touch()
    yield
    for file in directory.glob("filler*"):
        file.unlink()


@pytest.fixture
def few_inodes(tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=120", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk of its own needs the right to mount: {done.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("fault, reason", [
    (without_rights, "Permission denied"), (without_inodes, "No space left on device"),
])
def test_a_directory_that_cannot_be_made(request, tmp_path, fault, reason):
    """Within a second, where Orbax would wait for five minutes; later saves work again."""
    place = request.getfixturevalue("few_inodes") if fault is without_inodes else tmp_path
    said = []
    with checkpoint.Checkpoints(
        place / "c", keep=2, say=said.append, retry_minutes=10.0
    ) as checkpoints:
        checkpoints.save(1, STATE, {}, {})
        checkpoints.wait()
        with fault(place / "c"):
            started = time.monotonic()
            for step in (2, 3):
                checkpoints.save(step, STATE, {}, {})
                checkpoints.last()
                assert checkpoints.failing()
            assert time.monotonic() - started < 10.0
        assert len(said) == 1
        assert f"step 2 could not be saved ({reason}); the run goes on, and saving is" in said[0]
        assert "tried again with each row of the log, for 10 minutes at most" in said[0]
        checkpoints.save(3, STATE, {}, {})
        checkpoints.last()
        assert not checkpoints.failing()
        assert said[1:] == ["step 3 is saved: saving works again"]
    assert manifest.steps(place / "c") == [3, 1]
    assert not list((place / "c").glob("*tmp*"))


def test_files_in_the_way_are_no_matter_for_long(tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=2, say=print, retry_minutes=10.0) as checkpoints:
        (tmp_path / "1").write_text("a file")
        with in_the_way(tmp_path):
            for step in (1, 2):
                checkpoints.save(step, STATE, {}, {})
                checkpoints.last()
                checkpoints.failing()
        checkpoints.save(3, STATE, {}, {})
    assert 3 in manifest.steps(tmp_path)


def test_saves_may_fail_for_so_long_only(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    now = [0.0]
    monkeypatch.setattr(retries, "monotonic", lambda: now[0])
    monkeypatch.setattr(manifest, "write", full)
    with checkpoint.Checkpoints(tmp_path, keep=2, say=print, retry_minutes=1.0) as checkpoints:
        for now[0] in (0.0, 59.0):
            checkpoints.save(1 + int(now[0]), STATE, {}, {})
            checkpoints.last()
            assert checkpoints.failing()
        now[0] = 61.0
        with pytest.raises(CheckpointError, match=r"\(Read-only file system\); mend that and run"):
            checkpoints.failing()


def failing_from(monkeypatch, first, last, before=lambda: None):
    """Has saves from the `first` to the `last` fail."""
    save, calls = checkpoint.ocp.training.Checkpointer.save, []

    def maybe(*args, **kwargs):
        calls.append(1)
        before() if len(calls) == first else None
        if first <= len(calls) <= last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(*args, **kwargs)

    monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save", maybe)
    return calls


def test_training_goes_on_while_saving_fails(tiny, tmp_path, capsys, monkeypatch):
    calls = failing_from(monkeypatch, 2, 3)
    assert tiny(OFTEN) == 0
    said = capsys.readouterr().out
    assert said.count("the run goes on, and saving is tried again") == 1
    assert said.count("saving works again") == 1
    assert len(calls) == 5 and results(tmp_path / "w")
    assert {row["step"] for row in read_rows(tmp_path / "w")} == {2, 4, 5, 6, 8, 10}
    newest, *_ = manifest.steps(tmp_path / "w" / "checkpoints")
    assert newest == 10 and not manifest.verify(tmp_path / "w" / "checkpoints" / "10")


def test_a_run_that_cannot_save_its_end_tries_once_more(tiny, tmp_path, capsys, monkeypatch):
    calls = failing_from(monkeypatch, 5, 99)
    assert tiny(OFTEN) == 4
    assert len(calls) == 6
    assert "step 10 could not be saved (No space left" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "w" / "results.json").exists()


def test_a_signal_while_saving_fails_tries_once_more(tiny, tmp_path, capsys, monkeypatch):
    failing_from(monkeypatch, 2, 99)
    due = saving.Saving.due

    def signalling(self, before, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self, before, step)

    monkeypatch.setattr(saving.Saving, "due", signalling)
    assert tiny(OFTEN) == 4
    line = one_line(capsys.readouterr().err)
    assert "could not be saved (No space left on device)" in line
    assert line.endswith("make room and run again; step 2 is the newest that is whole\n")
