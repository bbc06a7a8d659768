"""What data are recognised by: digests of splits, of contents, and of files that a config names."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data import contents
from kdaug_jax.data.recorded import class_changes, data_changes, data_contents, data_record
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment.named_files import named_files
from kdaug_jax.training import plan
from tests.conftest import tiny_config


def split(image, label, names=("a", "b")):
    return data.from_arrays({"train": (image, label)}, names).splits["train"]


def test_arrays_are_recognised_by_pixels_labels_and_positions():
    image, label = np.full((6, 4, 4, 3), 9, np.uint8), np.array([0, 1, 0, 1, 0, 1])
    first = contents.split_digest(split(image, label))
    assert contents.split_digest(split(image.copy(), label.astype(np.int64))) == first
    other = image.copy()
    other[5, 3, 3, 2] = 1
    swapped = label.copy()
    swapped[:2] = 1, 0
    wider = image.reshape(6, 2, 8, 3)
    part = split(image, label).take(np.array([0, 1, 2, 3, 5, 4]))
    digests = {contents.split_digest(part)} | {
        contents.split_digest(split(*pair))
        for pair in ((other, label), (image, swapped), (wider, label))
    }
    assert len(digests) == 4 and first not in digests


class Reader:
    """A reader of a user's own."""

    size = (4, 4)

    def read(self, rows):
        return np.zeros((len(rows), 4, 4, 3), np.uint8)

    def take(self, rows):
        return self


def test_other_readers_are_recognised_by_their_labels():
    def of(label):
        label = np.array(label, np.int32)
        return contents.split_digest(data.Split(Reader(), label, np.arange(len(label))))

    assert of([0, 1]) == of([0, 1]) != of([1, 0]) != of([0, 1, 1])


@pytest.mark.parametrize(
    "now, line",
    [
        (("a", "b", "c"), ""),
        (("b", "a", "c"), "class 0 was 'a' and is 'b'"),
        (("a", "B", "c"), "class 1 was 'b' and is 'B'"),
        (("a", "b"), "3 classes -> 2, such as 'c'"),
    ],
)
def test_class_names_are_compared_as_they_are(now, line):
    assert class_changes(("a", "b", "c"), now) == ([line] if line else [])
    assert class_changes((), now) == []


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for use, count in (("train", 16), ("validation", 8), ("test", 8)):
        for number in range(count):
            place = tmp_path / "set" / use / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number:02d}.bmp")  # all of one length
    return tmp_path / "set"


def flip_a_byte(folder):
    file = folder / "test" / "a" / "00.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")


def recorded(folder, verify):
    dataset = data.load(f"folder:{folder}", {use: use for use in ("train", "validation", "test")})
    info = data.describe(dataset)
    options = data.ReadOptions(say=lambda line: None)
    return {
        "data": data_record(dataset, info, {}), "contents": data_contents(dataset, verify, options)
    }


@pytest.mark.parametrize("verify", [False, True])
def test_a_change_that_keeps_the_bytes_is_seen_in_contents(folder, monkeypatch, verify):
    if verify:  # as of a large set
        monkeypatch.setattr(contents, "SMALL_IMAGES", 0)
    before = recorded(folder, verify)
    flip_a_byte(folder)
    after = recorded(folder, verify)
    assert after["data"] == before["data"]
    lines = data_changes(before, after["data"], after["contents"])
    assert lines == ["test: the contents of its images differ"]
    if verify:
        assert recorded(folder, False)["contents"] == {}


def test_verifying_a_run(folder, tmp_path, monkeypatch):
    """In larger sets the contents are read where that is asked for."""
    from kdaug_jax.training import loop

    monkeypatch.setattr(contents, "SMALL_IMAGES", 0)
    made = tiny_config(train=dict(epochs=1.0))
    made.data.source = f"folder:{folder}"
    made.data.batch_size = 8
    loop.train(made, tmp_path / "run", stream=io.StringIO())
    with pytest.raises(ConfigError, match="did not record the contents of test, train, validation"):
        evaluate_run(made, tmp_path / "run", verify_data=True, stream=io.StringIO())
    console = io.StringIO()
    loop.train(made, tmp_path / "run", verify_data=True, stream=console)
    assert "they are from now on" in console.getvalue()
    flip_a_byte(folder)
    evaluate_run(made, tmp_path / "run", stream=io.StringIO())
    with pytest.raises(DataError, match="test: the contents of its images differ"):
        evaluate_run(made, tmp_path / "run", verify_data=True, stream=io.StringIO())
    with pytest.raises(DataError, match="test: the contents of its images differ"):
        loop.train(made, tmp_path / "run", verify_data=True, stream=io.StringIO())


def test_files_that_a_config_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("policy.json", "human.npy", "weights.bin", "train", "teacher.npz", "set.npz"):
        (tmp_path / name).write_text(name)
    config = {
        "views": {"x": {"ops": "flip|autoaugment('policy.json')"}},
        "eval": {"human": str(tmp_path / "human.npy"), "sets": (("a", "arrays:set.npz"),)},
        "data": {"train": "train", "source": "set.npz"},
        "terms": {"kd": {"options": {"table": "./weights.bin", "absent": "none.bin"}}},
        "networks": {"teacher": {"checkpoint": "teacher.npz"}},
        "population": (("views.x", ("schedule(\"policy.json\")",)),),
    }
    digests = named_files(config)
    assert set(digests) == {"policy.json", str(tmp_path / "human.npy"), "./weights.bin"}
    (tmp_path / "policy.json").write_text("other")
    changed = {name for name, digest in named_files(config).items() if digest != digests[name]}
    assert changed == {"policy.json"}


def test_a_schedule_that_collapses_is_told(tmp_path):
    segments = [[1, [number % 10] + [0] * 59] for number in range(10)]
    (tmp_path / "s.json").write_text(json.dumps({"segments": segments}))
    view = f"schedule('{tmp_path / 's.json'}', levels='released_scaled')"
    said = []
    plan.plan_run(tiny_config(views={"x": view}), tmp_path / "run", said.append)
    (line,) = [line for line in said if "segments" in line]
    assert line.startswith("warning: views.x.schedule: 9 of 10 segments of ")
    assert "shorter than an epoch of a run of 2 epochs: their policies are never used" in line
    said.clear()
    plan.plan_run(
        tiny_config(views={"x": view}, train=dict(epochs=10.0)), tmp_path / "run", said.append
    )
    assert not [line for line in said if "segments" in line]


def test_another_size_in_evaluation_is_told(tmp_path):
    said = []
    made = tiny_config(views={"x": "resize(6, 6)"})
    plan.plan_run(made, tmp_path, said.append)
    assert "trained on images of 6×6 pixels, evaluated on 8×8" in said
