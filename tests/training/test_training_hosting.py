"""Stages of views that the host carries out: the same bits, and what is sent instead of images."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import hosting, loop, preview, setup
from kdaug_jax.training.staging import Staging
from tests.conftest import tiny_config

ROOT = Path(__file__).parents[2]
OPS = {
    "x": "pad_crop(1)|flip|cutout(3)",
    "mixed": "flip|repeat(2)|mixup(0.2)",
    "again": 'view("x")|cutout(2)',
}
BOTH = (("seed", (0, 3)), ("views.x.cutout.length", (3, 5)))


def config(place, **sections):
    """Two epochs of 10 steps of 4 images; `place` of the views that start from stored images."""
    ops = sections.pop("ops", OPS)
    settings = dict(
        views={
            name: dict(ops=text, place="auto" if text.startswith("view") else place)
            for name, text in ops.items()
        },
        terms={"ce": configs.term("cross_entropy", tuple(ops))},
        data=dict(batch_size=4), checkpoint=dict(every_steps=7, every_epochs=0.0),
        log=dict(every_steps=1),
    )
    for name, value in sections.items():
        settings[name] = {**settings.get(name, {}), **value} if name == "data" else value
    return tiny_config(**settings)


def trained(given, directory):
    console = io.StringIO()
    results = loop.train(given, directory, stream=console)
    return results, console.getvalue()


def losses(directory):
    return [
        (row["step"], row.get("member"), row["train/loss"])
        for row in read_rows(directory) if "train/loss" in row
    ]


def assert_same(a, b):
    """Losses of every step and final parameters, bit for bit."""
    assert losses(a) and losses(a) == losses(b)
    stored = [
        checkpoint.load_subtree(directory / "checkpoints", (), print) for directory in (a, b)
    ]
    jax.tree.map(np.testing.assert_array_equal, *stored)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_family):
    """All views on the devices: two seeds, each with two lengths."""
    directory = tmp_path_factory.mktemp("device")
    return directory, *trained(config("device", population=BOTH), directory)


def test_members_of_two_seeds_and_lengths_train_the_same(straight, tmp_path):
    directory, results, console = straight
    assert "on the host" not in console and "sent to the devices" not in console
    hosted, said = trained(config("host", population=BOTH), tmp_path)
    assert hosted == results
    assert_same(tmp_path, directory)
    assert "  pad_crop(1)|flip|cutout(3) on the host\n" in said
    assert "  flip on the host, repeat(2)|mixup(0.2) on the devices\n" in said
    # Of four members of two seeds four of x, which cut differently, and two of mixed.
    megabytes = (4 + 2) * 4 * 8 * 8 * 3 / 1e6
    assert f"{megabytes:,.1f} MB a step sent to the devices" in said


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_views(straight, tmp_path):
    given = configs.canonical(configs.validate(config("host", population=BOTH)))
    script = [sys.executable, "-m", "tests.training.killed_run", json.dumps(given), str(tmp_path)]
    killed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    results, said = trained(config("host", population=BOTH), tmp_path)
    assert "resumed" in said and results == straight[1]
    assert_same(tmp_path, straight[0])


@pytest.mark.slow
def test_a_run_may_change_the_place_when_it_is_resumed(tmp_path):
    results, _ = trained(config("device"), tmp_path / "device")
    trained(config("host", train=dict(epochs=1.0)), tmp_path / "both")
    console = io.StringIO()
    again = loop.train(
        config("device"), tmp_path / "both", allow_config_change=True, stream=console
    )
    changed = [line for line in console.getvalue().splitlines() if "config changed" in line]
    assert changed == ["config changed: train.epochs: 1.0 -> 2.0"]
    assert again == results
    assert_same(tmp_path / "both", tmp_path / "device")


def staged(given, directory, steps):
    """What members' steps are given of images, as the devices hold it."""
    ready = setup.prepare(given, directory, print, record=False)
    staging = Staging(ready.feed, ready.mesh, len(ready.members))
    try:
        return ready, [staging.take(step, 1) for step in steps]
    finally:
        ready.feed.close()


def test_only_what_the_devices_need_is_sent(tmp_path):
    given = config("host", population=BOTH)
    ready, (first, _) = staged(given, tmp_path, (0, 13))
    assert not jax.tree.leaves(ready.feed.constants)
    assert all(items["image"] is None and set(items["crops"]) == {"x", "mixed"} for items in first)
    # Members of one seed share what no number of theirs changes.
    mixed = [items["crops"]["mixed"] for items in first]
    assert mixed[0] is mixed[1] and mixed[2] is mixed[3] and mixed[0] is not mixed[2]
    different = {id(items["crops"]["x"]) for items in first}
    assert len(different) == 4
    sent = {id(array): array.nbytes for items in first for array in items["crops"].values()}
    assert ready.feed.item_bytes == sum(sent.values())
    # A view that starts from stored images on the devices has them sent too.
    one = config("host", ops={"x": "flip", "plain": ""})
    ready, (items,) = staged(one, tmp_path, (0,))
    assert items[0]["image"].shape == (1, 4, 8, 8, 3) and set(items[0]["crops"]) == {"x"}
    assert ready.feed.item_bytes == 2 * 4 * 8 * 8 * 3


def test_steps_may_be_asked_for_in_any_order(tmp_path):
    ready = setup.prepare(config("host"), tmp_path, print, record=False)
    try:
        straight = [ready.feed.item(step) for step in range(20)]
        assert len({item["made"]["0/x"].tobytes() for item in straight}) == 20
        for step in (13, 4, 5, 19, 0):
            jax.tree.map(np.testing.assert_array_equal, ready.feed.item(step), straight[step])
    finally:
        ready.feed.close()


@pytest.mark.parametrize("cores", [1, 3])
def test_any_number_of_cores_gives_the_same_bytes(cores, monkeypatch, tmp_path):
    expected = staged(config("host"), tmp_path, (3,))[1]
    monkeypatch.setattr(hosting, "cores", lambda: cores)
    given = staged(config("host"), tmp_path, (3,))[1]
    jax.tree.map(np.testing.assert_array_equal, given, expected)


@pytest.mark.slow
def test_crops_while_decoding_come_before(tmp_path):
    """Draws of a pool among them; a view without stages for the host stays with its crop."""
    ops = {
        "x": "repeat(2)|resize_shorter(9)|crop_random(6)|flip|cutout(2)|mixup(0.2)",
        "y": "random_resized_crop(6)|flip", "z": "resize(6, 6)",
    }
    for place in ("device", "host"):
        given = config(place, ops=ops, data=dict(crop="host"), eval=dict(view="center_crop(6)"))
        _, said = trained(given, tmp_path / place)
    assert (
        "repeat(2)|resize_shorter(9)|crop_random(6) while images are decoded, "
        "flip|cutout(2) on the host, mixup(0.2) on the devices\n" in said
    )
    assert "resize(6, 6) while images are decoded\n" in said
    assert_same(tmp_path / "host", tmp_path / "device")


@pytest.mark.slow
def test_a_phase_may_change_stages_and_place(tmp_path):
    changes = (
        (0.5, {"views.x": "flip|randaugment(1, 3)"}), (1.0, {"views.x.place": "device"}),
        (1.5, {"views.x": "pad_crop(2)", "views.x.place": "host"}),
    )
    device = tuple(
        (epoch, {path: text for path, text in change.items() if "place" not in path}
         or {"optim.momentum": 0.9})
        for epoch, change in changes
    )
    _, said = trained(config("host", phases=changes), tmp_path / "host")
    trained(config("device", phases=device), tmp_path / "device")
    assert_same(tmp_path / "host", tmp_path / "device")
    lines = [line.split(maxsplit=2)[2] for line in said.splitlines() if "place x" in line]
    assert lines == [
        "pad_crop(1)|flip|cutout(3) on the host",
        "flip|randaugment(1, 3) on the host, from epoch 0.5",
        "all on the devices, from epoch 1",
        "pad_crop(2) on the host, from epoch 1.5",
    ]


def test_evaluation_and_preview_see_the_same(tmp_path):
    pictures, evaluated = [], dict(metrics=("accuracy", "nll", "effective_classes"), views=("x",))
    for place in ("device", "host"):
        given = config(
            place, ops={"x": "flip|cutout(3)|mixup(0.2)"}, eval=evaluated, train=dict(epochs=0.5)
        )
        results, _ = trained(given, tmp_path / place)
        path = preview.preview(given, tmp_path / f"preview_{place}", stream=io.StringIO())
        with Image.open(path) as image:
            pictures.append((results, np.asarray(image)))
    assert pictures[0][0] == pictures[1][0]
    np.testing.assert_array_equal(pictures[0][1], pictures[1][1])


def test_a_host_without_a_cpu_backend_is_refused(run, tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(
        "from tests.conftest import tiny_config\n"
        'def get_config():\n    return tiny_config(views={"x": dict(ops="flip", place="host")})\n'
    )
    jax.config.update("jax_platforms", "cuda")
    try:
        assert run(f"--config={file}", f"--workdir={tmp_path / 'w'}") == 2
    finally:
        jax.config.update("jax_platforms", None)
    assert capsys.readouterr().err == (
        "error: views.x.place: 'host' needs JAX's CPU backend, and JAX_PLATFORMS is 'cuda'; set "
        "JAX_PLATFORMS=cuda,cpu\n"
    )
    assert not (tmp_path / "w" / "config.json").exists()
