import importlib
import json
import os
import struct
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kdaug_jax
from kdaug_jax.errors import CheckpointError, ConfigError, UserError, suggest
from kdaug_jax.runtime import checkpoint, manifest, model_card, records, sharding, workdir
from kdaug_jax.runtime.events import held
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.runtime.writer import Writer, read_rows


def arrays(value):
    return {"a": jnp.full((64,), value), "b": {"c": jnp.int32(3)}}


def opened(directory, **options):
    settings = {"keep": 2, "best": "eval/validation/accuracy", "say": print, **options}
    return checkpoint.Checkpoints(directory / "checkpoints", **settings)


def test_newest_and_best_are_kept(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8), (5, 0.6)):
            metrics = {"eval/validation/accuracy": accuracy}
            checkpoints.save(step, arrays(float(step)), metrics, {})
    assert manifest.steps(tmp_path / "checkpoints") == [5, 4, 2]


def test_the_lowest_may_be_the_best(tmp_path):
    with opened(tmp_path, best="eval/validation/nll", lowest=True) as checkpoints:
        for step, nll in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8)):
            checkpoints.save(step, arrays(1.0), {"eval/validation/nll": nll}, {})
    assert manifest.steps(tmp_path / "checkpoints") == [4, 3, 1]


def test_notes_travel_with_the_state(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(7, arrays(2.5), {}, {"window": [0.1, {"x": 3}]})
    with opened(tmp_path) as checkpoints:
        state, notes = checkpoints.restore(arrays(0.0))
    np.testing.assert_array_equal(state["a"], 2.5)
    assert notes == {"window": [0.1, {"x": 3}]}


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    """The next step may reuse the state's memory while the save is still under way."""
    import jax

    state = {"a": jax.numpy.zeros(1_000_000)}
    add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    with opened(tmp_path, keep=9) as checkpoints:
        for step in range(4):
            state = add(state)
            checkpoints.save(step, state, {}, {})
    for step in range(4):
        folder = tmp_path / "checkpoints" / str(step)
        stored, _ = checkpoint.load(folder, state)
        np.testing.assert_array_equal(stored["a"], step + 1)


def test_a_save_returns_before_anything_is_written(tmp_path, monkeypatch):
    begin = threading.Event()
    with opened(tmp_path) as checkpoints:
        write = checkpoints._checkpointer.save

        def late(*args, **kwargs):
            assert begin.wait(60)
            return write(*args, **kwargs)

        monkeypatch.setattr(checkpoints._checkpointer, "save", late)
        checkpoints.save(1, arrays(1.0), {}, {})
        assert manifest.steps(tmp_path / "checkpoints") == []
        begin.set()
    assert manifest.steps(tmp_path / "checkpoints") == [1]


def test_a_failed_save_is_told_by_the_next(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1.0), {}, {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(manifest, "write", lambda folder: open("/proc/none/full"))
            checkpoints.save(2, arrays(2.0), {}, {})
            with pytest.raises(CheckpointError, match="step 2 could not be .*step 1 is the newest"):
                checkpoints.save(3, arrays(3.0), {}, {})
        checkpoints.save(4, arrays(4.0), {}, {})
    assert manifest.newest(tmp_path / "checkpoints", print, set_aside=False) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "no_manifest", "empty"])
def test_damage_is_found(tmp_path, damage, capsys):
    with opened(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, arrays(1.0), {}, {})
        checkpoints.save(2, arrays(2.0), {}, {})
    folder = tmp_path / "checkpoints" / "2"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 60]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(content[:30] + bytes([content[30] ^ 4]) + content[31:])
    elif damage == "truncate":
        victim.write_bytes(content[:-1])
    elif damage == "delete":
        victim.unlink()
    elif damage == "no_manifest":
        (folder / manifest.MANIFEST).unlink()
    else:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    with opened(tmp_path, keep=2) as checkpoints:
        state, _ = checkpoints.restore(arrays(0.0))
        np.testing.assert_array_equal(state["a"], 1.0)
        # The damaged one is out of the way of a new one.
        checkpoints.save(2, arrays(3.0), {}, {})
    assert "checkpoint of step 2 is passed over" in capsys.readouterr().out
    assert manifest.verify(folder) == ""


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(np.pi), {}, {"window": [1.5]})
    folder = tmp_path / "checkpoints" / "1"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    random = np.random.default_rng(0)
    for _ in range(40):
        victim = files[random.integers(len(files))]
        content = victim.read_bytes()
        changed = bytearray(content)
        changed[random.integers(len(content))] ^= 1 << random.integers(8)
        victim.write_bytes(changed)
        assert manifest.verify(folder), f"a flip in {victim} went unnoticed"
        victim.write_bytes(content)
    assert manifest.verify(folder) == ""


def test_no_whole_checkpoint_is_an_error(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1.0), {}, {})
    (tmp_path / "checkpoints" / "1" / manifest.MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        opened(tmp_path)


def test_the_one_before_stays_until_the_newest_is_verified(tmp_path, monkeypatch):
    """Whatever happens between the end of a save and its manifest, there is one to go on from."""
    with opened(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, arrays(float(step)), {}, {})
        checkpoints.wait()
        seen = []
        whole = manifest.write

        def look(folder):
            seen.append([s for s in manifest.steps(folder.parent)
                         if not manifest.verify(folder.parent / str(s))])
            whole(folder)

        monkeypatch.setattr(manifest, "write", look)
        checkpoints.save(4, arrays(4.0), {}, {})
    assert seen == [[3]]


def test_room_is_asked_for(tmp_path):
    import jax

    state = {"a": jax.ShapeDtypeStruct((1 << 50, 1 << 9), "float32"), "b": arrays(1.0)}
    with pytest.raises(CheckpointError, match="bytes are free, a checkpoint needs 2,305,843,009"):
        workdir.require_room(tmp_path / "not" / "there", state)
    workdir.require_room(tmp_path / "not" / "there", state["b"])


def test_what_could_not_be_saved_is_said_in_a_few_words(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(28, "RESOURCE_EXHAUSTED: many words: No space left on device [os_error='28']")

    monkeypatch.setattr(manifest, "write", full)
    with pytest.raises(CheckpointError) as caught:
        with opened(tmp_path) as checkpoints:
            checkpoints.save(1, arrays(1.0), {}, {})
    said = "step 1 could not be saved (No space left on device); make room and run again; none is"
    assert said in str(caught.value)
    with pytest.raises(KeyError):  # another error is not hidden by it
        with opened(tmp_path) as checkpoints:
            checkpoints.save(1, arrays(1.0), {}, {})
            raise KeyError


def test_shapes_and_dtypes_are_compared(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1.0), {}, {})
        other = arrays(1.0)
        other["a"] = other["a"].astype("bfloat16")
        with pytest.raises(CheckpointError, match=r"a is float32\[64\], not bfloat16\[64\]"):
            checkpoints.restore(other)


def test_rows_after_the_restored_step_are_dropped(tmp_path):
    with Writer(tmp_path, ("",), 0) as writer:
        for step in (1, 2, 3):
            writer.row(step, "", {"train/loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "train/lo')
    with Writer(tmp_path, ("",), 2) as writer:
        writer.row(2, "", {"train/loss": 2.0})
        writer.row(3, "", {"train/loss": 9.0})
    assert [(row["step"], row["train/loss"]) for row in read_rows(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 9.0),
    ]


def events(folder):
    """Reads TensorBoard's files, oldest first: records of length, two checksums and content."""
    from tensorboardX.proto.event_pb2 import Event

    records = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            records.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += length + 16
    return records


def test_tensorboard_gets_the_rows_and_where_a_run_was_taken_up(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3,))):
        with Writer(tmp_path, ("", "a/b"), start) as writer:
            for step in steps:
                writer.row(step, "", {"train/loss": float(step), "optim/lr": 0.5})
                writer.row(step, "a/b", {"train/loss": 7.0})
    plain = [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]
    assert [path.name for path in plain] == ["a_b"]
    of_member = [
        (event.step, [(v.tag, v.simple_value) for v in event.summary.value],
         event.session_log.status)
        for event in events(tmp_path / "tensorboard" / "a_b")
    ]
    rows = [(step, [("train/loss", 7.0)], 0) for step in (1, 2, 3)]
    assert of_member == [(0, [], 0), *rows, (0, [], 0), (3, [], 1), rows[2]]


def points(folder):
    """What TensorBoard shows: after a restart what was written beyond its step is dropped."""
    shown = {}
    for event in events(folder):
        if event.session_log.status == event.session_log.START:
            shown = {point: value for point, value in shown.items() if point[0] < event.step}
        shown |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return shown


def test_tensorboard_loses_no_point_of_a_run_that_is_killed(tmp_path):
    board = tmp_path / "tensorboard"
    with Writer(tmp_path, ("",), 0) as writer:
        for step in (1, 2, 3):
            writer.row(step, "", {"train/loss": float(step), "optim/lr": 0.5})
            # Read at once, as if the run were killed here.
            assert points(board)[step, "train/loss"] == step
    (file,) = board.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])  # as an older version, or a crash, left it
    before = points_of_whole(board)
    assert 0 < len(before) < 6
    with Writer(tmp_path, ("",), 3) as writer:
        writer.row(4, "", {"train/loss": 4.0})
    # The half record ends what can be read of a file, not of the folder.
    wanted = {(step, "train/loss"): float(step) for step in (1, 2, 3, 4)}
    assert {**before, **points_of_whole(board)} == {
        **wanted, **{(step, "optim/lr"): 0.5 for step in (1, 2, 3)}
    }
    written = [path.stat().st_size for path in board.iterdir()]
    with Writer(tmp_path, ("",), 4):
        pass
    assert len(list(board.iterdir())) in (2, 3)  # named by the second
    assert max(path.stat().st_size for path in board.iterdir()) <= max(written)


def points_of_whole(folder):
    """Like `points`, of files that may end in half a record."""
    from tensorboardX.proto import event_pb2

    whole = held(folder, event_pb2)
    return {(step, tag): 0.5 if tag == "optim/lr" else float(step) for step, tag in whole}


def test_a_failing_write_leaves_no_part(tmp_path, monkeypatch):
    workdir.write_json(tmp_path / "a.json", [1])
    monkeypatch.setattr(workdir.os, "replace", lambda *paths: open("/dev/full/x"))
    with pytest.raises(OSError):
        workdir.write_json(tmp_path / "a.json", [2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert workdir.read_json(tmp_path / "a.json") == [1]
    # What is no matter of the disk stays a programming error.
    with pytest.raises(IsADirectoryError):
        with workdir.writing(tmp_path):
            open(tmp_path)


def test_a_writer_does_not_load_pytorch(tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] in ("tensorboardX", "torch"):
            monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torch.py").write_text("loaded = True")
    monkeypatch.syspath_prepend(tmp_path)
    with Writer(tmp_path, ("",), 0) as writer:
        writer.row(1, "", {"train/loss": 1.0})
    assert "tensorboardX" in sys.modules and "torch" not in sys.modules
    # It is hidden for that moment only.
    assert importlib.import_module("torch").loaded
    del sys.modules["torch"]


def test_time_is_always_in_one_phase():
    time = Goodput()
    with time("step"):
        sum(range(100_000))
        with time("checkpoint"):
            sum(range(1000))
    before = time.seconds["step"]
    sum(range(100_000))
    report = time.report()
    assert time.seconds["step"] == before > 0  # what comes after is not a step
    parts = sum(value for name, value in report.items() if name.endswith("_seconds"))
    np.testing.assert_allclose(parts, 2 * report["perf/wall_seconds"], rtol=1e-9)
    assert report["perf/checkpoint_seconds"] > 0


def test_errors_are_one_line_with_a_remedy():
    error = UserError("train.epochs", "got 0", "must be more than 0")
    assert str(error) == "train.epochs: got 0; must be more than 0"
    assert suggest("epoch", ["epochs", "seed"]) == "did you mean epochs?"
    assert suggest("zzz", ["b", "a"]) == "known: a, b"
    assert json.dumps(str(error))


@pytest.mark.parametrize(
    "devices, before, after", [(4, None, "32"), (4, "3", "3"), (2, None, None)]
)
def test_virtual_devices_get_threads_for_collectives_that_wait(monkeypatch, devices, before, after):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={devices}")
    monkeypatch.setenv("NPROC", before or "")
    if before is None:
        monkeypatch.delenv("NPROC")
    sharding.use_host_cores(8)
    assert os.environ.get("NPROC") == after


RECORD = {"config": {"seed": 0}, "networks": {}, "members": [""], "data": {}}


def rewrite(file, **fields):
    """Changes fields of a JSON file; None removes one."""
    stored = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({k: v for k, v in stored.items() if v is not None}))


def test_a_record_names_its_version(tmp_path):
    records.record(tmp_path, RECORD, ["cat"])
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    assert len(stored.pop("seal")) == 64
    assert stored == {"version": kdaug_jax.__version__, **RECORD}
    assert records.read_record(tmp_path) == RECORD
    # The same config of another patch level keeps its results.
    (tmp_path / "results.json").write_text("{}")
    rewrite(file, version="0.2.99")
    records.record(tmp_path, RECORD, ["cat"])
    assert (tmp_path / "results.json").exists()
    assert json.loads(file.read_text())["version"] == kdaug_jax.__version__
    records.record(tmp_path, {**RECORD, "config": {"seed": 1}}, ["cat"])
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("version, name", [(None, "0.1"), ("0.1.3", "0.1.3"), ("0.3.0", "0.3.0")])
def test_records_of_another_minor_version_are_refused(tmp_path, version, name):
    records.record(tmp_path, RECORD, ["cat"])
    rewrite(tmp_path / "config.json", version=version)
    for read in (
        records.read_record,
        records.read_run,
        lambda path: records.read_network("networks.teacher", str(path)),
        lambda path: records.record(path, RECORD, ["cat"]),
    ):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}/config.json: was written by kdaug_jax {name}, this is kdaug_jax "
            f"{kdaug_jax.__version__}; use kdaug_jax {name[:3]} to go on with it, or train again "
            "in a new --workdir"
        )


@pytest.mark.parametrize("file, remedy", [
    ("card.json", "import the weights again"), ("model.json", "export it again"),
])
def test_a_card_names_its_version(tmp_path, file, remedy):
    card = model_card.ModelCard("tiny", 2, (8, 8), (0.5,) * 3, (1.0,) * 3)
    model_card.write_card(tmp_path / file, card)
    assert json.loads((tmp_path / file).read_text())["version"] == kdaug_jax.__version__
    assert model_card.read(tmp_path / file) == card
    rewrite(tmp_path / file, version=None)
    with pytest.raises(ConfigError) as caught:
        model_card.read(tmp_path / file)
    assert str(caught.value) == (
        f"{tmp_path / file}: was written by kdaug_jax 0.1, this is kdaug_jax "
        f"{kdaug_jax.__version__}; use kdaug_jax 0.1 to go on with it, or {remedy}"
    )


def test_a_state_of_an_accelerator_is_copied_there(tmp_path, monkeypatch):
    """The thread fetches the copy, whatever becomes of the state meanwhile."""
    monkeypatch.setattr(checkpoint, "platform_of", lambda array: "tpu")
    state = {"params": jnp.arange(4.0)}
    fetched = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or get(tree))
    with checkpoint.Checkpoints(tmp_path / "c", keep=2, say=print) as checkpoints:
        checkpoints.save(1, state, {}, {})
        state["params"].delete()  # as donation does
        checkpoints.wait()
    assert isinstance(fetched[0]["params"], jax.Array)
    stored = checkpoint.load_subtree(tmp_path / "c", (), print)
    np.testing.assert_array_equal(stored["params"], np.arange(4.0))
