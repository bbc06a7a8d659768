"""What a user can get wrong: one line on stderr, the right exit status, nothing half-written."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint, manifest, workdir
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.data import made

ROOT = Path(__file__).parents[1]
DIGITS = "--config=configs/digits_kd.py"
HEAD = "from math import inf, nan\nfrom ml_collections import ConfigDict\n"
SECTIONS = HEAD + """
from tests.conftest import tiny_config
def get_config():
    return tiny_config(**{sections!r})
"""
WHOLE = HEAD + """
def get_config():
    return ConfigDict({whole!r})
"""
TEACHER = dict(
    networks={"student": configs.network("tiny", trainable=True), "teacher": {"name": "tiny_wide"}},
    terms={
        "ce": configs.term("cross_entropy", ("x",)),
        "kd": configs.term("topk_kl", ("x",), teacher="teacher", k=2),
    },
    train=dict(allow_weak_teacher=True),
)
# Two checkpoints, of steps 5 and 10.
TWICE = dict(checkpoint=dict(every_steps=5, every_epochs=0.0))


def files(directory):
    """What lies in a directory; the lock is a trace of every run, refused or not."""
    paths = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths if p.name != "lock"}


def one_line(text):
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


@pytest.fixture
def tiny(run, tmp_path):
    """Runs a tiny experiment from a config file; gives the exit status."""

    def call(sections, *words, directory=tmp_path / "w"):
        (tmp_path / "config.py").write_text(SECTIONS.format(sections=sections))
        return run(f"--config={tmp_path / 'config.py'}", f"--workdir={directory}", *words)

    return call


@pytest.fixture
def told(tiny, tmp_path, capsys):
    """Runs what must be refused; gives the line, and sees that no file came, went or changed."""

    def call(status, sections, *words, directory=tmp_path / "w"):
        before = files(directory)
        assert tiny(sections, *words, directory=directory) == status
        assert files(directory) == before
        return one_line(capsys.readouterr().err)

    return call


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A finished run."""
    directory = tmp_path_factory.mktemp("straight")
    loop.train(tiny_config(**TWICE), directory, stream=io.StringIO())
    return directory


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(straight, tmp_path / "w"))


def results(directory):
    return json.loads((directory / "results.json").read_text())


# --- The command line and the config file


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "error: --config: is missing; --config=configs/digits_kd.py"),
        (["--config=configs/nope.py"], "error: --config: there is no file 'configs/nope.py'"),
        ([f"{DIGITS}:smoke"], "error: --workdir: is missing; --workdir=runs/NAME"),
        ([f"{DIGITS}:smoke", "--workdir=W", "stray"], "command line: does not know 'stray'"),
        ([f"{DIGITS}:smoke", "--workdri=W"], "Did you mean: workdir"),
        (
            [f"{DIGITS}:smoke", "--workdir=W", "--config.optim.nestrov=true"],
            "error: optim.nestrov: there is no such field; did you mean nesterov?",
        ),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.train.epochs=many"], "train.epochs=many"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.data.batch_size=1.5"], "batch_size=1.5"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.optim.nesterov=no"], "nesterov=no"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--mode=trian"], "should be one of <train|evaluate"),
        (
            [f"{DIGITS}:smok", "--workdir=W"],
            "error: --config: has no option 'smok'; did you mean smoke?",
        ),
        ([f"{DIGITS}:magnitude=high", "--workdir=W"], "must be a int"),
        ([f"{DIGITS}:smoke", "--workdir=/proc/none"], "--workdir: /proc/none cannot be written"),
        ([DIGITS, "--workdir=W", "--mode=evaluate"], "holds no run; train it first"),
        (
            [f"{DIGITS}:smoke", "--workdir=W", "--distributed=2/2@host:1"],
            "error: --distributed: cannot read '2/2@host:1'; --distributed=auto, or NUMBER/COUNT@",
        ),
    ],
)
def test_command_line(run, words, message, capsys, tmp_path):
    assert run(*(word.replace("=W", f"={tmp_path / 'w'}") for word in words)) == 2
    assert message in one_line(capsys.readouterr().err)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "config.py:1: SyntaxError"),
        ("import no_such_module", "config.py:1: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "config.py:2: ZeroDivisionError"),
        ("def get_config():\n    return int('x')", "config.py:2: ValueError: invalid literal"),
        ("def get_config():\n    return 3", "has no get_config() that returns a ConfigDict"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(run, tmp_path, capsys, text, message):
    (tmp_path / "config.py").write_text(text)
    assert run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}") == 2
    assert message in one_line(capsys.readouterr().err)


# Every kind of number that a config can hold, except those of other optimisers.
EVERYTHING = dict(
    TEACHER,
    views={"x": "pad_crop(1)|flip"},
    networks={
        "student": configs.network(
            "tiny", trainable=True, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)
        ),
        "teacher": configs.network(
            "tiny_wide", recipe=(("train.epochs", 4.0), ("optim.schedule.base", 0.2))
        ),
    },
    terms={
        "a": configs.term("cross_entropy", ("x",), weight=dict(
            name="milestones", base=1.0, at=(1, 1.5), factor=0.1, warmup=0.5)),
        "b": configs.term("kl", ("x",), teacher="teacher", temperature=4.0, weight=dict(
            name="step_decay", base=1.0, every=1, factor=0.5)),
        "c": configs.term("topk_kl", ("x",), teacher="teacher", k=2, weight=dict(
            name="linear", base=1.0, end=0.5)),
        "d": configs.term("binary_cross_entropy", ("x",), weight=dict(
            name="cosine", base=1.0, end=0.5, warmup=1, unit="step")),
    },
    optim=dict(
        schedule=dict(name="exponential", base=0.1, every=0.5, factor=0.5, staircase=False),
        ema=0.9, clip_norm=5.0,
    ),
    phases=((1, {"terms.a.weight": 0.5, "optim.weight_decay": 0.1}), (1.4, {"terms.c.k": 1})),
    population=(("terms.c.k", (1, 2)), ("seed", (0, 1)), ("optim.schedule.base", (0.1, 0.2))),
)


def numbers(tree, path=()):
    """Lists the paths of the numbers in nested dicts and tuples."""
    if isinstance(tree, dict | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, (*path, key))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path


def replaced(tree, path, value):
    if not path:
        return value
    inner = replaced(tree[path[0]], path[1:], value)
    if isinstance(tree, dict):
        return {**tree, path[0]: inner}
    return (*tree[: path[0]], inner, *tree[path[0] + 1 :])


NAN, INF = float("nan"), float("inf")


def test_every_number_must_be_finite_and_in_its_range(run, tmp_path, capsys):
    whole = configs.validate(tiny_config(**EVERYTHING))
    paths = [path for path in numbers(whole) if path != ("mesh", "data")]  # -1 is all devices
    assert len(paths) > 50
    for number, path in enumerate(paths):
        name = [key for key in path if isinstance(key, str)][-1]
        if path[0] == "population":
            name = whole["population"][path[1]][0]
        for bad in (NAN, (INF, -1, -INF, 10**50)[number % 4]):
            (tmp_path / "config.py").write_text(WHOLE.format(whole=replaced(whole, path, bad)))
            status = run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}")
            assert status == 2, (path, bad)
            line = one_line(capsys.readouterr().err)
            assert name in line and str(bad) in line, (path, bad, line)
    assert files(tmp_path / "w") == {}


@pytest.mark.parametrize(
    "override, message",
    [
        # Views, losses, names
        ("views.x=flip|flop", "error: views.x: unknown stage 'flop'; did you mean flip"),
        ("views.x=flip(1.5)", "views.x.flip.probability: got 1.5; must be at least 0 and at most"),
        ("views.x=randaugment(2, 1e999)", "views.x.randaugment.m: got inf; must be finite"),
        ("views.x=pad_crop(-1)", "views.x.pad_crop: got padding=-1; must be 0..8 pixels"),
        ("views.x=cutout(2, fill=(1, 2))", "views.x.cutout.fill: got (1, 2); must be 'mean'"),
        ("views.x=repeat(0)|flip", "error: views.x.repeat: got n=0; must be at least 1"),
        ("views.x=pick('kld')", "error: views.x.pick: unknown score 'kld'; did you mean kl?"),
        ("views.x=pick('kl')", "error: views.x.pick: no network 'teacher'; known: student"),
        ("views.x=pick('kl', 0.1, teacher='student')", "views.x.pick.keep: 0.1 of 8 rows leaves"),
        ("eval.view=view('x')", "error: eval.view: starts from another view"),
        ("eval.view=repeat(2)", "error: eval.view: changes the number of rows; leave repeat"),
        ("eval.metrics=('accuracy','nll','mse')", "error: eval.metrics: unknown metric 'mse'; did"),
        ("eval.human=nowhere.npy", "error: eval.human: is 'nowhere.npy'; name a file of answers"),
        ("terms.ce.loss=cross_entrop", "error: terms.ce.loss: unknown loss 'cross_entrop'; did"),
        ("terms.ce.loss=builtins:max", "error: terms.ce.loss: 'builtins:max' is a builtin_"),
        ("terms.ce.loss=math:pi", "'math:pi' is a float whose arguments cannot be read; name a fu"),
        ("terms.ce.loss=math:sqrt", "terms.ce.loss: 'math:sqrt' has no argument that it could be"),
        ("terms.ce.label_smoothing=1.5", "terms.ce.label_smoothing: got 1.5; must be at least 0"),
        ("checkpoint.best=eval/validation/acc", "did you mean eval/validation/accuracy"),
        ("networks.student.name=tinny", "networks.student.name: unknown network 'tinny'; did you"),
        # Tuples of a wrong length
        ("networks.student.mean=(1.0, 2.0)", "networks.student.mean: has 2 values; one for each"),
        ("networks.student.std=(1.0,)", "networks.student.std: has 1 values; one for each of the"),
        # What devices, groups and micro-batches share
        ("data.batch_size=6", "data.batch_size: 6 cannot be shared by 4 devices; use 4 or 8"),
        ("train.replica_batch_size=3", "train.replica_batch_size: 3 does not divide data.batch_size 8; use a div"),
        ("train.accumulate=3", "train.accumulate: 3 micro-batches cannot share data.batch_size 8"),
        ("train.accumulate=4", "8 cannot be shared by 4 devices in 4 micro-batches; use 16 or 32"),
        ("train.accumulate=0", "train.accumulate: got 0; must be at least 1"),
        ("mesh.data=3", "data.batch_size: 8 cannot be shared by 3 devices; use 6 or 9, or set"),
        ("mesh.data=5", "mesh.data: asks for 5 devices of 4; use -1 for all"),
        ("mesh.data=0", "mesh.data: asks for 0 devices of 4"),
        # Lengths
        ("train.epochs=0.0", "train.epochs: got 0.0; must be more than 0"),
        ("train.epochs=1e9", "train.epochs: are 5,000,000,000 steps; at most 2,147,483,647"),
        ("optim.schedule.warmup=2.5", "optim.schedule.warmup: lasts 12 steps of 10; make it short"),
        ("checkpoint.keep=1", "checkpoint.keep: got 1; must be at least 2"),
        # Splits and image sizes
        ("data.train=train[5:5]", "data.train: 'train[5:5]' holds none of the 40 examples of"),
        ("data.train=train[:7]", "data.batch_size: 8 is more than the 7 training examples; at mo"),
        ("data.train=trian", "'synthetic:8x8,4,40' has no split 'trian'; did you mean train?"),
        ("data.source=synthetic:3x3,4,40", "tiny needs images of at least 4 pixels a side, the"),
        ("data.source=sinthetic:8x8,4,40", "unknown source 'sinthetic'; did you mean synthetic?"),
        ("data.source=idx", "data.source: idx needs a directory; idx:DIR"),
    ],
)
def test_fields(told, override, message):
    assert message in told(2, {}, f"--config.{override}")


@pytest.mark.parametrize(
    "sections, message",
    [
        (
            dict(networks={"student": configs.network("tiny", trainable=True, mean=(1.0,) * 4)}),
            "networks.student.mean: has 4 values; one for each of the 3 channels",
        ),
        (
            dict(networks={
                "student": configs.network("wrn_10_1", trainable=True, options=dict(dropout="no"))
            }),
            "networks.student.options.dropout: is 'no'; 0 ≤ dropout < 1",
        ),
        (
            dict(optim=dict(schedule=dict(name="milestones", base=0.1, at=(1,), factor=-1.0))),
            "optim.schedule: factor = -1.0; must be at least 0",
        ),
        (dict(phases=((1, {"views.x": ""}, 2),)), "phases: got ((1, {'views.x': ''}, 2),); must"),
        (dict(phases=((2, {"views.x": ""}),)), "phases.0: starts at epoch 2; phases follow each"),
        (
            dict(phases=((1, {"terms.ce.weigth": 0.5}),)),
            "phases.0 (terms.ce.weigth): is not a field; did you mean weight?",
        ),
        (
            dict(terms={"joint": configs.term("a2aug", ("x",))}),
            "error: terms.joint: is put on 1 view; an ensemble needs at least 2 in `on`",
        ),
        (
            dict(
                views={name: dict(ops="flip", branch=int(name == "c")) for name in "abc"},
                terms={"joint": configs.term("a2aug", ("a", "b", "c"))},
            ),
            "error: terms.joint.on: its 3 views have 2 BatchNorm branches; give each view a branch",
        ),
        (
            dict(
                views={"a": "", "b": dict(ops="flip", branch=2)},
                terms={"ce": configs.term("cross_entropy", ("a", "b"))},
            ),
            "error: networks.student: no view of it trains BatchNorm branch 1 of the 3 that would",
        ),
        (
            dict(
                views={"a": "mixup(1.0)", "b": "cutmix(1.0)"},
                terms={"joint": configs.term("a2aug", ("a", "b"))},
            ),
            "error: terms.joint.on: views 'a' and 'b' are not labelled alike; start both from one",
        ),
        (
            dict(
                views={"x": "", "a": 'view("x")|flip', "b": 'view("a")|mixup(1.0)'},
                terms={"joint": configs.term("a2aug", ("a", "b"))},
            ),
            "error: terms.joint.on: views 'a' and 'b' are not labelled alike; start both from one",
        ),
        (dict(population=(("seed",),)), "population: got (('seed',),); must be a tuple of pairs"),
        (dict(population=(("terms.ce.wait", (1.0,)),)), "terms.ce.wait: is not a traced number"),
    ],
)
def test_sections(told, sections, message):
    assert message in told(2, sections)


# --- Teachers: what is wrong with the experiment is told before one is trained


def with_teacher(**fields):
    networks = {**TEACHER["networks"], "teacher": dict(name="tiny_wide", **fields)}
    return {**TEACHER, "networks": networks}


@pytest.mark.parametrize(
    "sections, words, message",
    [
        (TEACHER, ["--config.terms.kd.k=5"], "terms.kd.k: got 5; must be at least 1 and at most 4"),
        (TEACHER, ["--config.terms.kd.k=0"], "terms.kd.k: got 0; must be at least 1"),
        (
            {**TEACHER, "population": (("terms.kd.k", (2, 5)),)}, [],
            "terms.kd.k: got 5; must be at least 1 and at most 4",
        ),
        (
            {**TEACHER, "phases": ((1, {"terms.kd.k": 5}),)}, [],
            "phases.0 (terms.kd.k): got 5; must be at least 1 and at most 4",
        ),
        (with_teacher(checkpoint="no"), [], "networks.teacher.checkpoint: 'no' is not a working"),
        (with_teacher(recipe=("train.epochs", 3.0)), [], "networks.teacher.recipe: got ('train."),
        (
            with_teacher(recipe=(("train.epoch", 3.0),)), [],
            "networks.teacher.recipe (train.epoch): there is no such field; did you mean epochs?",
        ),
        (
            with_teacher(recipe=(("optim.schedule.warmup", 3.0),)), [],
            "networks.teacher.recipe (optim.schedule.warmup): lasts 15 steps of 10",
        ),
        # The experiment's own batch does not fit, that of the teacher does.
        (
            with_teacher(recipe=(("data.batch_size", 8),)), ["--config.data.batch_size=6"],
            "error: data.batch_size: 6 cannot be shared by 4 devices",
        ),
        (
            with_teacher(recipe=(("data.batch_size", 6),)), [],
            "networks.teacher.recipe (data.batch_size): 6 cannot be shared by 4 devices",
        ),
    ],
)
def test_teachers(told, sections, words, message):
    assert message in told(2, sections, *words)


def test_a_given_teacher_is_looked_at_before_another_is_trained(told, finished, tmp_path):
    sections = with_teacher(checkpoint=str(finished))
    sections["networks"]["teacher"]["name"] = ""
    sections["networks"]["other"] = configs.network("tiny_wide")
    sections["terms"] = {**TEACHER["terms"], "more": configs.term("kl", ("x",), teacher="other")}
    shutil.rmtree(finished / "checkpoints")
    line = told(4, sections, directory=tmp_path / "student")
    assert f"{finished / 'checkpoints'}: holds no checkpoint; train that network first" in line


# --- Checkpoints and configs of a run that is taken up again


def largest(directory):
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return max(paths, key=lambda path: path.stat().st_size)


def flip(step):
    content = bytearray(largest(step).read_bytes())
    content[len(content) // 2] ^= 1
    largest(step).write_bytes(content)


def cut_short(step):
    largest(step).write_bytes(largest(step).read_bytes()[:-1])


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def unfinished(step):
    step.rename(step.with_name(f"{step.name}.orbax-checkpoint-tmp"))


@pytest.mark.parametrize(
    "damage, said",
    [
        (flip, "is corrupt"),
        (cut_short, "is corrupt"),
        (lambda step: largest(step).unlink(), "is missing"),
        (empty, "it has no manifest: the run ended while it was written"),
        (unfinished, None),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tiny, finished, straight, capsys, damage, said):
    damage(finished / "checkpoints" / "10")
    (finished / "results.json").unlink()
    assert tiny(TWICE) == 0
    shown = capsys.readouterr().out
    assert said is None or "warning: checkpoint of step 10 is passed over: " in shown
    assert said is None or said in shown
    assert "resumed" in shown and "at step 5" in shown
    assert results(finished) == results(straight)
    assert manifest.verify(finished / "checkpoints" / "10") == ""


def test_no_whole_checkpoint_ends_the_run(told, finished):
    for step in (finished / "checkpoints").iterdir():
        flip(step)
    message = f"{finished / 'checkpoints'}: no checkpoint is whole; restore the files from a copy"
    assert message in told(4, TWICE)
    assert message in told(4, TWICE, "--mode=evaluate")


def test_a_checkpoint_that_cannot_be_read_is_passed_over(finished, monkeypatch):
    def unreadable(file, name):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(hashlib, "file_digest", unreadable)
    step = finished / "checkpoints" / "10"
    assert manifest.verify(step).endswith("cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "sections, words, status, message",
    [
        (
            dict(TWICE, optim=dict(weight_decay=0.5)), [], 2,
            "config.json: the run was started with another config (optim.weight_decay: 0.0 -> 0.5)",
        ),
        (
            dict(TWICE, train=dict(epochs=1.0)), ["--allow_config_change"], 2,
            "train.epochs: the run ends at step 5 but stands at 10; use another --workdir",
        ),
        (
            dict(TWICE, networks={"student": configs.network("tiny_wide", trainable=True)}),
            ["--allow_config_change"], 4, "holds another state: 0/network_state/student/",
        ),
        (
            dict(TWICE, data=dict(source="synthetic:8x8,4,48")), ["--mode=evaluate"], 2,
            "the run was trained on other data (data.source: ",
        ),
    ],
)
def test_another_config(told, tiny, finished, straight, sections, words, status, message):
    assert message in told(status, sections, *words)
    # What was refused left no trace: the run is still the run it was.
    assert tiny(TWICE) == 0 and results(finished) == results(straight)


def test_other_data_may_be_allowed(tiny, finished):
    other = dict(TWICE, data=dict(source="synthetic:8x8,4,48"))
    assert tiny(other, "--mode=evaluate", "--allow_config_change") == 0


def test_a_config_of_the_run_that_is_no_json(told, finished):
    (finished / "config.json").write_bytes(b"\xff{")
    assert "config.json: cannot be read as JSON" in told(2, TWICE)


def test_rows_that_are_torn_are_passed_over(tiny, finished, straight):
    rows = (finished / "metrics.jsonl").read_bytes()
    (finished / "metrics.jsonl").write_bytes(b"\xff\0\n3\n{}\n" + rows + b'{"step": 4, "tr')
    assert tiny(TWICE) == 0
    assert (finished / "metrics.jsonl").read_bytes() == rows


# --- The working directory: room, rights, and other runs


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
        (workdir, "write_json", 1, [], "cannot be written (No space left on device); make room"),
        (loop.Writer, "row", 5, [5], "cannot be written (No space left on device); make room"),
        ("tensorboardX.record_writer", "open_file", 0, [], "cannot be written (No space left on"),
    ],
)
def test_a_full_disk(tiny, tmp_path, capsys, monkeypatch, owner, name, call, whole, message):
    if owner == "tensorboardX.record_writer":
        # A device that really is full: the system's own error, as late as it comes.
        monkeypatch.setattr(f"{owner}.{name}", lambda path: open("/dev/full", "wb"))
    else:
        monkeypatch.setattr(owner, name, full_at(call, getattr(owner, name)))
    assert tiny(TWICE) == 4
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


def test_a_second_run(told, finished):
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with workdir.locked(finished):
        assert f"{finished} is in use by {holder}; use another --workdir" in told(2, TWICE)
    (finished / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 7}))
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

    monkeypatch.setattr(workdir.fcntl, "flock", none)
    assert "--workdir: " in (line := told(2, {})) and "cannot be locked (No locks" in line


# --- Data


def folder(directory):
    return f"folder:{made.folder(directory / 'set', made.arrays())}"


def npz(directory, **changes):
    arrays = {name: dict(zip("xy", two, strict=True)) for name, two in made.arrays().items()}
    arrays["train"] |= changes
    pairs = {name: (two["x"], two["y"]) for name, two in arrays.items()}
    return f"arrays:{made.npz(directory / 'set.npz', pairs)}"


def without(directory, name):
    made.idx(directory, made.arrays(channels=1))
    (directory / name).unlink()
    return f"idx:{directory}"


IMAGE, LABEL = made.arrays()["train"]


@pytest.mark.parametrize(
    "source, message",
    [
        # Absent or in parts
        (lambda d: f"idx:{d / 'no'}", "no: is not a directory; these files are wanted"),
        (lambda d: without(d, "t10k-labels-idx1-ubyte"), "has no t10k-labels-idx1-ubyte; these fi"),
        (lambda d: f"cifar10:{d}", "has no data_batch_1.bin, data_batch_2.bin"),
        (lambda d: f"cifar100:{d}", "has no train.bin, test.bin; unpack cifar-100-binary.tar.gz"),
        (lambda d: f"folder:{d}", "holds no folders; the layout is DIR/SPLIT/CLASS/IMAGE.png"),
        (lambda d: f"arrays:{d / 'no.npz'}", "is neither a file nor a registered name;"),
        (lambda d: f"tfds:mini?data_dir={d}", "no prepared set lies here; prepare it once where"),
        (lambda d: "folder:" + "x" * 300, "cannot be read (File name too long)"),
        (lambda d: "synthetic:8x8,4,4000000000000", "does not fit into memory (Unable to allocate"),
        # Labels
        (lambda d: npz(d, y=LABEL - 1), "(train): example 0 has label -1 (4 such); with "),
        (lambda d: npz(d, y=LABEL / 2), "labels are float64; integer class numbers are wanted"),
        (lambda d: npz(d, y=LABEL[:5]), "12 images and 5 labels; one label an image is wanted"),
        # Images of other kinds
        (lambda d: npz(d, x=IMAGE.view(np.int8)), "images are int8 from -128 to 127; uint8 0..255"),
        (lambda d: npz(d, x=IMAGE / 255), "images are float64 from 0.0 to 1.0; uint8 0..255 is wa"),
        (lambda d: npz(d, x=IMAGE[..., :2]), "images have shape (12, 6, 6, 2); [N,H,W,3] or grey"),
        (lambda d: npz(d, x=IMAGE[:0], y=LABEL[:0]), "(train): holds no example; give at least o"),
    ],
)
def test_data(told, tmp_path, source, message):
    place = tmp_path / "data"
    place.mkdir()
    data = dict(source=source(place), batch_size=4, validation="test")
    assert message in told(3, dict(data=data))


def half(file):
    file.write_bytes(file.read_bytes()[:60])


def transparent(file):
    image = Image.open(file).convert("RGBA")
    image.putalpha(128)
    image.save(file)


def deep(file):
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(file)


@pytest.mark.parametrize("device_gb", [2.0, 0.0], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (half, "train/bee/005.png: image 5 is damaged ("),
        (lambda file: file.write_text("text"), "train/bee/005.png: image 5 is neither PNG nor JPE"),
        (transparent, "train/bee/005.png: image 5 is partly transparent; put it on a background"),
        (
            lambda file: Image.new("RGB", (6, 7)).save(file),
            "train/bee/005.png: image 5 has 6×7 pixels, the first one 6×6; bring all to one size",
        ),
    ],
)
def test_an_image(told, tmp_path, damage, message, device_gb):
    data = dict(source=folder(tmp_path), batch_size=4, validation="test", device_gb=device_gb)
    damage(tmp_path / "set" / "train" / "bee" / "005.png")
    assert message in told(3, dict(data=data))


def test_a_test_image_is_told_after_training_and_mended(tiny, tmp_path, capsys):
    data = dict(
        source=folder(tmp_path), batch_size=4, train="stratified(train[:50%])",
        validation="stratified(train[50%:])",
    )
    file = tmp_path / "set" / "test" / "bee" / "003.png"
    whole = file.read_bytes()
    half(file)
    assert tiny(dict(data=data)) == 3
    assert "test/bee/003.png: image 3 is damaged" in one_line(capsys.readouterr().err)
    # Nothing is lost: the run was saved before.
    file.write_bytes(whole)
    deep(file.with_name("001.png"))  # 16-bit grey is an image like any other
    assert tiny(dict(data=data)) == 0
    assert "before, at step 2" in capsys.readouterr().out


# --- Faults and signals while a run is under way


def test_a_loss_that_is_not_finite(tiny, tmp_path, capsys):
    sections = dict(TWICE, phases=((1, {"optim.schedule.base": 1e30}),))
    assert tiny(sections) == 5
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: gradient: not finite at step 6; lower the rate or the weight")
    assert line.endswith("run again with --allow_config_change, to go on from step 5\n")
    assert manifest.steps(tmp_path / "w" / "checkpoints") == [5]
    assert manifest.verify(tmp_path / "w" / "checkpoints" / "5") == ""


def test_sigterm(tiny, straight, tmp_path, capsys, monkeypatch):
    called, advance = [], loop.population.advance

    def signalling(*args):
        called.append(1)
        if len(called) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(*args)

    monkeypatch.setattr(loop.population, "advance", signalling)
    assert tiny(TWICE) == 75
    line = one_line(capsys.readouterr().err)
    assert line == "error: SIGTERM: step 3 is saved; run again to go on\n"
    assert tiny(TWICE) == 0
    assert results(tmp_path / "w") == results(straight)


def fresh(tmp_path, sections, directory):
    """Starts a run in a process of its own."""
    text = SECTIONS.format(sections=sections).replace("def get", (
        "from tests import tiny\ntiny.register()\ndef get"
    ))
    (tmp_path / "fresh.py").write_text(text)
    words = [f"--config={tmp_path / 'fresh.py'}", f"--workdir={directory}"]
    return subprocess.Popen(
        [sys.executable, "main.py", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )


def test_sigterm_to_a_process(tmp_path):
    running = fresh(tmp_path, dict(train=dict(epochs=1e6)), tmp_path / "w")
    while "step " not in running.stdout.readline():
        assert running.poll() is None, running.stderr.read()
    running.send_signal(signal.SIGTERM)
    shown, said = running.communicate(timeout=120)
    assert running.returncode == 75
    assert " is saved; run again to go on" in one_line(said)
    (step,) = manifest.steps(tmp_path / "w" / "checkpoints")[:1]
    assert manifest.verify(tmp_path / "w" / "checkpoints" / str(step)) == ""
