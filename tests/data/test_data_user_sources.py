"""Sources of a user's own module."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.errors import ConfigError, DataError, UserError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SPLITS = {"train": "train", "validation": "test", "test": "test"}
MODULE = '''
import numpy as np
from kdaug_jax import data

image, label = np.zeros((8, 4, 6, 3), np.uint8), np.arange(8) % 2
arrays = {"train": (image, label), "test": (image, label)}
number = 3
given = []


def load(argument):
    given.append(argument)
    return data.from_arrays(arrays, ("cat", "dog"))


def fail(argument):
    raise {"ValueError": ValueError, "TypeError": TypeError, "IndexError": IndexError,
           "OSError": OSError, "MemoryError": MemoryError}[argument]("planted")


def late(argument):
    """Fails when a split is asked for."""
    class Late(dict):
        def __getitem__(self, name):
            fail(argument)
    return data.Dataset(Late(train=None, test=None), ("cat", "dog"))


class Sizeless:
    """Says that sizes differ, but not which they are."""

    size = None

    def read(self, rows):
        return image[rows]

    def take(self, rows):
        return self


class Reader:
    """Images numbered by their rows, made when they are read."""

    def __init__(self, rows, dtype=np.uint8):
        self.rows, self.dtype, self.size = rows, dtype, (4, 6)

    def read(self, rows):
        return np.broadcast_to(self.rows[rows][:, None, None, None], (len(rows), 4, 6, 3)).astype(
            self.dtype
        )

    def take(self, rows):
        return Reader(self.rows[rows], self.dtype)


def split(reader, label=label, index=np.arange(8)):
    return data.Split(reader, label, index)


def made(argument):
    ours = Reader(np.arange(8))
    chosen = {
        "reader": split(ours),
        "floats": split(Reader(np.arange(8), np.float32)),
        "array": split(image),
        "sizeless": split(Sizeless()),
        "labels": split(ours, label + 1),
        "few_images": split(data.ArrayReader(image[:3])),
        "index": split(ours, index=np.arange(3)),
        "pair": (image, label),
    }[argument]
    return data.Dataset({"train": chosen, "test": chosen}, ("cat", "dog"))


def shape(argument):
    base = data.from_arrays(arrays, ("cat", "dog"))
    return {
        "none": None, "pair": (base.splits, base.class_names),
        "names": data.Dataset(base.splits, "cd"), "no_names": data.Dataset(base.splits, ()),
        "splits": data.Dataset([], ("cat", "dog")),
    }[argument]
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of an importable module with sources."""
    name = "sources_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_package").mkdir()
    (tmp_path / f"{name}_package" / "inner.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def fails(source, error=DataError):
    with pytest.raises(UserError) as caught:
        data.load(source, SPLITS)
    assert type(caught.value) is error and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_of_a_module_gets_the_text_after_the_second_colon(module):
    for name in (module, f"{module}_package.inner"):
        for text in (":", "", ":a/b.npz", ":tfds:mnist:3.0.1"):
            dataset = data.load(f"{name}:load{text}", SPLITS)
            assert dataset.class_names == ("cat", "dog")
            assert dataset.splits["train"].image.shape == (8, 4, 6, 3)
        given = __import__(name, fromlist=["given"]).given
        assert given == ["", "", "a/b.npz", "tfds:mnist:3.0.1"]


def test_a_name_that_cannot_be_found(module):
    for source, message in {
        "folde:DIR": "data.source: unknown source 'folde'; did you mean folder?",
        "tfd:mnist:3.0.1": "unknown source 'tfd'; did you mean tfds?",
        "array:mine": "unknown source 'array'; did you mean arrays or tar?",  # a module of Python's
        "/data/set.npz": "unknown source '/data/set.npz'; known: arrays, ",
        f"{module}.load": f"unknown source '{module}.load'; known: ",
        "nowhere:load": "package.module:function:ARGUMENT",
        "nowhere.inner:load": "cannot import 'nowhere.inner:load': there is no module 'nowhere'",
        f"{module}:laod:x": f"module {module} has no 'laod'; did you mean load",
        f"{module}:number": f"{module}:number is int, not a function; write package.module:func",
    }.items():
        assert message in fails(source, ConfigError)


@pytest.mark.parametrize("function", ["fail", "late"])
def test_programming_errors_keep_their_traceback(module, function):
    for kind in (ValueError, TypeError, IndexError, OSError):
        with pytest.raises(kind, match="planted") as caught:
            data.load(f"{module}:{function}:{kind.__name__}", SPLITS)
        assert type(caught.value) is kind and caught.traceback[-1].name == "fail"
    assert "does not fit into memory (planted)" in fails(f"{module}:{function}:MemoryError")


def test_what_is_returned_is_checked(module):
    for argument, message in {
        "shape:none": "returned NoneType, not a Dataset; return kdaug_jax.data.from_arrays(...)",
        "shape:pair": "returned tuple, not a Dataset",
        "shape:names": "has class_names 'cd'",
        "shape:no_names": "example 0 has label 0 (8 such); with 0 classes",
        "shape:splits": 'has splits list; give {"train": Split, ...}',
        "made:floats": "image 0 is read as float32[1, 4, 6, 3]; uint8 [1, 4, 6, 3] is wanted",
        "made:array": "is a Split of ndarray; make it with kdaug_jax.data.from_arrays",
        "made:sizeless": "has a reader without size; give it the attribute sizes and the method",
        "made:labels": "example 1 has label 2 (4 such); with 2 classes it must be 0..1",
        "made:few_images": "3 images and 8 labels",
        "made:index": "index is int64 of shape (3,); numbers 0..7 are wanted",
        "made:pair": "is tuple; make it with kdaug_jax.data.from_arrays",
    }.items():
        line = fails(f"{module}:{argument}")
        assert line.startswith(f"{module}:{argument}") and message in line


def test_worker_processes_import_the_module(module):
    split = data.load(f"{module}:made:reader", SPLITS).splits["train"]
    assert not split.in_memory
    feed, resident = data.streamed(split, 3, 4, workers=1), data.resident(split, 3, 4)
    for step in (0, 1):
        item = feed.item(step)
        np.testing.assert_array_equal(item["index"], resident.item(step))
        np.testing.assert_array_equal(item["image"][:, 0, 0, 0], item["index"])
    feed.close()


def test_the_example_runs(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / "source.py"), run_name="__main__")
    assert "256 images of 16×16 pixels, classes horizontal, vertical" in capsys.readouterr().out
    assert "write source:stripes:256" in fails("source:stripes", ConfigError)
