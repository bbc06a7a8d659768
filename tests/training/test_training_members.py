"""Members of a population go on by name when the run is resumed."""

import io
import json
import shutil

import jax
import numpy as np
import pytest

from kdaug_jax.errors import CheckpointError
from kdaug_jax.runtime import checkpoint
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop
from tests.conftest import tiny_config

PATH = "optim.schedule"


def config(values=(0.01, 0.2)):
    return tiny_config(**{
        "data": dict(source="synthetic:8x8,4,40"),
        "population": ((PATH, values),), "train": dict(epochs=2.0), "mesh": dict(data=1),
        "eval": dict(metrics=("accuracy", "nll", "confusion")),
        # Not a divisor of the steps: a checkpoint holds sums that are not in a row yet.
        "log": dict(every_steps=3), "views": {"x": ""},
        "checkpoint": dict(every_steps=5, every_epochs=0.0),
    })


def train(directory, *values):
    return loop.train(
        config(*values), directory, allow_config_change=True, stream=io.StringIO()
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    return directory, train(directory)


@pytest.fixture(scope="module")
def half(straight, tmp_path_factory):
    """The run as it was after five steps of ten, two of which are in no row yet."""
    directory = tmp_path_factory.mktemp("half")
    shutil.copytree(straight[0], directory, dirs_exist_ok=True)
    shutil.rmtree(directory / "checkpoints" / "10")
    for name in ("results.json", "results.npz"):
        (directory / name).unlink()
    return directory


def losses(directory):
    return {
        (row["step"], row["member"]): row["train/loss"]
        for row in read_rows(directory) if "train/loss" in row
    }


@pytest.mark.parametrize("record", ["as it was", "lost"])
def test_values_in_another_order_are_the_same_members(half, straight, tmp_path, record):
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    if record == "lost":
        (tmp_path / "config.json").unlink()
    assert train(tmp_path, (0.2, 0.01)) == straight[1]
    assert losses(tmp_path) == losses(straight[0]) and len(losses(tmp_path)) == 8
    with np.load(tmp_path / "results.npz") as arrays, np.load(
        straight[0] / "results.npz"
    ) as others:
        before, after = list(others["members"]), list(arrays["members"])
        for name in before:
            np.testing.assert_array_equal(
                arrays[f"{after.index(name)}/eval/test/confusion"],
                others[f"{before.index(name)}/eval/test/confusion"],
            )
    stored = checkpoint.load_subtree(tmp_path / "checkpoints", (), print)
    others = checkpoint.load_subtree(straight[0] / "checkpoints", (), print)
    for name in before:
        jax.tree.map(
            np.testing.assert_array_equal,
            stored[str(after.index(name))], others[str(before.index(name))],
        )
    assert json.loads((tmp_path / "config.json").read_text())["members"] == after


@pytest.mark.parametrize(
    "values, message",
    [
        ((0.01, 0.3), "it has no 'optim.schedule=0.3', and it has 'optim.schedule=0.2'; resume wi"),
        ((0.01,), "holds other members: it has 'optim.schedule=0.2'; resume with the population"),
        ((0.01, 0.2, 0.3), "holds other members: it has no 'optim.schedule=0.3'; resume with the"),
    ],
)
@pytest.mark.parametrize("record", ["as it was", "lost"])
def test_other_members_are_refused_by_name(half, tmp_path, values, message, record):
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    if record == "lost":
        (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path, values)
    assert message in str(caught.value) and "params" not in str(caught.value)
