"""Rows of metrics that the disk refuses: kept, told once, written later, and never half."""

import errno
import io
import json
import os
import signal

import pytest
from tensorboardX.proto import event_pb2

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.runtime import appended, events, retries
from kdaug_jax.runtime.writer import Writer, read_rows
from kdaug_jax.training import loop, saving
from tests.bad_input.helpers import one_line, results
from tests.conftest import tiny_config

OFTEN = dict(checkpoint=dict(every_steps=2, every_epochs=0.0), log=dict(every_steps=2))


@pytest.fixture
def disk(monkeypatch):
    """Has a disk take so many bytes more of rows; None for any number."""
    room = {"bytes": None}

    class File(io.FileIO):
        def write(self, data):
            if room["bytes"] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if room["bytes"] is not None:
                data = data[: room["bytes"]]
                room["bytes"] -= len(data)
            return super().write(data)

    monkeypatch.setattr(appended, "open", lambda path, *_, **__: File(path, "a"), raising=False)
    return room


def rows(directory):
    """Rows without what the clock measures; every line of the file is a whole one."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if "perf/" not in name}
        for line in lines if "step" in json.loads(line)
    ]


def full_from(step, disk, monkeypatch, until=99, then=lambda: None):
    """Fills the disk at a step of a run, until another."""
    due = saving.Saving.due

    def looking(self, before, now):
        if now == step:
            disk["bytes"] = 30
        if now == until:
            disk["bytes"] = None
            then()
        return due(self, before, now)

    monkeypatch.setattr(saving.Saving, "due", looking)


def test_rows_wait_for_room(tmp_path, disk, capsys):
    with Writer(tmp_path, ("", "b"), 0, retry_minutes=10.0) as writer:
        writer.row(1, "", {"train/loss": 1.0})
        disk["bytes"] = 20
        for step in (2, 3):
            writer.row(step, "", {"train/loss": float(step)})
            writer.row(step, "b", {"train/loss": float(step)})
            assert [row["step"] for row in read_rows(tmp_path)] == [1]
            assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
        assert [row["step"] for row in writer.notes()["lacking"]] == [2, 2, 3, 3]
        disk["bytes"] = None
        writer.row(4, "", {"train/loss": 4.0})
        assert writer.notes()["lacking"] == []
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2, 2, 3, 3, 4]
    board = tmp_path / "tensorboard"
    assert {step for step, _ in events.held(board, event_pb2)} == {1, 2, 3, 4}
    assert {step for step, _ in events.held(board / "b", event_pb2)} == {2, 3}
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        f"warning: {tmp_path}/metrics.jsonl: cannot be written (No space left on device); the run "
        "goes on, and its rows are kept and written with the next, for 10 minutes at most"
    )
    assert second == f"{tmp_path}/metrics.jsonl: all rows are written: writing works again"


def test_rows_may_wait_for_so_long_only(tmp_path, disk, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(retries, "monotonic", lambda: now[0])
    with Writer(tmp_path, ("",), 0, retry_minutes=1.0) as writer:
        disk["bytes"] = 0
        for now[0] in (0.0, 59.0):
            writer.row(1 + int(now[0]), "", {"train/loss": 1.0})
        now[0] = 61.0
        with pytest.raises(CheckpointError, match=r"No space left on device\); make room"):
            writer.row(70, "", {"train/loss": 1.0})
        disk["bytes"] = None
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 60, 70]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight") / "w"
    loop.train(tiny_config(**OFTEN), directory, stream=io.StringIO())
    return directory


def test_a_run_goes_on_without_room_for_rows(tiny, tmp_path, straight, disk, capsys, monkeypatch):
    full_from(4, disk, monkeypatch, until=8)
    assert tiny(OFTEN) == 0
    said = capsys.readouterr().out
    assert said.count("the run goes on, and its rows are kept") == 1
    assert said.count("writing works again") == 1
    assert rows(tmp_path / "w") == rows(straight)
    assert results(tmp_path / "w") == results(straight)


def test_a_run_whose_end_finds_no_room_for_rows(
    tiny, tmp_path, straight, disk, capsys, monkeypatch
):
    full_from(4, disk, monkeypatch)
    assert tiny(OFTEN) == 4
    line = one_line(capsys.readouterr().err)
    assert "metrics.jsonl: cannot be written (No space left on device); make room or" in line
    assert rows(tmp_path / "w") == rows(straight)[: len(rows(tmp_path / "w"))]
    assert not (tmp_path / "w" / "results.json").exists()
    disk["bytes"] = None
    monkeypatch.undo()
    assert tiny(OFTEN) == 0
    assert rows(tmp_path / "w") == rows(straight)


def test_a_checkpoint_holds_the_rows_that_wait(
    tiny, tmp_path, straight, disk, capsys, monkeypatch
):
    full_from(4, disk, monkeypatch, until=6, then=lambda: (
        disk.update(bytes=0), os.kill(os.getpid(), signal.SIGTERM)
    ))
    assert tiny(OFTEN) == 75
    assert len(rows(tmp_path / "w")) < len(
        [row for row in rows(straight) if row["step"] <= 6]
    )
    disk["bytes"] = None
    monkeypatch.undo()
    assert tiny(OFTEN) == 0
    assert rows(tmp_path / "w") == rows(straight)


def test_rows_of_a_stopped_run_are_those_that_it_wrote(tmp_path, capsys):
    def opened(noted):
        return Writer(tmp_path, ("",), 3, noted=noted)

    with Writer(tmp_path, ("",), 0) as writer:
        for step in (1, 2, 3):
            writer.row(step, "", {"train/loss": float(step)})
        noted = writer.notes()
        writer.row(3, "", {"eval/validation/nll": 1.0})  # after the checkpoint
    file = tmp_path / "metrics.jsonl"
    text = file.read_text()
    with opened(noted):
        pass
    assert len(read_rows(tmp_path)) == 4
    for damaged in (text.replace("2.0", "2.5"), text.replace('"step": 2', '"step": 9'), ""):
        file.write_text(damaged)
        with pytest.raises(ConfigError, match="restore it from a copy, or move it away to go on"):
            opened(noted)
        assert file.read_text() == damaged
    file.unlink()
    with opened(noted) as writer:
        writer.row(4, "", {"train/loss": 4.0})
    assert [row["step"] for row in read_rows(tmp_path)] == [4]
    assert "metrics.jsonl is gone: the rows up to here are lost" in capsys.readouterr().out
