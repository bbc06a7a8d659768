"""Words of command lines that mean nothing: one line, at once, whatever the command."""

import errno
import os
import re
import sys

import numpy as np
import pytest

from kdaug_jax import files
from kdaug_jax.analysis import compare, gallery, rank_da
from kdaug_jax.analysis.pictures import image_grid
from kdaug_jax.data.sources.tar import scan_shard, tar
from kdaug_jax.deploy import predict
from kdaug_jax.deploy.export import export_run
from kdaug_jax.errors import CheckpointError, ConfigError, DataError
from kdaug_jax.experiment.frozen.places import place_of
from kdaug_jax.models import import_weights
from kdaug_jax.runtime import commands, model_card, processes, streams, workdir
from tests.bad_input.helpers import one_line

# More digits than Python reads.
DIGITS = "9" * 5000
HOSTILE = "--\n\x1b[31m"


@pytest.mark.parametrize("text", [
    f"--config.data.train=train[:{DIGITS}]", f"--config.data.train=train[:0.{DIGITS}%]",
    f"--config.data.train=pba_reduced({DIGITS}, 3)",
    f"--config.data.source=synthetic:{DIGITS}x8,10,64",
    f"--config.views.x=randaugment('rand-m{DIGITS}')", f"--distributed=0/{DIGITS}@localhost:1",
    "--distributed=0/2@localhost:99999", "--workdir=gs://bucket/run", "--workdir=s3:/bucket",
    "--config.networks.teacher.checkpoint=gs://bucket/run",
])
def test_words_of_a_run(run, tmp_path, capsys, text):
    words = ["--config=configs/digits_kd.py:smoke", f"--workdir={tmp_path / 'w'}", text]
    assert run(*words) == 2
    one_line(capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


def test_numbers_of_thousands_of_digits_among_examples(run, capsys):
    words = ["--config=configs/digits_kd.py:smoke", "--mode=compile", "--topology=h200:8"]
    assert run(*words, f"--assume=examples={DIGITS},classes=3,size=32x32") == 2
    assert "cannot read examples" in one_line(capsys.readouterr().err)
    assert place_of(f"runs/x@{DIGITS}").member == DIGITS
    with pytest.raises(ConfigError, match="cannot read"):
        processes.start(f"0/2@localhost:{DIGITS}")


def test_a_sum_without_a_file_is_refused_before_a_teacher_is_trained(run, tmp_path, capsys):
    words = ["--config=configs/digits_kd.py:smoke", f"--workdir={tmp_path / 'w'}"]
    assert run(*words, f"--config.networks.teacher.sha256={'0' * 64}") == 2
    assert "no checkpoint is named" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("command, words", [
    (predict.main, ["--model=x", "image.png"]), (compare.main, ["x", "--vary=seed"]),
    (gallery.main, ["x.png", "--view=flip"]), (rank_da.main, ["x", "flip"]),
    (import_weights.main, ["--arch=resnet8", "--from=x", "--to=y"]),
])
def test_unknown_words_reach_no_terminal_as_codes(capsys, command, words):
    with pytest.raises(SystemExit):
        command([*words, HOSTILE])
    said = capsys.readouterr().err
    assert "\x1b" not in said and r"--\n\x1b[31m" in said


@pytest.mark.parametrize("command, words", [
    (rank_da.main, ["x", "flip", "--epochs=1e30"]),
    (rank_da.main, ["x", "flip", f"--seed={10**30}"]),
    (rank_da.main, ["x", "flip", f"--batch={10**30}"]),
    (gallery.main, ["x.png", "--view=flip", f"--size={10**30}"]),
    (gallery.main, ["x.png", "--view=flip", f"--seed={10**30}"]),
])
def test_numbers_that_no_machine_holds(capsys, command, words):
    with pytest.raises(SystemExit) as end:
        command(words)
    assert end.value.code == 2
    assert re.search("at most 1,000,000|is 1..4096", capsys.readouterr().err)


def test_sizes_of_imported_networks(capsys):
    words = ["--arch=resnet8", "--from=x", "--to=y", f"--size={10**30}"]
    assert import_weights.main(words) == 2
    assert "--classes and --size" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("make, said", [
    (lambda path: os.mkfifo(path), "is no file"), (lambda path: path.mkdir(), "is no file"),
    (lambda path: path.symlink_to("/dev/full"), "is no file"),
    (lambda path: path.symlink_to(path), "lead back"),
])
def test_the_gallery_writes_files_alone(tmp_path, capsys, make, said):
    """And says where, not beside it under another ending."""
    make(tmp_path / "out")
    before = list(tmp_path.iterdir())
    assert gallery.main([str(tmp_path / "out"), "--view=flip"]) == 2
    assert said in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == before
    assert gallery.main([str(tmp_path / "no/out.png"), "--view=flip"]) == 2
    assert "lies in no folder" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("path, said", [
    ("\0", "is no path"), ("~no such user/run", "home folder"),
    ("gs://bucket/run", "is an address"),
])
def test_directories_that_are_compared(capsys, path, said):
    assert compare.main([path, "--vary=seed"]) == 2
    assert said in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("error", [
    CheckpointError("{}/checkpoints", "step 0 could not be saved", "make room"),
    OSError(errno.ENOSPC, "No space left on device", "{}/card.json"),
    OSError(errno.ENOSPC, "No space left on device"),
])
def test_a_directory_that_is_not_finished_is_named_as_it_was_to_be(tmp_path, error):
    with pytest.raises(CheckpointError) as caught:
        with model_card.made_whole(tmp_path / "r8") as partial:
            if isinstance(error, CheckpointError):
                raise CheckpointError(error.where.format(partial), error.what, error.remedy)
            raise OSError(*error.args, *[error.filename.format(partial)] if error.filename else [])
    assert caught.value.where.startswith(str(tmp_path / "r8"))
    assert "partial" not in str(caught.value) and not list(tmp_path.iterdir())


def test_directories_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "new", tmp_path / "file" / "deep" / "new"):
        with pytest.raises(ConfigError, match=r"new: cannot be made \(Not a directory\)"):
            with model_card.made_whole(place):
                pass


def test_a_state_that_no_member_has_is_not_exported_as_nothing(finished):
    for choice in ("member=no", "branch=-1", "step=x"):
        with pytest.raises(ConfigError, match="holds no member"):
            export_run(f"{finished}@{choice}")
    assert not (finished / "export").exists()


def test_names_that_the_library_of_checkpoints_cannot_write(tmp_path, monkeypatch):
    """They are told before anything is trained."""
    with pytest.raises(ConfigError, match="not UTF-8"):
        workdir.make(os.fsdecode(os.fsencode(tmp_path) + b"/w\xff"))
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ConfigError, match="PYTHONUTF8=1"):
        workdir.make(tmp_path / "wä")
    assert not list(tmp_path.iterdir())


def test_patterns_of_more_archives_than_there_can_be(tmp_path):
    with pytest.raises(DataError, match="names 100,000,000 archives"):
        tar(f"{tmp_path}/{{0..99999999}}.tar")
    with pytest.raises(DataError, match="is not a file"):
        tar(f"{tmp_path}/{{0..99999999999}}.tar")


def test_holes_of_archives_are_not_read(tmp_path):
    """Archives are shards, of any size: the zeros after the last member may be a hole."""
    path = tmp_path / "train.tar"
    path.touch()
    os.truncate(path, 1 << 40)
    assert scan_shard(str(path)) == ([], [])
    with path.open("r+b") as file:
        file.seek((1 << 40) - 5)
        file.write(b"x")
    with pytest.raises(DataError, match=f"another archive after its end, at byte {(1 << 40) - 5}"):
        scan_shard(str(path))


def test_config_files_that_python_cannot_name(run, tmp_path, capsys):
    (tmp_path / "nul.py").write_bytes(b"x = 1\0\n")
    assert run(f"--config={tmp_path / 'nul.py'}", f"--workdir={tmp_path / 'w'}") == 2
    assert f"{tmp_path / 'nul.py'}: SyntaxError" in one_line(capsys.readouterr().err)
    assert run("--config=/proc/self/mem", f"--workdir={tmp_path / 'w'}") == 2
    assert "cannot be read (Input/output error)" in one_line(capsys.readouterr().err)


def test_files_without_a_size_are_read_in_one_go(monkeypatch):
    """As those of /proc: a bound ends them in seconds."""
    monkeypatch.setitem(files.BOUNDS, "text", 64 << 20)
    with pytest.raises(OSError, match="has more than 67,108,864 bytes"):
        files.read_bytes("/proc/self/pagemap", "text")


def test_reasons_hold_no_numbers_of_the_system(tmp_path, capsys):
    os.mkfifo(tmp_path / "names")
    words = ["--arch=resnet8", "--from=x", f"--to={tmp_path / 'y'}"]
    assert import_weights.main([*words, f"--class_names={tmp_path / 'names'}"]) == 2
    said = one_line(capsys.readouterr().err)
    assert "cannot be read (is a named pipe, not a file)" in said and "Errno" not in said


def test_rights_end_any_command_in_one_line(monkeypatch, capsys):
    def main():
        raise PermissionError(errno.EACCES, "Permission denied", "/no/right")

    monkeypatch.setattr(streams, "prepare", lambda: None)
    with pytest.raises(SystemExit) as end:
        commands.run(main)
    assert end.value.code == 2
    assert "/no/right: cannot be used" in one_line(capsys.readouterr().err)


def test_pictures_are_drawn_into_files_alone(tmp_path):
    """As `preview.png` of a run."""
    os.mkfifo(tmp_path / "preview.png")
    with pytest.raises(ConfigError, match="is there and is no file"):
        image_grid(tmp_path / "preview.png", ["x"], [np.zeros((1, 2, 2, 3))], [["0"]])


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_the_address_of_a_bucket_is_refused_with_the_mounts_that_work(run, capsys, address):
    assert run("--config=configs/digits_kd.py:smoke", f"--workdir={address}") == 2
    said = one_line(capsys.readouterr().err)
    assert f"'{address}' is an address, not a path" in said
    assert "name a folder where it is mounted by NFS, Filestore or gcsfuse" in said
