"""Runs whose weights are cut over devices, beside runs in which every device holds them whole."""

import io
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import checkpoint, weight_cuts
from kdaug_jax.runtime.goodput import Goodput
from kdaug_jax.training import loop, preview, setup, teachers
from kdaug_jax.training.state import as_tree, initial_states, restore_states
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow
# Of the states of two runs after ten steps, whose sums over devices are in another order.
CLOSE = dict(rtol=1e-4, atol=1e-5)
WHOLE, IN_PAIRS, OVER_ALL = dict(), dict(group=2, shard="auto"), dict(shard="auto")


@pytest.fixture(scope="module", autouse=True)
def small_weights():
    """Lets the rule cut the weights of small networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_cuts, "SMALLEST", 16)
        yield


def experiment(teacher="", group=1, shard=""):
    """Two epochs of five steps; a student with everything that a state can hold."""
    return tiny_config(
        views={"x": "flip", "m": 'view("x")|mixup(1.0)'},
        networks={
            "student": configs.network("tapped", trainable=True, shard=shard),
            "teacher": configs.network("tapped_wide", checkpoint=teacher, shard=shard),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term(
                "topk_kl", ("x", "m"), teacher="teacher", k=2, gradient_group="distill"
            ),
        },
        optim=dict(ema=0.9, clip_norm=5.0, weight_decay=1e-4, momentum=0.9),
        train=dict(allow_weak_teacher=True),
        checkpoint=dict(every_steps=5, every_epochs=0.0),
        mesh=dict(model=group),
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained teacher, shared by the runs of this file."""
    directory = tmp_path_factory.mktemp("teacher")
    teachers.ensure(experiment(), directory, stream=io.StringIO())
    return str(directory / "teacher")


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory):
    """Trains ten steps on a mesh, once; gives the directory, the results and the console."""
    runs = {}

    def run(**mesh):
        key = tuple(mesh.items())
        if key not in runs:
            directory, console = tmp_path_factory.mktemp("run"), io.StringIO()
            results = loop.train(experiment(teacher, **mesh), directory, stream=console)
            runs[key] = directory, results, console.getvalue()
        return runs[key]

    return run


def stored(directory):
    return checkpoint.load_subtree(Path(directory) / "checkpoints", (), print)


def as_after_five_steps(directory, to):
    """Copies a run as it was when its first checkpoint was complete."""
    shutil.copytree(directory, to, dirs_exist_ok=True)
    shutil.rmtree(to / "checkpoints" / "10")
    (to / "results.json").unlink()
    return to


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), a, b)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("mesh", [IN_PAIRS, OVER_ALL], ids=["2x2", "4x1"])
def test_ten_steps_with_cut_weights_equal_those_with_whole_ones(trained, mesh):
    (whole, results, _), (cut, cut_results, console) = trained(**WHOLE), trained(**mesh)
    close(stored(whole), stored(cut))
    for name, value in results[""].items():
        assert cut_results[""][name] == pytest.approx(value, abs=1e-4)
    devices = 2 if mesh is IN_PAIRS else 4
    assert f"MB cut over {devices} devices" in console


@pytest.mark.parametrize("mesh", [IN_PAIRS, OVER_ALL], ids=["2x2", "4x1"])
def test_frozen_outputs_keep_their_bits(teacher, tmp_path, mesh):
    predictions = []
    for sections in (WHOLE, mesh):
        ready = setup.prepare(experiment(teacher, **sections), tmp_path, print, record=False)
        predictions.append(preview.first_batch(ready)[1])
        ready.feed.close()
    assert set(predictions[0]) == {("teacher", "x"), ("teacher", "m")}
    same(*predictions)


@pytest.mark.parametrize("mesh", [IN_PAIRS, OVER_ALL], ids=["2x2", "4x1"])
def test_each_device_stores_its_part(teacher, tmp_path, mesh):
    parts = 2 if mesh is IN_PAIRS else 4
    ready = setup.prepare(experiment(teacher, **mesh), tmp_path, print, record=False)
    ready.feed.close()
    (state,) = initial_states(ready)

    def share(array):
        return array.addressable_shards[0].data.size / array.size

    trees = (ready.frozen["teacher"]["params"], state.params["student"],
             state.ema["params"]["student"])
    for tree in trees:
        assert share(tree["conv2"]["kernel"]) == share(tree["fc"]["kernel"]) == 1 / parts
        assert share(tree["fc"]["bias"]) == share(tree["bn2"]["scale"]) == 1
    # Momentum too: all else but BatchNorm and biases is cut.
    sizes = [array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(state)]
    assert sum(sizes) < 1.2 / parts * sum(array.nbytes for array in jax.tree.leaves(state))


@pytest.mark.parametrize("mesh", [WHOLE, IN_PAIRS, OVER_ALL], ids=["whole", "2x2", "4x1"])
def test_a_run_resumes_bit_for_bit_on_the_same_mesh(trained, teacher, tmp_path, mesh):
    directory, results, _ = trained(**mesh)
    resumed = as_after_five_steps(directory, tmp_path / "run")
    console = io.StringIO()
    assert loop.train(experiment(teacher, **mesh), resumed, stream=console) == results
    assert "resumed" in console.getvalue()
    same(stored(resumed), stored(directory))


@pytest.mark.parametrize(
    "before, after", [(IN_PAIRS, WHOLE), (WHOLE, IN_PAIRS), (IN_PAIRS, OVER_ALL)],
    ids=["2x2-whole", "whole-2x2", "2x2-4x1"],
)
def test_a_checkpoint_restores_on_another_mesh(trained, teacher, tmp_path, before, after):
    resumed = as_after_five_steps(trained(**before)[0], tmp_path / "run")
    at_five = stored(resumed)
    ready = setup.prepare(experiment(teacher, **after), resumed, print)
    ready.feed.close()
    with checkpoint.Checkpoints(
        resumed / "checkpoints", keep=2, best="", say=print
    ) as checkpoints:
        states, _ = restore_states(ready, checkpoints, Goodput())
    same(jax.tree.leaves(jax.device_get(as_tree(states))), jax.tree.leaves(at_five))
    loop.train(experiment(teacher, **after), resumed, stream=io.StringIO())
    close(stored(resumed), stored(trained(**WHOLE)[0]))


def test_a_run_with_cut_weights_is_evaluated_and_is_a_teacher(trained, tmp_path):
    directory, results, _ = trained(**IN_PAIRS)
    config = experiment("nowhere", **IN_PAIRS)
    evaluated = evaluate_run(config, directory, stream=io.StringIO())
    for name, value in evaluated[""].items():
        assert results[""][name] == pytest.approx(value, abs=1e-6)
    config = experiment(str(directory))
    config.networks.teacher.name = ""
    ready = setup.prepare(config, tmp_path, print, record=False)
    ready.feed.close()
    weights = stored(directory)["0"]["ema"]["params"]["student"]
    same(jax.device_get(ready.frozen["teacher"]["params"]), weights)


def test_a_student_starts_from_a_cut_teacher(teacher, tmp_path):
    config = experiment(teacher, **IN_PAIRS)
    config.networks.student.update(name="tapped_wide", init="teacher", shard="")
    ready = setup.prepare(config, tmp_path, print, record=False)
    ready.feed.close()
    (state,) = initial_states(ready)
    same(
        jax.device_get(state.params["student"]), jax.device_get(ready.frozen["teacher"]["params"])
    )
