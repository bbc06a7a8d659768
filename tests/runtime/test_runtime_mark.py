"""The mark of a working directory, and what is refused without it."""

import json

import pytest

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.runtime import mark, records, workdir
from kdaug_jax.runtime.writer import METRICS, Writer, read_run_id


@pytest.mark.parametrize("name", sorted(mark.NAMES))
def test_names_of_a_run_without_a_mark_are_refused(tmp_path, name):
    file = tmp_path / name / "inside" if "." not in name else tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    if name != "config.json":
        with pytest.raises(ConfigError, match=f"holds {name}, but not the mark of a run"):
            mark.make(tmp_path)
    else:
        with pytest.raises(ConfigError, match="config.json: is not of this package"):
            mark.make(tmp_path)
    assert file.read_text() == "{}"


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "train.log").write_text("starting\n")
    (tmp_path / "checkpoints").mkdir()  # of a run that was refused
    (tmp_path / "lock").write_text("")
    assert mark.make(tmp_path) == tmp_path
    mark.claim(tmp_path, print)
    first = workdir.run_id(tmp_path)
    mark.claim(tmp_path, print)
    assert workdir.run_id(tmp_path) == first and len(first) == 32
    assert (tmp_path / "train.log").read_text() == "starting\n"


def test_a_lock_that_is_none(tmp_path):
    (tmp_path / "lock").write_text("a file of somebody else")
    with pytest.raises(ConfigError, match="holds a file 'lock' that is not of a run"):
        mark.make(tmp_path)


def test_files_of_another_run_are_refused(tmp_path):
    for name in "ab":
        directory = mark.make(tmp_path / name)
        mark.claim(directory, print)
        records.record(directory, {"config": {}, "networks": {}, "members": [""], "data": {}}, [])
        with Writer(directory, ("",), 0) as writer:
            writer.row(1, "", {"train/loss": 1.0})
        mark.write_results(directory, {"": {"x": float(ord(name))}}, {}, [""])
        (directory / "checkpoints" / "1").mkdir(parents=True)
    assert read_run_id(tmp_path / "a") == workdir.run_id(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["id"]
    for name in ("config.json", METRICS, "results.json"):
        kept = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        with pytest.raises(ConfigError, match="another --workdir, or move it away"):
            mark.make(tmp_path / "a")
        (tmp_path / "a" / name).write_bytes(kept)
    assert mark.make(tmp_path / "a")


def test_saved_checkpoints_are_missed(tmp_path):
    mark.claim(mark.make(tmp_path), print)
    mark.check(tmp_path)
    mark.note_saved(tmp_path)
    with pytest.raises(CheckpointError, match="the checkpoints of this run are gone"):
        mark.check(tmp_path)
