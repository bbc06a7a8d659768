"""Representatives of each kind of loss through the real step; tests/slow has every one."""

import jax
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.losses import LOSSES
from tests.losses_through_step import OPTIONS, config, term
from tests.training.bench import INFO, Bench


def test_every_kind_of_loss_trains_through_the_step(frozen_teacher):
    """Per example and relational, on logits, vectors and maps, with parameters."""
    names = ("cross_entropy", "dkd", "a2aug", "fitnet", "at", "rkd_angle")
    weights = {"dkd": 0.1, "at": 10.0, "rkd_angle": 0.02}
    made = config(names, train=dict(replica_batch_size=4, epochs=6.0))
    for name, weight in weights.items():
        made.terms[name]["weight"] = weight
    bench = Bench(made)
    start = bench.init(bench.program.hparams)
    state, rows = bench.run(30, state=start)
    values = {key: [row[key] for row in rows] for key in rows[0]}
    assert all(np.isfinite(row).all() for row in values.values())
    assert np.mean(values["train/loss"][-5:]) < 0.9 * np.mean(values["train/loss"][:5])
    assert set(state.params["terms"]) == {"a2aug", "fitnet"}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), start.params, state.params)
    assert all(jax.tree.leaves(moved))
    assert "train/a2aug/weight_1" in values


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("sp", dict(features=("f9",)),
         "terms.own.features: student@x has no feature 'f9'; it has logits, f0, f1, pooled"),
        ("sp", dict(features=("f1:f9",)),
         "teacher@x has no feature 'f9'; it has logits, f0, f1, pooled"),
        ("sp", dict(features=()),
         "terms.own.features: 'sp' works on activations; name them as features="),
        ("kl", dict(features=("f1",)), "'kl' takes no features; leave them out"),
        ("sp", dict(features=3), "terms.own.features: got 3; must be names"),
        ("fsp", {}, "terms.own: needs equal widths, the student has [4] and the teacher [8]"),
        ("fsp", dict(features=("f1",)),
         "compares neighbouring features and got 1; name at least 2"),
        ("kd_svd", dict(adapter=False),
         "needs equal widths, the student has 4 channels and the teacher 8; choose other features"),
        ("kd_svd", dict(k=9), "9 singular vectors of 16 pixels with 8 channels"),
        ("kd_svd", dict(mode="both"), "must be 'svd' or 'project'"),
        ("kd_svd", dict(features=("f1",)), "name at least 2"),
        ("mhgd", dict(features=("f1",)), "name at least 2"),
        ("mhgd", dict(heads=0), "got heads=0; must be at least 1"),
        ("at", dict(features=("pooled",)),
         "works on maps [B,H,W,C], got [8, 4]; choose a feature before"),
        ("at", dict(p=0), "got p=0; must be at least 1"),
        ("fitnet", dict(features=("pooled",)), "works on maps [B,H,W,C]"),
        ("ft", dict(share=0.0), "must be more than 0 and at most 1"),
        ("cc", dict(dim=0), "got dim=0; must be at least 1"),
        ("topk_kl", dict(k=0), "terms.own.k: got 0; must be at least 1"),
        ("topk_kl", dict(k=5), "at most 4 (num classes)"),
        ("dkd", dict(temperature=0.0), "terms.own.temperature: got 0.0; must be more than 0"),
        ("dist", dict(temperature=-1.0), "must be more than 0"),
        ("mlkd", dict(temperatures=(4.0, 0.0)), "must be numbers more than 0"),
        ("a2aug", dict(on=("x",)), "terms.own: is put on 1 view; an ensemble needs at least 2"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line_before_any_work(
    frozen_teacher, name, changes, message
):
    on = changes.get("on", ("x",))
    section = {**term(name), **changes, "on": on}
    terms = {"ce": configs.term("cross_entropy", ("x",)), "kd": term("kl"), "own": section}
    with pytest.raises(ConfigError) as caught:
        build_programs(config(("cross_entropy",), terms=terms), INFO)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, min_group", [("sp", 2), ("rkd_angle", 3), ("ii_kd", 3), ("dist", 2)]
)
def test_groups_that_are_too_small_are_refused(frozen_teacher, name, min_group):
    for train, path in (
        (dict(replica_batch_size=min_group // 2 or 1), "train.replica_batch_size"),
        (dict(accumulate=8), "data.batch_"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_programs(config((name,), train=train), INFO)
        assert f"terms.{name}: '{name}' compares examples and {path}" in str(caught.value)
        assert f"it needs at least {min_group}" in str(caught.value)


def test_several_teachers_have_logits_only(frozen_teacher):
    sections = dict(
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("tiny_wide"), "other": configs.network("tiny"),
        },
        terms={"own": term("rkd_distance", teacher=("teacher", "other"), features=("f1:logits",))},
    )
    assert build_programs(config(("kl",), **sections), INFO)
    sections["terms"]["own"]["features"] = ("f1",)
    with pytest.raises(ConfigError) as caught:
        build_programs(config(("kl",), **sections), INFO)
    assert "teacher@x and other@x have no feature 'f1'; they have logits" in str(caught.value)


def test_every_loss_has_a_line_in_the_sweep():
    needs = {name for name, row in LOSSES.items() if getattr(row, "features", "")}
    assert needs <= set(OPTIONS) and set(OPTIONS) <= set(LOSSES)
