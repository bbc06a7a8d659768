"""A working directory without room, rights or locks, or one that is in use."""

import errno
import io
import json
import os
import shutil
import socket
import subprocess

import pytest

import main
from kdaug_jax.errors import CheckpointError
from kdaug_jax.runtime import checkpoint, events, lock, manifest, records, workdir
from kdaug_jax.training import loop
from tests.bad_input.helpers import TEACHER, TWICE, fresh, one_line, results
from tests.conftest import tiny_config


def test_a_relative_workdir_is_made_absolute(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny({}, "--config.train.epochs=0.2", directory="here/run") == 0
    assert manifest.verify(tmp_path / "here" / "run" / "checkpoints" / "1") == ""


@pytest.mark.parametrize("sections", [{}, TEACHER], ids=["alone", "with teacher"])
def test_no_room_for_a_checkpoint_is_told_first(told, monkeypatch, sections):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    line = told(4, sections)
    assert "checkpoints: 1,000 bytes are free, a checkpoint needs 1,124; make room or" in line


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_at(call, function):
    """Gives `function`, which finds the disk full from that call on."""
    calls = []

    def maybe(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs) if len(calls) < call else full()

    return maybe


@pytest.mark.parametrize(
    "owner, name, call, whole, message",
    [
        (manifest, "write", 2, [5], "step 10 could not be saved (No space left on"),
        (checkpoint.ocp.training.Checkpointer, "save", 2, [5], "step 10 could not be saved"),
        (records, "write_json", 1, [], "cannot be written (No space left on device); make room"),
        (loop.Writer, "row", 5, [5], "cannot be written (No space left on device); make room"),
        (events, "Appended", 0, [], "cannot be written (No space left on device); make room"),
    ],
)
def test_a_full_disk(tiny, tmp_path, capsys, monkeypatch, owner, name, call, whole, message):
    if owner is events:
        # A device that really is full: the system's own error, as late as it comes.
        opened = events.Appended
        monkeypatch.setattr(events, name, lambda path: opened("/dev/full"))
    else:
        monkeypatch.setattr(owner, name, full_at(call, getattr(owner, name)))
    assert tiny({"checkpoint": {**TWICE["checkpoint"], "retry_minutes": 0.0}}) == 4
    assert message in one_line(capsys.readouterr().err)
    saved = tmp_path / "w" / "checkpoints"
    steps = manifest.steps(saved)
    assert [step for step in steps if not manifest.verify(saved / str(step))] == whole
    assert not list(tmp_path.rglob("w/*.partial"))


def test_a_full_disk_while_drawing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main.preview, "image_grid", full)
    assert tiny({}, "--mode=preview") == 4
    assert "w: cannot be written (No space left on device); " in one_line(capsys.readouterr().err)


def mount(directory, size, *options):
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs"]
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk of its own needs the right to mount: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    mount(directory, "160k")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_fills_up(small_disk, tmp_path, straight):
    """In a process of its own: it must end, and its libraries must be quiet too."""
    sections = dict(checkpoint=dict(every_steps=1, every_epochs=0.0))
    done = fresh(tmp_path, sections, small_disk / "run")
    said = done.communicate(timeout=120)[1]
    assert done.returncode == 4
    line = one_line(said)
    assert "could not be saved (No space left on device); make room and run again; step" in line
    directory = small_disk / "run" / "checkpoints"
    newest = int(line.split("; step ")[1].split()[0])
    assert manifest.verify(directory / str(newest)) == ""
    mount(small_disk, "10m", "remount")
    again = loop.train(tiny_config(**sections), small_disk / "run", stream=io.StringIO())
    assert again == results(straight)


def test_a_second_run(told, finished, monkeypatch):
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with lock.locked(finished):
        assert f"{finished} is in use by {holder}; use another --workdir" in told(2, TWICE)
    (finished / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    monkeypatch.setattr(lock, "file_system", lambda path: "nfs")
    line = told(2, TWICE)
    assert "is in use by process 7 on elsewhere; if that run is gone, delete " in line
    assert line.endswith(f"{finished / 'lock'}\n")


@pytest.mark.parametrize("left", [b"", b"\xff}", b"[3]", b'{"host": "elsew', "own"])
def test_what_a_killed_run_leaves_is_no_lock(tiny, finished, left):
    own = json.dumps({"host": socket.gethostname(), "pid": 1}).encode()
    (finished / "lock").write_bytes(own if left == "own" else left)
    assert tiny(TWICE) == 0


def test_a_directory_without_locks(told, monkeypatch, tmp_path):
    def none(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    assert "--workdir: " in (line := told(2, {})) and "cannot be locked (No locks" in line


def test_errors_about_files_of_others_keep_their_traceback(tmp_path):
    missing = tmp_path / "elsewhere" / "table.csv"
    with pytest.raises(FileNotFoundError), workdir.writing(tmp_path / "run"):
        open(missing)
    with pytest.raises(CheckpointError, match="cannot be written"), workdir.writing(tmp_path):
        open(missing, "w")
