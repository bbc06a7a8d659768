"""Hostile files: pipes, devices, files without end or size, deep JSON, names, rights, no home."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from kdaug_jax import data, files
from kdaug_jax.augment.policies import files as policy_files
from kdaug_jax.data.human import read_human
from kdaug_jax.deploy import predict
from kdaug_jax.errors import ArgumentError, CheckpointError, ConfigError, DataError, UserError
from kdaug_jax.experiment import command_line
from kdaug_jax.experiment.frozen import functions, stored, tables
from kdaug_jax.images.decode import image_size
from kdaug_jax.images.readers import read_file
from kdaug_jax.models import import_weights
from kdaug_jax.models.foreign.names_file import read_names
from kdaug_jax.runtime import (
    compile_cache,
    digest,
    manifest,
    mark,
    model_card,
    records,
    workdir,
    writer,
)


def read_policy(path):
    return policy_files.parse(str(path), policy_files.read(str(path)))


ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def nobody():
    """Takes the rights of root away: it may read what is forbidden to all."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that every user may enter; those of pytest are for their owner alone."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for inner in path.rglob("*"):
        if inner.is_dir():
            inner.chmod(0o755)
    shutil.rmtree(path)


def made_pipe(path):
    os.mkfifo(path)


def made_link_to_a_device(path):
    path.symlink_to("/dev/zero")


def made_loop(path):
    path.symlink_to(path.name)


def made_huge(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse


def made_deep(path):
    path.write_text("[" * 200_000)


def made_folder(path):
    path.mkdir()


KINDS = {
    made_pipe: "is a named pipe, not a file", made_link_to_a_device: "is a device, not a file",
    made_loop: "its links lead back to themselves", made_huge: "which no file of its kind has",
    made_folder: "is a directory",
}
# Readers of files of users, by what they read, and what they raise.
READERS = {
    "an image": lambda path: read_file(str(path), 0),
    "the header of an image": image_size,
    "an image to predict": lambda path: predict.read_image(
        path, 0, model_card.ModelCard("tiny", 2, (8, 8), (0.0,) * 3, (1.0,) * 3), False
    ),
    "a config": lambda path: command_line.config_file(["main.py", f"--config={path}"]),
    "a policy": read_policy,
    "a record": workdir.read_json,
    "a card": model_card.read,
    "class names": lambda path: read_names("--class_names", path),
    "weights": lambda path: import_weights.import_file(path, "resnet8"),
    "a function": functions.read,
    "a list of class names": lambda path: stored.opened.kind_of(path),
}


@pytest.mark.parametrize("make, reason", KINDS.items(), ids=lambda value: getattr(
    value, "__name__", ""
))
@pytest.mark.parametrize("what", READERS)
def test_what_is_no_file_of_bounded_size_is_refused(tmp_path, what, make, reason):
    path = tmp_path / "file.json"
    make(path)
    if make is made_folder and what == "a config":
        return  # the folder of configs is told otherwise
    with pytest.raises((UserError, ArgumentError)) as caught:
        READERS[what](path)
    line = str(caught.value)
    known = (reason, "is not a file") if make in (made_folder, made_loop) else (reason,)
    assert any(text in line for text in known) and "\n" not in line, line


@pytest.mark.parametrize("make", [made_pipe, made_link_to_a_device, made_loop])
def test_arrays_and_shards_are_regular_files_of_any_size(tmp_path, make):
    path = tmp_path / "set-train.npz"
    make(path)
    for read in (
        lambda: read_human(path, 2, 1), lambda: tables.read(path), lambda: digest.sha256_file(path),
        lambda: data.load(f"arrays:{path}", {"train": "train"}),
        lambda: data.load(f"tar:{path}", {"train": "train"}),
        lambda: data.load(f"cifar10:{path}", {"train": "train"}),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    files.open_file(tmp_path / "sparse", "shard").close()


def test_a_file_that_grows_without_end_is_read_to_its_bound(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    monkeypatch.setitem(files.BOUNDS, "text", 5000)
    assert len(files.read_bytes(path, "text")) == 5000
    # A file of /proc says that it is empty, and is not.
    assert files.read_text("/proc/self/status", "text").startswith("Name:")
    monkeypatch.setitem(files.BOUNDS, "text", 100)
    for name in (path, "/proc/self/maps"):
        with pytest.raises(OSError, match="has more than 100 bytes"):
            files.read_bytes(name, "text")


@pytest.mark.parametrize("read", [
    workdir.read_json, model_card.read, read_policy,
    lambda path: read_names("--class_names", path),
])
def test_json_that_is_nested_deeply(tmp_path, read):
    made_deep(tmp_path / "file")
    with pytest.raises((UserError, ArgumentError), match="nested too deeply"):
        read(tmp_path / "file")


def test_deep_json_among_the_files_of_a_run(tmp_path):
    step = tmp_path / "checkpoints" / "3"
    step.mkdir(parents=True)
    made_deep(step / manifest.MANIFEST)
    assert manifest.verify(step) == f"{manifest.MANIFEST} cannot be read"
    (step / manifest.MANIFEST).write_text(json.dumps({"x" * 300: "1", "/dev/zero": "2"}))
    assert manifest.verify(step).endswith("is missing")
    made_deep(tmp_path / "metrics.jsonl")
    assert writer.read_rows(tmp_path) == [] and writer.read_run_id(tmp_path) is None
    made_pipe(tmp_path / "lock")
    with pytest.raises(ConfigError, match="but not the mark of a run"):
        mark.check(tmp_path)


# Tampered records of a run: a file, and its JSON.
NETWORK = {"name": "tiny", "num_classes": 2, "trainable": True, "mean": [0.0], "std": [1.0],
           "options": {}}
RECORD = {"version": records.kdaug_jax.__version__, "config": {"checkpoint": {"best": ""}},
          "networks": {"student": NETWORK}, "members": [""], "data": {}}


def without(name):
    return {key: value for key, value in RECORD.items() if key != name}


TAMPERED = [
    ("config.json", value) for value in (
        [], "x", 3, None, {}, {"config": 1}, without("config"), without("networks"),
        without("members"), {**RECORD, "config": []}, {**RECORD, "config": {"data": 3}},
        {**RECORD, "networks": []}, {**RECORD, "networks": {"student": 3}},
        {**RECORD, "networks": {"student": {}}},
        {**RECORD, "networks": {"student": {**NETWORK, "mean": "x"}}},
        {**RECORD, "networks": {"student": {**NETWORK, "num_classes": "2"}}},
        {**RECORD, "members": 3}, {**RECORD, "members": []}, {**RECORD, "members": [3]},
        {**RECORD, "data": []}, {**RECORD, "data": {"splits": {"train": 3}}},
        {**RECORD, "data": {"class_names": 3}}, {**RECORD, "frozen": {"teacher": 1}},
        {**RECORD, "version": []}, {**RECORD, "seal": 3}, {**RECORD, "seal": "0" * 64},
    )
] + [
    ("results.json", value) for value in (
        [], 3, {"": 3}, {"": {"failed": 1}}, {"": {"failed": {}}}, {"": {"x": []}},
    )
] + [
    ("classes.json", value) for value in (3, {"a": 1}, [1, 2], ["ant", "wasp"])
] + [
    ("environment.json", value) for value in ([], 3, {"packages": []}, {"devices": 3})
] + [
    (workdir.MARK, value) for value in (
        [], 3, {}, {"id": 3}, {"id": "a" * 32, "files": []}, {"id": "a" * 32, "seal": "b"},
    )
]


def readings(path):
    """Everything that is read of the records of a run before anything is computed."""
    mark.check(path)
    _, record = records.read_run(path)
    records.class_names(path, record)
    records.read_results(path)
    records.environment_change(path)
    records.read_network("networks.teacher", str(path))


@pytest.mark.parametrize("name, value", TAMPERED)
def test_tampered_records_end_in_one_line(tmp_path, name, value):
    record = {**RECORD, "data": {"class_names": ["ant", "bee"]}}
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    for file, content in (("config.json", record), ("classes.json", ["ant", "bee"]),
                          ("environment.json", {})):
        (tmp_path / file).write_text(json.dumps(content))
    readings(tmp_path)
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(UserError) as caught:
        readings(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) or "--workdir" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_change_on_purpose_needs_the_seal_removed(tmp_path):
    records.record(tmp_path, {**RECORD, "config": {"seed": 1}}, ["ant"])
    changed = json.loads((tmp_path / "config.json").read_text())
    changed["config"]["seed"] = 2
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="not as it was written; restore it .*its entry 'seal'"):
        records.read_record(tmp_path)
    del changed["seal"]
    (tmp_path / "config.json").write_text(json.dumps(changed))
    assert records.read_record(tmp_path)["config"] == {"seed": 2}


def test_names_of_members_of_any_length(tmp_path):
    long = ",".join(f"terms.kd{number}.weight={number}" for number in range(30))
    names = (long + "a", long + "b", "policy=a/b", "é" * 150)
    folders = [files.name_of(name) for name in names]
    assert len(set(folders)) == 4 and folders[2] == "policy=a_b"
    assert all(len(name.encode()) <= files.LONGEST_NAME for name in folders)
    mark.claim(mark.make(tmp_path), print)
    with writer.Writer(tmp_path, names, 0) as rows:
        for name in names:
            rows.row(1, name, {"train/loss": 1.0})
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == set(folders)


@pytest.mark.parametrize("locked, mode, right", [
    ("set/train/ant", 0, "no right to read (r) {}"),
    ("set/train/ant", stat.S_IXUSR, "no right to read (r) {}"),
    ("set/train/ant", stat.S_IRUSR, "no right to enter (x) the folder {}"),
    ("set", 0, "no right to enter (x) the folder {}"),
])
def test_folders_of_data_that_may_not_be_read(open_folder, locked, mode, right):
    for name in ("ant", "bee"):
        (open_folder / "set" / "train" / name).mkdir(parents=True)
        (open_folder / "set" / "train" / name / "1.png").write_bytes(b"")
    (open_folder / locked).chmod(mode | mode >> 3 | mode >> 6)
    with nobody(), pytest.raises(DataError) as caught:
        data.load(f"folder:{open_folder / 'set'}", {"train": "train"})
    assert right.format(open_folder / locked) in str(caught.value)


def test_files_of_a_run_that_may_not_be_read(open_folder):
    run = open_folder / "run"
    mark.claim(mark.make(run), print)
    records.record(run, {**RECORD, "config": {"seed": 1}}, ["ant"])
    (run / "checkpoints" / "1").mkdir(parents=True)
    reads = {
        "checkpoints": lambda: manifest.steps(run / "checkpoints"),
        "config.json": lambda: records.read_run(run), "": lambda: mark.check(run),
    }
    for name, read in reads.items():
        (run / name).chmod(0)
        with nobody(), pytest.raises(UserError, match="no right to") as caught:
            read()
        assert str(run / name) in str(caught.value) and "\n" not in str(caught.value)
        (run / name).chmod(0o755)


def test_rights_of_any_other_path_end_in_one_line(open_folder):
    (open_folder / "inner").mkdir(mode=0)
    with nobody(), pytest.raises(ConfigError, match="no right to read .r. "):
        with files.refusals():
            os.listdir(open_folder / "inner")
    with pytest.raises(FileNotFoundError), files.refusals():  # which may be of the user's code
        os.listdir(open_folder / "absent")


def test_without_a_home_folder(tmp_path, monkeypatch):
    def unknown(path, expand=Path.expanduser):
        if not str(path).startswith("~"):
            return expand(path)
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    assert compile_cache.use() is None
    said = []
    image = np.zeros((4, 8, 8, 3), np.uint8)
    for name in ("ant", "bee"):
        (tmp_path / "train" / name).mkdir(parents=True)
        predict.Image.fromarray(image[0]).save(tmp_path / "train" / name / "1.png")
    options = data.ReadOptions(say=said.append)
    split = data.load(f"folder:{tmp_path}", {"train": "train"}, options).splits["train"]
    assert len(split) == 2 and any("no home folder is known" in line for line in said)
    data.pixel_statistics(split)
    for read in (lambda: workdir.place("--workdir", "~/x"), lambda: read_human("~/x", 2, 1)):
        with pytest.raises(UserError, match="begins with a home folder, which is not known; set"):
            read()


@pytest.mark.parametrize("make", [made_pipe, made_link_to_a_device, made_loop])
def test_a_config_that_is_no_file_ends_the_command(run, tmp_path, capsys, make):
    make(tmp_path / "config.py")
    assert run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}") == 2
    line = capsys.readouterr().err
    assert line.startswith("error: --config: ") and line.count("\n") == 1


def test_only_one_place_opens_files():
    """`files` opens whatever a user names; what writes, and the system's own files, are apart."""
    own = {"files.py", "images/memory.py", "runtime/workdir.py", "runtime/appended.py",
           "runtime/lock.py", "runtime/streams.py", "runtime/compile_cache.py",
           "compile/compilers.py"}
    allowed = own | {"data/index.py"}
    words = (" open(", "(open(", "=open(", ".read_text(", ".read_bytes(", "np.load(", "fromfile(")
    offenders = [
        f"{path.relative_to(ROOT / 'kdaug_jax')}: {line.strip()}"
        for path in sorted((ROOT / "kdaug_jax").rglob("*.py"))
        if str(path.relative_to(ROOT / "kdaug_jax")) not in allowed
        for line in path.read_text().splitlines()
        if any(word in line for word in words) and "def open(" not in line
    ]
    assert offenders == ["data/sources/cifar_c.py: array = np.load(file, mmap_mode=\"r\", "
                         "allow_pickle=False)"]


@pytest.mark.slow
def test_a_process_without_home_and_rights_trains(tmp_path):
    command = [sys.executable, "-c", "import kdaug_jax.training.loop"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_checkpoint_errors_name_the_missing_right(open_folder):
    (open_folder / "w.pth").write_bytes(b"x")
    (open_folder / "w.pth").chmod(0)
    with nobody(), pytest.raises(CheckpointError, match="no right to read .r. .*w.pth"):
        import_weights.import_file(open_folder / "w.pth", "resnet8")
