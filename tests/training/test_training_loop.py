"""Whole runs of small networks: what is written, how a run resumes, what is refused."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.errors import CheckpointError, ConfigError, NonFiniteError, Preempted
from kdaug_jax.evaluation import run as evaluation_run
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.losses.term import Term
from kdaug_jax.runtime import checkpoint, manifest, sharding, workdir
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop, population, setup, state, teachers
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[2]


# Small sets are streamed only where nothing may stay on the devices.
STREAMED = dict(device_gb=0.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images to learn from, in files."""
    directory = tmp_path_factory.mktemp("images")
    splits = ("train", "validation", "test")
    for name, split in data.load("synthetic:8x8,4,40", {use: use for use in splits}).splits.items():
        for image, label, index in zip(split.image, split.label, split.index, strict=True):
            folder = directory / name / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index:02d}.png")
    return directory


def distilled(images, **sections):
    """Two epochs of five steps; a student with everything that a state can hold."""
    settings = dict(
        views={"x": "pad_crop(1)|randaugment(2, 3)"},
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("tiny_wide", recipe=(("train.epochs", 4.0),)),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("topk_kl", ("x",), teacher="teacher", k=2, gradient_group="distill"),
        },
        optim=dict(ema=0.9, clip_norm=5.0, weight_decay=1e-4),
        train=dict(allow_weak_teacher=True),
        checkpoint=dict(every_steps=5, every_epochs=0.0),
        # Not a divisor of the above: a checkpoint must hold what a row has seen so far.
        log=dict(every_steps=4),
    )
    config = tiny_config(**{**settings, **sections})
    config.data.source = f"folder:{images}"
    return config


@pytest.fixture(scope="module")
def teacher(images, tmp_path_factory):
    """A trained teacher, shared by the runs of this file."""
    directory = tmp_path_factory.mktemp("teacher")
    teachers.ensure(distilled(images), directory, stream=io.StringIO())
    return str(directory / "teacher")


@pytest.fixture(scope="module")
def with_teacher(images, teacher):
    def make(**sections):
        config = distilled(images, **sections)
        config.networks["teacher"]["checkpoint"] = teacher
        return config

    return make


@pytest.fixture(scope="module")
def straight(with_teacher, tmp_path_factory):
    """A run of ten steps without interruption."""
    directory = tmp_path_factory.mktemp("straight")
    console = io.StringIO()
    results = loop.train(with_teacher(), directory, stream=console)
    return directory, results, console.getvalue()


def stored_state(directory, step=10):
    wanted = checkpoint.load_subtree(Path(directory) / "checkpoints", (), print)
    assert int(wanted["0"]["step"]) == step
    return wanted


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows_without_perf(directory):
    rows = [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in read_rows(directory)
    ]
    return [row for row in rows if set(row) - {"step", "member"}]


def test_a_run_writes_its_directory(straight):
    directory, results, console = straight
    names = {path.name for path in directory.iterdir()}
    assert {
        "checkpoints",
        "classes.json",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "tensorboard",
    } <= names
    assert json.loads((directory / "results.json").read_text()) == results
    assert json.loads((directory / "classes.json").read_text())[0] == "class 0"
    assert list((directory / "tensorboard").iterdir())
    *_, test, perf = read_rows(directory)
    assert set(test) == {"step", "eval/test/accuracy", "eval/test/nll"} and test["step"] == 10
    assert "perf/wall_seconds" in perf
    # Beside the last checkpoint's figures stand those of the one that validation chose.
    evaluated = {row["step"]: row for row in read_rows(directory) if "eval/validation/nll" in row}
    best = max(evaluated, key=lambda step: (evaluated[step]["eval/validation/accuracy"], step))
    assert perf["best/step"] == best and len(evaluated) == 2
    for name in ("accuracy", "nll"):
        assert perf[f"best/{name}"] == evaluated[best][f"eval/validation/{name}"]
    expected = ("step 10/10", "images/s", "evaluation at step 5", "Total: ", "teacher: validation")
    for text in expected:
        assert text in console


def test_rows_have_the_promised_names(straight):
    rows = read_rows(straight[0])
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == [4, 8, 10]
    assert {"train/ce", "train/kd", "optim/lr", "perf/images_per_second", "perf/goodput"} <= set(
        steps[0]
    )
    for row in steps:
        np.testing.assert_allclose(row["train/loss"], row["train/ce"] + row["train/kd"], rtol=1e-5)


def test_the_logged_rate_is_that_of_the_step(tmp_path):
    schedule = dict(name="linear", base=0.4, end=0.0, unit="step")
    config = tiny_config(optim=dict(schedule=schedule))
    loop.train(config, tmp_path, stream=io.StringIO())
    rows = [row for row in read_rows(tmp_path) if "optim/lr" in row]
    assert len(rows) > 1
    total = rows[-1]["step"]
    for row in rows:
        expected = 0.4 * (1 - (row["step"] - 1) / total)
        np.testing.assert_allclose(row["optim/lr"], expected, rtol=1e-5)


def test_phases_of_goodput_add_up_to_wall_time(straight):
    last = [row for row in read_rows(straight[0]) if "perf/wall_seconds" in row][-1]
    parts = sum(
        last[f"perf/{name}_seconds"]
        for name in ("compile", "data_wait", "step", "evaluation", "checkpoint")
    )
    assert abs(parts - last["perf/wall_seconds"]) < 0.02 * last["perf/wall_seconds"]
    assert 0 < last["perf/goodput"] < 1


def test_streamed_batches_train_like_resident_ones(with_teacher, straight, tmp_path):
    results = loop.train(with_teacher(data=STREAMED), tmp_path, stream=io.StringIO())
    assert results == straight[1]
    same(stored_state(tmp_path), stored_state(straight[0]))
    assert rows_without_perf(tmp_path) == rows_without_perf(straight[0])


@pytest.mark.parametrize("feed", [dict(device_gb=2.0), STREAMED], ids=["resident", "streamed"])
def test_a_killed_run_resumes_bitwise(with_teacher, straight, tmp_path, feed):
    # A checkpoint in the middle of the second epoch.
    save = dict(every_steps=7, every_epochs=0.0)
    config = configs.canonical(configs.validate(with_teacher(data=feed, checkpoint=save)))
    script = [sys.executable, "-m", "tests.training.killed_run", json.dumps(config), str(tmp_path)]
    killed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert read_rows(tmp_path)[-1]["step"] == 5
    console = io.StringIO()
    results = loop.train(with_teacher(data=feed, checkpoint=save), tmp_path, stream=console)
    assert "resumed  " in console.getvalue() and "at step 7\n" in console.getvalue()
    assert "step 8/10" in console.getvalue()
    assert results == straight[1]
    same(stored_state(tmp_path), stored_state(straight[0]))
    assert rows_without_perf(tmp_path) == rows_without_perf(straight[0])


def test_a_plain_run_is_a_population_of_one(with_teacher, straight, tmp_path):
    config = with_teacher(population=(("terms.kd.weight", (1.0,)), ("seed", (0,))))
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert list(results.values()) == list(straight[1].values())
    same(stored_state(tmp_path), stored_state(straight[0]))


def test_members_of_a_population_are_runs_of_their_own(with_teacher, straight, tmp_path):
    config = with_teacher(population=(("terms.kd.weight", (0.0, 1.0)), ("seed", (3, 0))))
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert list(results) == [
        "terms.kd.weight=0.0,seed=3",
        "terms.kd.weight=0.0,seed=0",
        "terms.kd.weight=1.0,seed=3",
        "terms.kd.weight=1.0,seed=0",
    ]
    members = checkpoint.load_subtree(tmp_path / "checkpoints", (), print)
    same(members["3"], stored_state(straight[0])["0"])
    assert not np.array_equal(
        members["0"]["params"]["student"]["fc"]["kernel"],
        members["2"]["params"]["student"]["fc"]["kernel"],
    )
    assert {row.get("member") for row in read_rows(tmp_path)} == set(results)


def test_restoring_on_another_number_of_devices_gives_equal_arrays(
    with_teacher, straight, tmp_path
):
    config = with_teacher(mesh=dict(data=1))
    ready = setup.prepare(config, tmp_path, print)
    assert ready.mesh.size == 1
    like = state.as_tree(state.initial_states(ready))
    tree, _ = checkpoint.load(straight[0] / "checkpoints" / "10", like)
    same(jax.tree.leaves(jax.device_get(tree)), jax.tree.leaves(stored_state(straight[0])))
    assert all(leaf.sharding.num_devices == 1 for leaf in jax.tree.leaves(tree))


def test_the_same_command_again_changes_nothing(with_teacher, straight):
    rows = read_rows(straight[0])
    console = io.StringIO()
    assert loop.train(with_teacher(), straight[0], stream=console) == straight[1]
    assert read_rows(straight[0]) == rows
    assert "step 10/10" not in console.getvalue()


def test_a_changed_config_is_refused_with_a_diff(with_teacher, straight, tmp_path):
    changed = with_teacher()
    changed.optim.weight_decay = 0.5
    before = (straight[0] / "config.json").read_text()
    with pytest.raises(ConfigError, match=r"optim.weight_decay: 0.0001 -> 0.5"):
        loop.train(changed, straight[0], stream=io.StringIO())
    assert (straight[0] / "config.json").read_text() == before


def test_a_changed_config_may_be_allowed(with_teacher, tmp_path):
    config = with_teacher(train=dict(epochs=1.0, allow_weak_teacher=True))
    loop.train(config, tmp_path, stream=io.StringIO())
    config.train.epochs = 2.0
    console = io.StringIO()
    loop.train(config, tmp_path, allow_config_change=True, stream=console)
    assert "config changed: train.epochs: 1.0 -> 2.0" in console.getvalue()
    assert stored_state(tmp_path, 10)
    # The record tells later readers, such as `compare`, that the run is not of one config.
    loop.train(config, tmp_path, stream=io.StringIO())
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["changes"] == [{"step": 5, "changed": ["train.epochs: 1.0 -> 2.0"]}]


def test_a_run_that_is_past_its_end_is_refused(with_teacher, straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    shorter = with_teacher(train=dict(epochs=1.0, allow_weak_teacher=True))
    with pytest.raises(ConfigError, match="ends at step 5 but stands at 10"):
        loop.train(shorter, tmp_path, allow_config_change=True, stream=io.StringIO())
    # What was refused left no trace: the run is still the run it was.
    assert loop.train(with_teacher(), tmp_path, stream=io.StringIO()) == straight[1]


def test_a_refused_change_leaves_the_record_alone(with_teacher, straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    other = with_teacher()
    other.networks["student"]["name"] = "tiny_wide"
    with pytest.raises(CheckpointError, match="holds another state"):
        loop.train(other, tmp_path, allow_config_change=True, stream=io.StringIO())
    assert loop.train(with_teacher(), tmp_path, stream=io.StringIO()) == straight[1]


def test_a_total_loss_is_told_every_time(with_teacher, straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob(manifest.MANIFEST):
        file.write_text("{")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint is whole"):
            loop.train(with_teacher(), tmp_path, stream=io.StringIO())
    assert read_rows(tmp_path) == read_rows(straight[0])


def test_a_run_killed_before_its_first_checkpoint_starts_over(with_teacher, straight, tmp_path):
    shutil.copytree(straight[0], tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob(manifest.MANIFEST):
        file.unlink()
    console = io.StringIO()
    assert loop.train(with_teacher(), tmp_path, stream=console) == straight[1]
    assert "is passed over: it has no manifest" in console.getvalue()


def test_evaluating_a_run_changes_nothing(with_teacher, straight):
    rows = read_rows(straight[0])
    results = evaluate_run(with_teacher(), straight[0], stream=io.StringIO())
    assert results == straight[1]
    assert read_rows(straight[0]) == rows
    for at, step in (("best", rows[-1]["best/step"]), ("5", 5)):
        results = evaluate_run(with_teacher(), straight[0], at=at, stream=io.StringIO())[""]
        evaluated = next(
            row for row in rows if row["step"] == step and "eval/validation/nll" in row
        )
        for name in ("accuracy", "nll"):
            assert results[f"eval/validation/{name}"] == evaluated[f"eval/validation/{name}"]
        assert (straight[0] / "evaluations" / f"{step}-test.json").is_file()
    for at in ("7", "worst"):
        with pytest.raises(ConfigError, match=f"keeps no checkpoint '{at}'; leave it out, or name"):
            evaluate_run(with_teacher(), straight[0], at=at, stream=io.StringIO())
    with pytest.raises(ConfigError, match="holds no run"):
        evaluate_run(with_teacher(), straight[0] / "nothing", stream=io.StringIO())


def test_a_directory_may_be_moved_with_its_teacher(images, teacher, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(Path(teacher).parent, old)
    results = loop.train(
        teachers.ensure(distilled(images), old, stream=io.StringIO()), old, stream=io.StringIO()
    )
    old.rename(new)
    (new / "results.json").unlink()
    full = teachers.ensure(distilled(images), new, stream=io.StringIO())
    assert loop.train(full, new, stream=io.StringIO()) == results
    # Evaluating needs no teacher at all.
    shutil.rmtree(new / "teacher")
    assert evaluate_run(distilled(images), new, stream=io.StringIO()) == results


def test_a_teacher_is_trained_once(images, teacher, monkeypatch):
    trained = []
    monkeypatch.setattr(population, "make_call", lambda *a: trained.append(a))
    full = teachers.ensure(distilled(images), Path(teacher).parent, stream=io.StringIO())
    assert full["networks"]["teacher"]["checkpoint"] == "workdir:teacher"
    assert trained == []


def test_a_teacher_near_chance_is_refused(with_teacher, tmp_path, monkeypatch):
    config = with_teacher(train=dict(allow_weak_teacher=False))
    evaluate_split = setup.evaluate_split

    def at_chance(*args):
        evaluation = evaluate_split(*args)
        accuracy = {name: 0.25 for name in evaluation.numbers if name.endswith("accuracy")}
        return evaluation._replace(numbers={**evaluation.numbers, **accuracy})

    monkeypatch.setattr(setup, "evaluate_split", at_chance)
    with pytest.raises(ConfigError, match="near chance"):
        loop.train(config, tmp_path, stream=io.StringIO())
    assert read_rows(tmp_path) == []


def test_a_teacher_must_fit(with_teacher, tmp_path):
    config = with_teacher()
    config.networks["teacher"]["name"] = "tiny"
    with pytest.raises(ConfigError, match="holds a 'tiny_wide'"):
        loop.train(config, tmp_path, stream=io.StringIO())
    config.data.source = "synthetic:8x8,5,40"
    config.networks["teacher"]["name"] = ""
    with pytest.raises(ConfigError, match="has 4 classes, the data set 5"):
        loop.train(config, tmp_path, stream=io.StringIO())
    config.networks["teacher"]["checkpoint"] = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is not a working directory"):
        loop.train(config, tmp_path, stream=io.StringIO())


@pytest.mark.parametrize("moment", ["step", "compile", "evaluation", "last"])
def test_sigterm_saves_and_the_run_goes_on_bitwise(
    with_teacher, straight, tmp_path, monkeypatch, moment
):
    """The signal comes while a step runs, a program compiles, or a split is evaluated."""
    config = with_teacher(checkpoint=dict(every_steps=8, every_epochs=0.0))
    owner, name, when = {
        "step": (loop.population, "advance", 3),
        "compile": (loop.population, "make_call", 1),
        # The first two are of the teacher: it is tried on some images, then evaluated.
        "evaluation": (evaluation_run, "eval_batches", 3),
        "last": (evaluation_run, "eval_batches", 5),
    }[moment]
    called, original = [], getattr(owner, name)

    def signalling(*args, **kwargs):
        called.append(1)
        if len(called) == when:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalling)
    with pytest.raises(Preempted, match="is saved; run again") as caught:
        loop.train(config, tmp_path, stream=io.StringIO())
    assert caught.value.exit_code == 75
    step = manifest.steps(tmp_path / "checkpoints")[0]
    assert step == {"step": 3, "compile": 1, "evaluation": 5, "last": 10}[moment]
    assert manifest.verify(tmp_path / "checkpoints" / str(step)) == ""
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert results == straight[1]
    same(stored_state(tmp_path), stored_state(straight[0]))
    assert rows_without_perf(tmp_path) == rows_without_perf(straight[0])


def test_sigterm_before_the_first_step(with_teacher, tmp_path, monkeypatch):
    prepare = loop.prepare

    def signalling(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(loop, "prepare", signalling)
    with pytest.raises(Preempted, match="nothing was trained yet"):
        loop.train(with_teacher(), tmp_path, stream=io.StringIO())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_run_on_one_directory_is_refused(with_teacher, tmp_path, monkeypatch):
    with workdir.locked(tmp_path):
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
            loop.train(with_teacher(), tmp_path, stream=io.StringIO())
    assert not (tmp_path / "checkpoints").exists()
    # A lock whose process is gone is stale, also under another name of this host.
    for host in (socket.gethostname(), "elsewhere"):
        (tmp_path / "lock").write_text(json.dumps({"host": host, "pid": 1}))
        with workdir.locked(tmp_path):
            pass
    # On a network's file system that of another host cannot be judged.
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    monkeypatch.setattr(workdir, "file_system", lambda path: "nfs4")
    with pytest.raises(ConfigError, match=r"on elsewhere; if that run is gone, delete"):
        with workdir.locked(tmp_path):
            pass


def test_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
    config = tiny_config(
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "bad": configs.term("tests.training.test_training_loop:late_infinity", ("x",)),
        },
        checkpoint=dict(every_steps=2, every_epochs=0.0),
        log=dict(every_steps=5),
    )
    with pytest.raises(NonFiniteError) as caught:
        loop.train(config, tmp_path, stream=io.StringIO())
    assert "terms.bad" in str(caught.value) and "step 7" in str(caught.value)
    assert caught.value.exit_code == 5
    assert manifest.steps(tmp_path / "checkpoints")[0] == 6
    assert manifest.verify(tmp_path / "checkpoints" / "6") == ""


def _apply(params, state, inputs, context):
    value = jax.numpy.where(context.clock.step == 6, jax.numpy.inf, 0.0)
    return value + 0.0 * inputs[0].student.logits.sum(), state, {}


late_infinity = Term(lambda key, inputs, info: ({}, {}), _apply, roles=("student",))


def test_phases_run_one_after_the_other(tmp_path):
    phases = ((1, {"views.x": "", "terms.ce.weight": 0.0}),)
    config = tiny_config(phases=phases, log=dict(every_steps=1))
    loop.train(config, tmp_path, stream=io.StringIO())
    losses = [row["train/loss"] for row in read_rows(tmp_path) if "train/loss" in row]
    assert min(losses[:5]) > 0.0 == max(losses[5:])


def test_a_damaged_checkpoint_is_passed_over_loudly(with_teacher, straight, tmp_path):
    loop.train(with_teacher(), tmp_path, stream=io.StringIO())
    newest = tmp_path / "checkpoints" / "10"
    victim = max(
        (path for path in newest.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    (tmp_path / "results.json").unlink()
    console = io.StringIO()
    loop.train(with_teacher(), tmp_path, stream=console)
    assert "checkpoint of step 10 is passed over" in console.getvalue()
    assert "is corrupt" in console.getvalue() and "resumed" in console.getvalue()
    same(stored_state(tmp_path), stored_state(straight[0]))
    assert (tmp_path / "checkpoints" / "10.corrupt").is_dir()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        workdir.make(tmp_path / "file" / "run")


def test_a_batch_that_devices_cannot_share():
    with pytest.raises(ConfigError, match="cannot be shared by 4 devices"):
        sharding.make_mesh(-1, 6)
    with pytest.raises(ConfigError, match="by 4 devices in 2 micro-batches; use 8 or 16"):
        sharding.make_mesh(-1, 12, 2)
    with pytest.raises(ConfigError, match="asks for 9 devices"):
        sharding.make_mesh(9, 18)


def test_a_state_of_another_shape_is_refused_by_path(straight):
    like = {"0": {"step": np.zeros((), np.float32)}}
    with pytest.raises(CheckpointError, match="0/step is int32"):
        checkpoint.compare(straight[0] / "checkpoints" / "10", like)
