"""Names of devices that are not there, the data that are assumed, and absent compilers."""

import re
import sys
from importlib import metadata

import jaxlib
import numpy as np
import pytest

from kdaug_jax.compile import assumed, compilers, topologies
from kdaug_jax.errors import ConfigError

GIB = 2**30


@pytest.mark.parametrize(
    "name, platform, sides, memory",
    [
        ("v5e:16x16", "tpu", (16, 16), 15.75 * GIB),
        ("V4:2x2x1", "tpu", (2, 2, 1), 30.75 * GIB),
        ("v5p:8x8x16", "tpu", (8, 8, 16), 95.74 * GIB),
        ("v6e:1x1", "tpu", (1, 1), 31.25 * GIB),
        ("h200:8", "gpu", (8,), 0.75 * 151397597184),
        ("h200:64", "gpu", (64,), 0.75 * 151397597184),
    ],
)
def test_names(name, platform, sides, memory):
    topology = topologies.parse(name)
    assert (topology.name, topology.sides) == (name.lower(), sides)
    assert topology.chip.platform == platform
    assert topology.chip.memory == pytest.approx(memory, abs=1)


@pytest.mark.parametrize(
    "name, line",
    [
        ("", "is missing; such as v5e:16x16, v4:2x2x1 or h200:8"),
        ("v5e:16x15", "there is no 'v5e:16x15'; did you mean v5e:16x16 or"),
        ("v5e-256", "there is no 'v5e-256'; write the sides of the slice, such as v5e:16x16"),
        ("v4:8", "there is no 'v4:8'; write the sides of the slice, such as v4:2x2x2"),
        ("v5:2x2", "there is no 'v5:2x2'; did you mean v5"),
        ("tpu", "there is no 'tpu'; known: h200, v4, v5e, v5p, v6e"),
        ("v4:2x2", "there is no 'v4:2x2'; did you mean v4:2x2x"),
        ("h200:12", "there is no 'h200:12'; h200:N takes up to 8 devices or a multiple of 8"),
        ("h200:0", "there is no 'h200:0'; h200:N takes"),
        ("v5e:", "there is no 'v5e:'; "),
    ],
)
def test_what_is_no_name(name, line):
    with pytest.raises(ConfigError, match=re.escape(f"--topology: {line}")):
        topologies.parse(name)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("examples=1281167,classes=1000,size=mixed", (1281167, 1000, None)),
        ("size=500x375,classes=10, examples=64", (64, 10, (375, 500))),
        ("size=32×32,classes=10,examples=64", (64, 10, (32, 32))),
    ],
)
def test_assumptions(text, expected):
    assert assumed.parse(text) == expected


@pytest.mark.parametrize(
    "text, line",
    [
        ("examples=3", "--assume: has no 'classes'; --assume=examples=1281167,"),
        ("example=3", "--assume: does not know 'example'; did you mean examples?"),
        ("examples", "--assume: does not know 'examples'; did you mean examples?"),
        ("examples=0,classes=1,size=mixed", "--assume: cannot read examples '0'; --assume="),
        ("examples=1e6,classes=1,size=mixed", "--assume: cannot read examples '1e6'; --assume="),
        ("examples=9,classes=1,size=32", "--assume: cannot read size '32'; --assume="),
        ("examples=9,classes=1,size=0x32", "--assume: cannot read size '0x32'; --assume="),
    ],
)
def test_what_is_no_assumption(text, line):
    with pytest.raises(ConfigError, match=re.escape(line)):
        assumed.parse(text)


def test_assumed_data_take_no_memory_and_have_no_pixels():
    dataset = assumed.dataset_of(assumed.Assumption(5_000_000, 10, (224, 224)))
    split = dataset.splits["train"]
    assert len(split) == 5_000_000 and split.image.shape == (5_000_000, 224, 224, 3)
    assert split.image.strides[:3] == (0, 0, 0)
    info = assumed.facts(dataset)
    assert (info.size, info.num_classes, info.mixed) == ((224, 224), 10, "")
    assert np.bincount(info.labels).tolist() == [500_000] * 10
    mixed = assumed.dataset_of(assumed.Assumption(7, 2, None))
    assert assumed.facts(mixed).size is None and assumed.facts(mixed).mixed
    assert mixed.splits["train"].take(np.array([1, 2])).sizes.tolist() == [[500, 375], [375, 500]]
    with pytest.raises(TypeError, match="size alone"):
        mixed.splits["train"].image_at(0)
    with pytest.raises(TypeError, match="sizes alone"):
        mixed.splits["train"].read(np.arange(2))


def test_pixels_of_data_that_are_there_are_not_read(monkeypatch):
    from kdaug_jax import data

    dataset = data.load("synthetic:8x8,4,40", {use: use for use in ("train", "validation")})
    bare = assumed.without_pixels(dataset)
    for name, split in bare.splits.items():
        assert len(split) == len(dataset.splits[name]) and split.size == (8, 8)
        assert not split.image.any() and split.image.strides[0] == 0
        np.testing.assert_array_equal(split.label, dataset.splits[name].label)
    assert bare.class_names == dataset.class_names


@pytest.mark.parametrize("platform, package", [("tpu", "libtpu"), ("gpu", "jax-cuda12-plugin")])
def test_an_absent_compiler_says_how_it_is_installed(platform, package, monkeypatch, tmp_path):
    monkeypatch.delenv(compilers.VARIABLE, raising=False)
    path = list(sys.path)
    line = f'pip install --no-deps --target compilers "{package}'
    with pytest.raises(ConfigError, match="--compilers: is missing, and so is") as error:
        compilers.find(platform, "")
    assert error.value.remedy.startswith(line)
    assert error.value.remedy.endswith("then --compilers=compilers")
    with pytest.raises(ConfigError, match=f"there is no .* in '{tmp_path}'") as error:
        compilers.find(platform, str(tmp_path))
    assert f"--target {tmp_path} " in error.value.remedy
    monkeypatch.setenv(compilers.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=f"there is no .* in '{tmp_path / 'absent'}'"):
        compilers.find(platform, "")
    assert sys.path == path


def test_compilers_are_those_of_the_installed_jax():
    (libtpu,) = compilers.packages("tpu")
    assert any(
        text.startswith(libtpu) and "tpu" in text.split(";")[1]
        for text in metadata.requires("jax") if ";" in text
    )
    assert f"jax-cuda12-pjrt=={jaxlib.__version__}" in compilers.packages("gpu")
