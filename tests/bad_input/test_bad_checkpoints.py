"""Damaged checkpoints and changed configs of a run that is resumed."""

import errno
import hashlib
import os
import shutil

import pytest

from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import manifest
from tests.bad_input.helpers import TWICE, results


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
