"""Runs on photographs of many sizes: crops while decoding, resuming, members, phases, sets."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop, preview, teachers
from tests.conftest import tiny_config
from tests.data.photographs import photographs

ROOT = Path(__file__).parents[2]
SIDE = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two thousand JPEGs of four classes and hundreds of sizes."""
    directory = tmp_path_factory.mktemp("photographs")
    return photographs(directory, {"train": 400, "validation": 60, "test": 40})


def experiment(photos, **sections):
    """An epoch of 20 steps; crops of 64 pixels, evaluation on the middle."""
    settings = dict(
        data=dict(source=f"folder:{photos}", batch_size=80, workers=0),
        views={"x": f"random_resized_crop({SIDE})|flip", "clean": f"center_crop({SIDE})"},
        networks={
            "student": configs.network("tapped", trainable=True),
            "teacher": configs.network(
                "tapped_wide", recipe=(("views.x", f"inception_crop({SIDE})"),)
            ),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher@clean", gradient_group="distill"),
        },
        eval=dict(view=f"center_crop({SIDE})"),
        train=dict(epochs=1.0, allow_weak_teacher=True),
        log=dict(every_steps=4),
        checkpoint=dict(every_steps=7, every_epochs=0.0),
    )
    for name, value in sections.items():
        settings[name] = {**settings[name], **value} if name in ("data", "eval", "train") else value
    return tiny_config(**settings)


@pytest.fixture(scope="module")
def with_teacher(photos, tmp_path_factory, tiny_family):
    """Gives configs whose teacher is trained already."""
    directory = tmp_path_factory.mktemp("teacher")
    trained = teachers.ensure(experiment(photos), directory, stream=io.StringIO())
    where = str(directory / "teacher")
    assert trained["networks"]["teacher"]["checkpoint"].endswith("teacher")

    def make(**sections):
        config = experiment(photos, **sections)
        if "teacher" in config.networks:
            with config.unlocked():
                config.networks.teacher.checkpoint = where
        return config

    return make


@pytest.fixture(scope="module")
def straight(with_teacher, tmp_path_factory):
    """The run without interruption: its directory, results and console."""
    directory, console = tmp_path_factory.mktemp("straight"), io.StringIO()
    return directory, loop.train(with_teacher(), directory, stream=console), console.getvalue()


def stored(directory):
    return checkpoint.load_subtree(directory / "checkpoints", (), print)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_on_mixed_sizes_says_what_it_sends(straight):
    _, results, console = straight
    assert "1,600 train, 240 validation, 160 test; 4 classes, images of several sizes" in console
    megabytes = 2 * 80 * SIDE * SIDE * 3 / 1e6
    assert f" {megabytes:,.1f} MB a step sent to the devices, 1 step a call" in console
    assert 0 < results[""]["eval/test/accuracy"] <= 1


def test_a_killed_run_resumes_with_the_same_crops(with_teacher, straight, tmp_path):
    config = configs.canonical(configs.validate(with_teacher()))
    script = [sys.executable, "-m", "tests.training.killed_run", json.dumps(config), str(tmp_path)]
    killed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    results = loop.train(with_teacher(data=dict(workers=2)), tmp_path, stream=io.StringIO())
    assert results == straight[1]
    same(stored(tmp_path), stored(straight[0]))


def test_members_of_other_seeds_see_crops_of_their_own(with_teacher, straight, tmp_path):
    config = with_teacher(population=(("seed", (3, 0)),))
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert results["seed=0"] == straight[1][""]
    members = stored(tmp_path)
    same(members["1"], stored(straight[0])["0"])
    kernels = [members[number]["params"]["student"]["fc"]["kernel"] for number in "01"]
    assert (kernels[0] != kernels[1]).any()


def test_members_may_differ_in_a_number_of_the_leading_part(with_teacher, straight, tmp_path):
    path = "views.x.random_resized_crop.scale"
    config = with_teacher(population=((path, ((0.5, 1.0), (0.08, 1.0))),))
    loop.train(config, tmp_path, stream=io.StringIO())
    members = stored(tmp_path)
    same(members["1"], stored(straight[0])["0"])
    kernels = [members[number]["params"]["student"]["fc"]["kernel"] for number in "01"]
    assert (kernels[0] != kernels[1]).any()
    with pytest.raises(ConfigError, match="views.x.random_resized_crop: scale=.* smaller first"):
        loop.train(with_teacher(population=((path, ((1.0, 0.5),)),)), tmp_path / "b")
    with pytest.raises(ConfigError, match="scale: got 2.0"):
        loop.train(with_teacher(population=((path, ((0.5, 2.0),)),)), tmp_path / "c")


def test_a_phase_may_change_the_leading_part(with_teacher, straight, tmp_path):
    changes = {"views.x": f"repeat(1)|resize_shorter({SIDE + 6})|crop_random({SIDE})"}
    config = with_teacher(phases=((0.5, changes),))
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert results[""] != straight[1][""]
    rows = {row["step"]: row for row in read_rows(tmp_path) if "train/loss" in row}
    before = {row["step"]: row for row in read_rows(straight[0]) if "train/loss" in row}
    assert rows[8]["train/loss"] == before[8]["train/loss"]
    assert rows[16]["train/loss"] != before[16]["train/loss"]


def test_pools_and_further_views_of_evaluation(with_teacher, tmp_path):
    config = with_teacher(
        views={
            "x": f"repeat(2)|random_resized_crop({SIDE})|flip",
            "y": 'view("x")|cutout(8)',
            "clean": f"inception_crop({SIDE})|flip",
        },
        networks={"student": configs.network("tapped", trainable=True)},
        terms={"ce": configs.term("cross_entropy", ("x", "y"))},
        eval=dict(metrics=("accuracy", "nll", "effective_classes"), views=("clean",)),
        train=dict(epochs=0.2),
    )
    results = loop.train(config, tmp_path, stream=io.StringIO())
    assert results[""]["eval/validation/view_clean/effective_classes"] >= 1


def test_evaluation_preview_and_further_sets(with_teacher, straight, photos, tmp_path):
    directory, results, _ = straight
    again = evaluate_run(with_teacher(), directory, stream=io.StringIO())
    assert again[""] == {name: results[""][name] for name in again[""]}
    # The test split, as a set of its own: the same numbers.
    copied = shutil.copytree(photos / "test", tmp_path / "set" / "test")
    assert copied.is_dir()
    console = io.StringIO()
    sets = (("again", f"folder:{tmp_path / 'set'}"),)
    more = evaluate_run(with_teacher(eval=dict(sets=sets)), directory, stream=console)
    assert more[""]["eval/again/accuracy"] == results[""]["eval/test/accuracy"]
    assert "again" in console.getvalue().splitlines()[-1]
    path = preview.preview(with_teacher(), tmp_path / "preview", stream=io.StringIO())
    with Image.open(path) as image:
        assert image.size[0] > 4 * SIDE


def test_a_changed_data_set_is_refused_at_resume(with_teacher, photos, tmp_path):
    copied = shutil.copytree(photos, tmp_path / "photos")
    config = with_teacher(data=dict(source=f"folder:{copied}"), train=dict(epochs=0.4))
    loop.train(config, tmp_path / "run", stream=io.StringIO())
    image = copied / "train" / "circle" / "0003.jpg"
    Image.new("RGB", (50, 60)).save(image)
    longer = with_teacher(data=dict(source=f"folder:{copied}"), train=dict(epochs=0.4))
    with pytest.raises(DataError, match="changed since the run was started .train: names, labels"):
        loop.train(longer, tmp_path / "run", stream=io.StringIO())
    os.remove(image)
    with pytest.raises(DataError, match="train: 1,600 examples -> 1,599"):
        evaluate_run(longer, tmp_path / "run", stream=io.StringIO())


def test_what_mixed_sizes_cannot_do_is_told_before_training(with_teacher, tmp_path):
    with pytest.raises(ConfigError, match="views.x: the data set holds images of several sizes"):
        loop.train(with_teacher(views={"x": "flip", "clean": "resize(64, 64)"}), tmp_path / "a")
    with pytest.raises(ConfigError, match="eval.view: the data set holds images of several sizes"):
        loop.train(with_teacher(eval=dict(view="")), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"views.x: data.train, example \d+: .* is larger than"):
        loop.train(
            with_teacher(views={"x": "crop_random(64)", "clean": "resize(64, 64)"}), tmp_path / "c"
        )
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a" / "checkpoints").glob("*"))
