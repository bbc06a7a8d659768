"""A search end to end: four members, two intervals, resumed, and what it writes."""

import io
import json
import shutil

import jax
import numpy as np
import pytest

from kdaug_jax.augment.policies import read_schedule
from kdaug_jax.errors import ConfigError, Preempted
from kdaug_jax.experiment.config import validate
from kdaug_jax.runtime import checkpoint, signals
from kdaug_jax.search import pba
from kdaug_jax.search import run as searches
from kdaug_jax.training import loop
from tests.conftest import tiny_config


def config(search=None, **sections):
    return tiny_config(**{
        "mode": "search", "views": {"x": "pba(levels='released_scaled')"},
        "data": dict(source="synthetic:8x8,4,40"), "mesh": dict(data=1),
        "train": dict(epochs=3.0), "checkpoint": dict(every_steps=3, every_epochs=0.0, keep=9),
        "search": dict(name="pba", members=4, interval=1, seed=3) | (search or {}), **sections,
    })


def search(directory, **sections):
    stream = io.StringIO()
    return searches.run(config(**sections), directory, stream=stream), stream.getvalue()


def states(directory):
    return checkpoint.load_subtree(directory / "checkpoints", (), print)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    return directory, *search(directory)


def test_a_search_writes_its_schedule(straight):
    directory, results, said = straight
    record = json.loads((directory / "search.json").read_text())
    assert len(results) == 4 and [event["epoch"] for event in record["exploits"]] == [1, 2]
    for event, (epoch, scores) in zip(record["exploits"], record["scores"], strict=False):
        assert epoch == event["epoch"]
        assert scores[event["target"]] == min(scores) and scores[event["source"]] == max(scores)
    final = record["scores"][-1][1]
    assert final[record["winner"]] == max(final)
    assert [values["eval/validation/accuracy"] for values in results.values()] == final
    table = read_schedule(str(directory / "schedule.json"))
    assert table.shape == (3, 60) and not table[0].any()
    assert len(read_schedule(str(directory / "schedule.json"), 27)) == 27
    assert (directory / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "generation 1 of 2: best member" in said


def test_a_search_that_was_stopped_equals_an_unbroken_one(straight, tmp_path):
    """From the checkpoint after the first decision, and from the one before the second."""
    directory, results, _ = straight
    for stop in (9, 12):
        there = tmp_path / str(stop)
        shutil.copytree(directory, there)
        for name in ("results.json", "results.npz", "schedule.json", "search.json"):
            (there / name).unlink(missing_ok=True)
        for place in (there / "checkpoints").iterdir():
            if place.name.isdigit() and int(place.name) >= stop:
                shutil.rmtree(place)
        assert search(there)[0] == results
        for name in ("schedule.json", "search.json"):
            assert (there / name).read_text() == (directory / name).read_text()
        jax.tree.map(np.testing.assert_array_equal, states(there), states(directory))


def test_a_search_that_was_stopped_before_a_decision_makes_it_up(straight, tmp_path, monkeypatch):
    def stopped(*args):
        raise signals.Stop

    with monkeypatch.context() as patch:
        patch.setattr(pba, "exploit", stopped)
        with pytest.raises(Preempted, match="step 5 is saved"):
            search(tmp_path)
    assert search(tmp_path)[0] == straight[1]
    assert (tmp_path / "search.json").read_text() == (straight[0] / "search.json").read_text()
    jax.tree.map(np.testing.assert_array_equal, states(tmp_path), states(straight[0]))


def test_a_member_that_copied_nobody_equals_its_plain_run(straight, tmp_path):
    directory, results, _ = straight
    targets = {event["target"] for event in
               json.loads((directory / "search.json").read_text())["exploits"]}
    member = next(number for number in range(4) if number not in targets)
    plain = config(mode="train", seed=member, data=dict(source="synthetic:8x8,4,40", seed=0))
    alone = loop.train(plain, tmp_path, stream=io.StringIO())
    assert alone[""] == results[f"seed={member}"]


@pytest.mark.parametrize("changes, message", [
    (dict(search=dict(name="")), "search.name: is empty; add --config.search.name=pba"),
    (dict(search=dict(name="pbb")), "search.name: got 'pbb'"),
    (dict(search=dict(members=0)), "search.members: got 0; must be at least 2"),
    (dict(search=dict(members=1)), "search.members: got 1; must be at least 2"),
    (dict(search=dict(interval=3)), "search.interval: 3 epochs are not shorter than the run of 3; "
                                    "--config.search.interval=1 or less"),
    (dict(train=dict(epochs=2.5)), "train.epochs: is 2.5; give a search whole epochs"),
    (dict(population=(("seed", (0, 1)),)), "population: is given, and a search makes its own"),
    (dict(seed=2**32 - 2), "seed: the last member's would be 4294967297; give a smaller seed"),
    (dict(checkpoint=dict(best="")), "checkpoint.best: is empty, and members are compared by it"),
])
def test_bad_searches_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        searches.as_population(validate(config(**changes)))
    assert message in str(caught.value)


@pytest.mark.parametrize("path, message", [
    ("views.x.pba.polcy", "views.x.pba.polcy: is not a traced number; did you mean "),
    ("optim.schedule", "optim.schedule.base: got "),
])
def test_a_path_that_is_no_traced_policy_is_refused(tmp_path, path, message):
    with pytest.raises(ConfigError) as caught:
        search(tmp_path, search=dict(path=path))
    assert message in str(caught.value) and not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_the_search_on_digits_and_its_replay_run_from_the_command_line(run, tmp_path, capsys):
    config, schedule = "--config=configs/digits_search.py", tmp_path / "search" / "schedule.json"
    assert run(f"{config}:smoke", f"--workdir={tmp_path / 'search'}") == 0
    assert run(f"{config}:smoke,schedule={schedule}", f"--workdir={tmp_path / 'replay'}") == 0
    assert "test accuracy" in capsys.readouterr().out
