"""What a checkpoint's text names: paths with commas and @, and the state that is meant."""

import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.frozen.places import Place, checkpoints_of, located, place_of

THERE = {"a", "b", "a,b", "runs/me@host", "c, d"}


def exists(path):
    return path in THERE


@pytest.mark.parametrize(("text", "place"), [
    ("a", Place("a")),
    ("absent", Place("absent")),
    ("a@best", Place("a", best=True)),
    ("a@1200", Place("a", step=1200, bare=True)),
    ("a@step=7", Place("a", step=7)),
    ("a@seed=1,lr=0.5", Place("a", member="seed=1,lr=0.5")),
    ("a@member=2", Place("a", member="2")),
    ("a@seed=1@best", Place("a", member="seed=1", best=True)),
    ("a@best@member=0", Place("a", member="0", best=True)),
    ("a@branch=1@best", Place("a", best=True, branch=1)),
    ("runs/me@host", Place("runs/me@host")),
    ("runs/me@host@3", Place("runs/me@host", step=3, bare=True)),
    ("absent@best", Place("absent", best=True)),
    ("a,b@best", Place("a,b", best=True)),
])  # fmt: skip
def test_a_checkpoint_names_a_path_and_a_choice(text, place):
    assert place_of(text, exists) == place


@pytest.mark.parametrize(("text", "what"), [
    ("a@", "names '@', which is no member"),
    ("a@member=", "which is no member"),
    ("a@best@3", "names '@3', which is a second choice"),
    ("a@3@step=3", "a second choice"),
    ("a@x=1@y=2", "names '@y=2', which is a second choice; write DIR, DIR@best, DIR@STEP, "),
])  # fmt: skip
def test_choices_that_say_nothing_or_too_much(text, what):
    with pytest.raises(ConfigError) as caught:
        place_of(text, exists, "networks.t.checkpoint")
    assert what in str(caught.value) and str(caught.value).startswith("networks.t.checkpoint")


@pytest.mark.parametrize(("text", "checkpoints"), [
    ("a", ("a",)),
    ("a, b", ("a", "b")),
    ("a,b", ("a,b",)),  # such a folder exists
    (("a,b",), ("a,b",)),
    (["a,b", "a"], ("a,b", "a")),
    ("c, d", ("c, d",)),
    ("a@x=1,y=2", ("a@x=1,y=2",)),
    ("a@best,b@3", ("a@best", "b@3")),
    ("a,,b", ("a", "", "b")),
    ("absent,b", ("absent", "b")),
])  # fmt: skip
def test_a_text_is_split_once_and_a_list_never(text, checkpoints):
    assert checkpoints_of(text, exists) == checkpoints
    assert checkpoints_of(checkpoints_of(text, exists), exists) == checkpoints


def test_paths_in_the_working_directory(tmp_path):
    (tmp_path / "t,u").mkdir()
    assert located("workdir:t,u", tmp_path) == (str(tmp_path / "t,u"),)
    assert located("workdir:t, x", tmp_path) == (str(tmp_path / "t"), "x")
    assert located("workdir:t,u@best", tmp_path) == (str(tmp_path / "t,u@best"),)
    assert located("", tmp_path) == ""
