"""Sweeps of counts, of numbers that change together, and of what cannot be swept."""

import io
import shutil

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.experiment.members import columns, hparams, members
from kdaug_jax.experiment.phases import build_programs, resolve_phases
from kdaug_jax.runtime import checkpoint
from kdaug_jax.training import loop, population
from kdaug_jax.types import Batch, Clock
from tests.conftest import tiny_config
from tests.training.bench import INFO

COUNTS = (1, 0, 3)
POLICIES = {
    "randaugment": "randaugment({}, 9)",
    "fixmatch": "fixmatch({})",
    "wei2020": "wei2020({}, 4, translate='uniform')",
}


def images(specs, numbers, info):
    """Returns view x of a few images."""
    height, width = info.size
    pixels = np.random.default_rng(0).integers(0, 256, (6, height, width, 3), np.uint8)
    index = np.arange(6, dtype=np.int32)
    batch = Batch(pixels, index % info.num_classes, index, np.ones(6, bool))
    clock = Clock(np.uint32(3), np.int32(1), np.int32(2))
    make = jax.jit(lambda batch, numbers: views.make(specs, clock, batch, numbers, info, 1))
    return np.asarray(make(batch, numbers)["x"].image)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_swept_count_gives_the_images_of_a_plain_run(policy):
    text, role = POLICIES[policy], POLICIES[policy].partition("(")[0]
    path = f"views.x.{role}.n"
    config = tiny_config(views={"x": text.format(2)}, population=((path, COUNTS),))
    (swept,) = resolve_phases(config, INFO)
    (numbers,) = hparams([swept], members(config.population))
    made = {
        count: images(swept.view_specs, values, INFO)
        for count, values in zip(COUNTS, numbers, strict=True)
    }
    for count in COUNTS:
        (plain,) = resolve_phases(tiny_config(views={"x": text.format(count)}), INFO)
        assert path not in plain.hparams  # a plain run compiles its count
        np.testing.assert_array_equal(made[count], images(plain.view_specs, plain.hparams, INFO))
    assert (made[1] != made[3]).any()


@pytest.mark.parametrize(
    "path, values, message",
    [
        ("views.x.randaugment.space", ("tpu", "paper"), "it is compiled into the program; train a"),
        ("views.x.pad_crop.padding", (1, 2), "it is compiled into the program; train a run for ea"),
        ("train.epochs", (1.0, 2.0), "it is compiled into the program; train a run for each value"),
        ("views.x.randaugment.o", (1, 2), "is not a traced number; did you mean views.x.randaugm"),
        ("views.x.randaugment.n", (1, 101), "n is 101; must be a whole number, 0..100"),
        ("views.x.randaugment.n", (1, 1.5), "is no number that a sweep may vary"),
        ("views.x.randaugment.n", (1, -1), "got -1; must be at least 0"),
    ],
)
def test_what_cannot_be_swept_says_why(path, values, message):
    config = tiny_config(views={"x": "pad_crop(1)|randaugment(2, 9)"}, population=((path, values),))
    with pytest.raises(ConfigError) as caught:
        hparams(build_programs(config, INFO), members(config.population))
    assert str(caught.value).startswith(path.rpartition(".")[0])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_string_has_no_count_to_sweep():
    config = tiny_config(
        views={"x": "randaugment('rand-m9-n2')"}, population=(("views.x.randaugment.n", (1, 2)),)
    )
    with pytest.raises(ConfigError, match="config string 'rand-m9-n2', whose count of ops is comp"):
        resolve_phases(config, INFO)


def test_numbers_that_change_together_are_a_zip():
    grid = (
        (("seed", "views.x.randaugment.n", "views.x.randaugment.m"), ((0, 1, 9), (1, 3, 9))),
        ("terms.ce.weight", (0.5, 1.0)),
    )
    names = [member.name for member in members(grid)]
    assert names == [
        f"seed={seed},terms.ce.weight={weight}" for seed in (0, 1) for weight in (0.5, 1.0)
    ]
    assert [member.overrides["views.x.randaugment.n"] for member in members(grid)] == [1, 1, 3, 3]
    assert dict(columns(grid))["views.x.randaugment.m"] == (9, 9)
    # The first path does not tell these apart.
    pair = ((["seed", "data.x"], [[0, 1], [0, 2]]),)
    assert [member.name for member in members(pair)] == ["seed=0,data.x=1", "seed=0,data.x=2"]
    config = tiny_config(views={"x": "randaugment(2, 3)"}, population=grid)
    (numbers,) = hparams(resolve_phases(config, INFO), members(grid))
    assert [int(values["views.x.randaugment.n"]) for values in numbers] == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "grid, message",
    [
        (((("seed", "terms.ce.weight"), ((0,), (1,))),), "have the row \\(0,\\); write rows of 2"),
        (((("seed", "seed"), ((0, 1),)),), "is there twice"),
        (((("seed", "terms.ce.weight"), ((0, 1.0), (0, 1.0))),), "repeats a value"),
        ((((), ((),)),), "has no values"),
    ],
)
def test_zips_that_make_no_sense(grid, message):
    with pytest.raises(ConfigError, match=message):
        members(grid)


def trained(directory, **sections):
    """Returns results and the last states of a short run on one device."""
    config = tiny_config(mesh=dict(data=1), **sections)
    config.train.epochs = 1.0
    results = loop.train(config, directory, stream=io.StringIO())
    return results, checkpoint.load_subtree(directory / "checkpoints", (), print)


@pytest.mark.slow
@pytest.mark.parametrize("order", [{}, {"data": {"seed": 5}}], ids=["own", "shared"])
@pytest.mark.parametrize("place", ["device", "host"])
def test_members_of_other_seeds_are_the_plain_runs_of_their_seeds(order, place, tmp_path):
    views = {"x": dict(ops="pad_crop(1)|flip", place=place)}
    results, members = trained(
        tmp_path / "sweep", views=views, population=(("seed", (3, 0, 1)),), **order
    )
    plain, states = trained(tmp_path / "plain", views=views, seed=1, **order)
    assert results["seed=1"] == plain[""]
    jax.tree.map(np.testing.assert_array_equal, members["2"], states["0"])


def test_each_run_of_a2aug_has_the_candidates_of_its_seed():
    from configs import a2aug_cifar
    from kdaug_jax.augment.policies import randaugment_candidates

    config = a2aug_cifar.get_config("network=wrn_40_2,n_views=2,runs=3")
    runs = members(config.population)
    assert [member.name for member in runs] == ["seed=0", "seed=1", "seed=2"]
    for seed, member in enumerate(runs):
        drawn = [
            tuple(member.overrides[f"views.a{view}.randaugment.{name}"] for name in ("n", "m"))
            for view in range(2)
        ]
        assert tuple(drawn) == randaugment_candidates(seed, 2)
    info = INFO._replace(size=(32, 32), num_classes=100)
    config.data.classes, config.data.batch_size, config.train.replica_batch_size = 0, 8, 0
    (numbers,) = hparams(resolve_phases(config, info), runs)
    assert [int(values["views.a0.randaugment.n"]) for values in numbers] == [
        randaugment_candidates(seed, 1)[0][0] for seed in range(3)
    ]
    one_for_all = a2aug_cifar.get_config("network=wrn_40_2,n_views=2,runs=3,draw=4")
    assert one_for_all.population == (("seed", (0, 1, 2)),)


def distilled(teacher, **sections):
    """A sweep of weights and seeds under a teacher, on one device."""
    config = tiny_config(
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("tiny_wide", checkpoint=str(teacher)),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher", temperature=4.0),
        },
        population=(("terms.kd.weight", (0.5, 1.0)), ("seed", (0, 1))), mesh=dict(data=1),
        checkpoint=dict(every_steps=5, every_epochs=0.0),
        train=dict(epochs=2.0, allow_weak_teacher=True, **sections),
    )
    return config


@pytest.mark.slow
def test_a_shared_teacher_teaches_all_members_alike(tmp_path, monkeypatch):
    networks = {"student": configs.network("tiny_wide", trainable=True)}
    trained(tmp_path / "teacher", networks=networks)
    config = distilled(tmp_path / "teacher")
    expected = loop.train(config, tmp_path / "alone", stream=io.StringIO())
    runs, compile_both = [], population.SharedCall.compile

    def counting(self):
        call = compile_both(self)
        return call._replace(teach=lambda *inputs: runs.append(1) or call.teach(*inputs))

    monkeypatch.setattr(population.SharedCall, "compile", counting)
    config = distilled(tmp_path / "teacher", share_teacher=True)
    results = loop.train(config, tmp_path / "shared", stream=io.StringIO())
    assert len(runs) == 10 * 2  # once a step for each of two seeds, not of four members
    for member, metrics in expected.items():
        for name in ("eval/test/nll", "eval/validation/nll"):
            np.testing.assert_allclose(results[member][name], metrics[name], rtol=1e-4)

    straight = checkpoint.load_subtree(tmp_path / "shared" / "checkpoints", (), print)
    shutil.rmtree(tmp_path / "shared" / "checkpoints" / "10")
    (tmp_path / "shared" / "results.json").unlink()
    assert loop.train(config, tmp_path / "shared", stream=io.StringIO()) == results
    resumed = checkpoint.load_subtree(tmp_path / "shared" / "checkpoints", (), print)
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)


@pytest.mark.parametrize(
    "sections, message",
    [
        ({}, "train.share_teacher: is set without a frozen network; leave it out"),
    ],
)
def test_a_teacher_that_cannot_be_shared_is_refused(sections, message):
    config = tiny_config(train=dict(share_teacher=True), **sections)
    with pytest.raises(ConfigError, match=message):
        resolve_phases(config, INFO)
