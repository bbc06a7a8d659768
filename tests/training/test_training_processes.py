"""Two processes of two devices do what one process of four devices does."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint, manifest
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.data.photographs import photographs
from tests.training.one_process import views_of

ROOT = Path(__file__).parents[2]
STEPS = (0, 1, 5)


def config(**sections):
    settings = dict(
        views={"x": "pad_crop(1)|flip|randaugment(2, 3)", "y": 'view("x")|cutout(2)'},
        terms={"ce": configs.term("cross_entropy", ("x", "y"))},
        checkpoint=dict(every_steps=5, every_epochs=0.0),
        log=dict(every_steps=1),
    )
    return configs.canonical(configs.validate(tiny_config(**{**settings, **sections})))


def launch(task, tmp_path, **given):
    file = tmp_path / f"{task}.json"
    file.write_text(json.dumps(given))
    return subprocess.run(
        [sys.executable, "launch/local.py", "--processes=2", "--devices=2", "--",
         sys.executable, "-m", "tests.training.one_process", task, file],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )


def test_data_and_views_are_the_same_bits(tmp_path):
    own = {
        str(tmp_path / "resident.npz"): config(),
        str(tmp_path / "streamed.npz"): config(data=dict(device_gb=0.0)),
    }
    done = launch("views", tmp_path, configs=own, workdir=str(tmp_path), steps=STEPS)
    assert done.returncode == 0, done.stderr
    expected = views_of(config(), tmp_path, STEPS)
    assert jax.process_count() == 1 and jax.device_count() == 4
    for file in own:
        with np.load(file) as found:
            assert set(found) == set(expected) and len(found) > 10
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=name)
                assert found[name].dtype == array.dtype


def test_crops_while_decoding_are_the_same_bits(tmp_path):
    source = photographs(tmp_path / "photographs", {"train": 12, "validation": 2}, largest=60)
    views = {
        "x": "repeat(2)|random_resized_crop(8)|flip", "clean": "resize_shorter(10)|crop_random(8)"
    }
    mixed = config(
        data=dict(source=f"folder:{source}", test="", workers=0), views=views,
        terms={name: configs.term("cross_entropy", (name,)) for name in views},
        eval=dict(view="center_crop(8)"),
    )
    file = str(tmp_path / "crops.npz")
    done = launch("views", tmp_path, configs={file: mixed}, workdir=str(tmp_path), steps=STEPS)
    assert done.returncode == 0, done.stderr
    expected = views_of(mixed, tmp_path, STEPS)
    with np.load(file) as gathered:
        assert set(gathered) == set(expected) and len(gathered) > 10
        for name, array in expected.items():
            np.testing.assert_array_equal(gathered[name], array, err_msg=name)


def hosted(place, crop="auto"):
    """Two seeds; views whose stages before mixing are carried out at a place."""
    views = {
        "x": "pad_crop(1)|flip|cutout(3)|mixup(0.2)",
        "y": "resize_shorter(9)|crop_random(6)|flip|cutout(2)",
    }
    return config(
        data=dict(crop=crop),
        views={name: dict(ops=text, place=place) for name, text in views.items()},
        terms={name: configs.term("cross_entropy", (name,)) for name in views},
        population=(("seed", (0, 3)),),
    )


def test_stages_on_the_host_are_the_same_bits(tmp_path):
    given = {
        str(tmp_path / "host.npz"): hosted("host"),
        str(tmp_path / "crops.npz"): hosted("host", "host"),
    }
    done = launch("views", tmp_path, configs=given, workdir=str(tmp_path), steps=STEPS)
    assert done.returncode == 0, done.stderr
    # Batches differ, in what the devices are sent, but not the views.
    expected = {
        name: array for name, array in views_of(hosted("device"), tmp_path, STEPS).items()
        if "[1]" in name
    }
    for file in given:
        with np.load(file) as gathered:
            assert {name for name in gathered if "[1]" in name} == set(expected)
            assert len(expected) == len(STEPS) * 2 * 5
            for name, array in expected.items():
                np.testing.assert_array_equal(gathered[name], array, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_the_same_on_host_and_devices(tmp_path):
    """Two epochs of two seeds; the host's side is stopped at step 6 and goes on."""
    directories = {place: tmp_path / place for place in ("device", "host")}
    for place, directory in directories.items():
        stop = {"sigterm": (1, 6)} if place == "host" else {}
        done = launch(
            "train", tmp_path, config=hosted(place), workdir=str(directory), **stop
        )
        assert done.returncode == (75 if stop else 0), done.stderr
    done = launch("train", tmp_path, config=hosted("host"), workdir=str(directories["host"]))
    assert done.returncode == 0, done.stderr
    device, host = directories.values()
    assert len(losses(device)) == 2 * 10 and losses(host) == losses(device)
    stored = [checkpoint.load_subtree(d / "checkpoints", (), print) for d in (device, host)]
    jax.tree.map(np.testing.assert_array_equal, *stored)


def losses(directory):
    return [row["train/loss"] for row in read_rows(directory) if "train/loss" in row]


def test_a_preempted_run_of_two_processes_goes_on_in_one(tmp_path):
    """SIGTERM reaches one of two processes; both save the same step and leave."""
    straight = loop.train(config(), tmp_path / "one", stream=io.StringIO())
    workdir = tmp_path / "two"
    done = launch("train", tmp_path, config=config(), workdir=str(workdir), sigterm=(1, 6))
    assert done.returncode == 75, done.stderr
    (step, *_) = manifest.steps(workdir / "checkpoints")
    assert 6 <= step <= 7 and manifest.verify(workdir / "checkpoints" / str(step)) == ""
    assert done.stderr.count(f"error: SIGTERM: step {step} is saved; run again to go on") == 1
    # One wrote, and what it wrote agrees with a run of one process.
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "one")[:step], rtol=1e-5)
    console = io.StringIO()
    results = loop.train(config(), workdir, stream=console)
    assert f"at step {step}\n" in console.getvalue()
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "one"), rtol=1e-5)
    for name, value in straight[""].items():
        np.testing.assert_allclose(results[""][name], value, rtol=1e-5)
    stored = [
        checkpoint.load_subtree(directory / "checkpoints", ("0", "params"), print)
        for directory in (workdir, tmp_path / "one")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *stored)


@pytest.mark.slow
def test_weights_cut_over_two_processes(tmp_path):
    """Each process stores and saves its parts; one process restores them whole."""
    networks = {"student": configs.network("tapped_broad", trainable=True)}
    whole = config(networks=networks, views={"x": "flip", "y": ""}, train=dict(epochs=1.0))
    networks = {"student": configs.network("tapped_broad", trainable=True, shard="auto")}
    cut = config(
        networks=networks, views={"x": "flip", "y": ""}, train=dict(epochs=1.0), mesh=dict(model=4)
    )
    results = loop.train(whole, tmp_path / "whole", stream=io.StringIO())
    done = launch("train", tmp_path, config=cut, workdir=str(tmp_path / "cut"))
    assert done.returncode == 0, done.stderr
    assert "MB cut over 4 devices" in done.stdout
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=1e-5)
    evaluated = evaluate_run(whole, tmp_path / "cut", stream=io.StringIO())
    for name, value in results[""].items():
        np.testing.assert_allclose(evaluated[""][name], value, rtol=1e-4)
    stored = [
        checkpoint.load_subtree(tmp_path / name / "checkpoints", ("0", "params"), print)
        for name in ("cut", "whole")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *stored)


def test_what_is_wrong_ends_all_processes_with_its_status(tmp_path):
    own = config(data=dict(batch_size=6))
    done = launch("train", tmp_path, config=own, workdir=str(tmp_path / "w"))
    assert done.returncode == 2
    assert "error: data.batch_size: 6 cannot be shared by 4 devices" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "w" / "config.json").exists()
