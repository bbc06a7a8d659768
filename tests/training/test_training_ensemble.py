"""Ensembles of views and networks: how they learn, who is evaluated, what is chosen."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import augment, data, models
from kdaug_jax.augment.policies import randaugment_candidates
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.evaluation.predictors import Selection, plan_predictors, with_selected
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.runtime import checkpoint
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.training.bench import INFO, Bench

VIEWS = {
    "a0": "pad_crop(1)",
    "a1": dict(ops="pad_crop(1)|flip", branch=1),
    "a2": dict(ops="pad_crop(1)|cutout(3)", branch=2),
}
ON = ("a0", "a1", "a2")


def ensemble(views=VIEWS, student="student", **changes):
    options = {name: changes.pop(name) for name in list(changes) if name not in SECTIONS}
    terms = {
        "ce": configs.term("cross_entropy", ON, student=student),
        "joint": configs.term("a2aug", ON, student=student, **options),
    }
    return tiny_config(**{**dict(views=views, terms=terms, train=dict(epochs=4.0)), **changes})


SECTIONS = ("networks", "terms", "train", "optim", "data", "eval")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ensemble")
    console = io.StringIO()
    results = loop.train(ensemble(optim=dict(ema=0.5)), directory, stream=console)[""]
    return directory, results, console.getvalue()


def test_every_branch_and_the_ensemble_are_evaluated(finished):
    directory, results, _ = finished
    root = ("0", "ema")
    params, statistics, term_params = (
        checkpoint.load_subtree(directory / "checkpoints", (*root, *path), print)
        for path in (("params", "student"), ("network_state", "student"),
                     ("params", "terms", "joint"))
    )
    split = data.load("synthetic:8x8,4,40", {"test": "test"}).splits["test"]
    model = models.create("tiny", 4, normalize=(INFO.mean, INFO.std), num_branches=3)
    variables = {"params": params, "batch_stats": statistics}
    logits = np.stack([
        model.apply(variables, split.image, train=False, branches=(branch,))[0].logits
        for branch in range(3)
    ])
    assert not np.allclose(logits[0], logits[1], atol=1e-3)
    weights = np.asarray(jax.nn.softmax(term_params["mu"]))
    every = {f"branch_{i}/": branch for i, branch in enumerate(logits)}
    every |= {"": logits[0], "joint/": np.tensordot(weights, logits, 1)}
    for front, predicted in every.items():
        log_p = np.asarray(jax.nn.log_softmax(predicted))
        nll = -log_p[np.arange(len(split)), split.label].mean()
        np.testing.assert_allclose(results[f"eval/test/{front}nll"], nll, rtol=1e-5)
        right = (predicted.argmax(-1) == split.label).mean()
        np.testing.assert_allclose(results[f"eval/test/{front}accuracy"], right, rtol=1e-6)
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(results[f"eval/test/joint/weight_{i}"], weight, rtol=1e-6)
    assert len(set(weights)) > 1


def test_the_branch_that_counts_is_chosen_on_the_validation_split(finished):
    results = finished[1]
    accuracy = [results[f"eval/validation/branch_{i}/accuracy"] for i in range(3)]
    best = int(np.argmax(accuracy))
    assert results["eval/validation/chosen/number"] == best
    for split in ("validation", "test"):
        for metric in ("accuracy", "nll"):
            expected = results[f"eval/{split}/branch_{best}/{metric}"]
            assert results[f"eval/{split}/chosen/{metric}"] == expected


def test_a_selection_uses_validation_only_and_takes_the_first_of_equals():
    names = ("branch_0", "branch_1", "branch_2")
    numbers = {f"eval/validation/{name}/accuracy": value
               for name, value in zip(names, (0.1, 0.6, 0.6), strict=True)}
    numbers |= {f"eval/test/{name}/accuracy": value
                for name, value in zip(names, (0.9, 0.2, 0.8), strict=True)}
    result = with_selected(numbers, (Selection("chosen", names),))
    assert result["eval/test/chosen/accuracy"] == 0.2
    assert result["eval/validation/chosen/number"] == 1


def test_the_console_shows_branches_ensemble_and_weights(finished):
    text = finished[2]
    for part in ("student, BatchNorm branch 2", "joint of 3 (0.", "chosen on validation: branch_"):
        assert part in text
    assert "student (tiny), branch 0 " in text
    rows = [line for line in text.splitlines() if line.startswith("joint of 3")]
    weights = [float(word) for word in rows[-1].split("(")[1].split(")")[0].split()]
    assert len(weights) == 3 and sum(weights) == pytest.approx(1, abs=0.02)


def test_a_run_is_evaluated_again_from_its_directory(finished):
    directory, results, _ = finished
    again = evaluate_run(ensemble(optim=dict(ema=0.5)), directory, stream=io.StringIO())
    assert again[""] == results


def test_independent_networks_learn_from_their_ensemble(tmp_path):
    names = ("n0", "n1", "n2")
    views = {name: "pad_crop(1)|flip" for name in ON}
    networks = {name: configs.network("tiny", trainable=True) for name in names}
    made = ensemble(views, student=names, networks=networks, train=dict(epochs=2.0))
    results = loop.train(made, tmp_path, stream=io.StringIO())[""]
    accuracy = [results[f"eval/validation/{front}accuracy"] for front in ("", "n1/", "n2/")]
    best = int(np.argmax(accuracy))
    assert results["eval/validation/joint/chosen/number"] == best
    front = ("", "n1/", "n2/")[best]
    assert results["eval/test/joint/chosen/nll"] == results[f"eval/test/{front}nll"]
    assert "eval/test/joint/accuracy" in results and "eval/test/branch_0/accuracy" not in results
    predictors, _ = plan_predictors(configs.validate(made), dict.fromkeys(names, 1))
    assert [predictor.name for predictor in predictors] == ["", "n1", "n2", "joint"]
    assert predictors[-1].members == (("n0", 0), ("n1", 0), ("n2", 0))


def step_of(**options):
    bench = Bench(ensemble(**options))
    start = bench.init(bench.program.hparams)
    state, rows = bench.run(2, state=start)
    return start, state, rows


@pytest.mark.parametrize("form", ["joint_ce", "l2_norm", "kl", "kl_norm"])
@pytest.mark.parametrize("scale", ["sqrt_classes", "mean_norm", 1.0, 10.0])
def test_each_form_and_scale_is_a_config(form, scale):
    program = build_programs(ensemble(form=form, logit_scale=scale), INFO)[0]
    assert program.term_specs[1].bound.static["form"] == form


def test_mu_learns_unless_the_ensemble_is_the_average():
    start, state, rows = step_of(optim=dict(weight_decay=0.1))
    moved = state.params["terms"]["joint"]["mu"]
    assert bool(jnp.all(moved != start.params["terms"]["joint"]["mu"]))
    assert sum(rows[1][f"train/joint/weight_{i}"] for i in range(3)) == pytest.approx(1, abs=1e-6)
    start, state, rows = step_of(adaptive=False, optim=dict(weight_decay=0.1))
    assert not bool(jnp.any(state.params["terms"]["joint"]["mu"]))
    assert rows[1]["train/joint/weight_2"] == pytest.approx(1 / 3)


def test_branches_may_be_shared():
    shared = {
        name: view if isinstance(view, str) else view["ops"] for name, view in VIEWS.items()
    }
    _, state, rows = step_of(views=shared)
    assert state.network_state["student"]["bn"]["mean"].shape[0] == 1
    assert np.isfinite(rows[1]["train/loss"])


def test_views_may_have_several_sizes():
    sizes = {"a0": "random_resized_crop(8)", "a1": dict(ops="random_resized_crop(6)", branch=1),
             "a2": dict(ops="random_resized_crop(4)", branch=2)}
    _, state, rows = step_of(views=sizes)
    assert np.isfinite(rows[1]["train/loss"]) and rows[0]["train/joint"] != rows[1]["train/joint"]
    statistics = state.network_state["student"]["bn"]["mean"]
    assert not np.allclose(statistics[0], statistics[2])


def test_candidates_are_drawn_once_from_a_seed():
    drawn = randaugment_candidates(3, 30)
    assert len(set(drawn)) == 30 and drawn == randaugment_candidates(3, 30)
    assert randaugment_candidates(3, 4) == drawn[:4] != randaugment_candidates(4, 4)
    assert {n for n, _ in drawn} == {1, 2, 3} and {m for _, m in drawn} == set(range(3, 31, 3))
    assert augment.policies.randaugment(*drawn[0], size=(8, 8))
    with pytest.raises(ValueError) as caught:
        randaugment_candidates(0, 31)
    assert caught.value.args == ("got count=31", "must be 1..30")


def joint(views, on=ON, **options):
    terms = {
        "ce": configs.term("cross_entropy", tuple(views)),
        "joint": configs.term("a2aug", on, **options),
    }
    return tiny_config(views=views, terms=terms)


@pytest.mark.parametrize(
    "config, message",
    [
        (joint(VIEWS, ("a0",)), "terms.joint: is put on 1 view; an ensemble needs at least 2"),
        (joint({**VIEWS, "a2": dict(ops="flip", branch=1)}),
         "terms.joint.on: its 3 views have 2 BatchNorm branches; give each view a branch of its"),
        (joint({**VIEWS, "a2": dict(ops="repeat(2)|flip", branch=2)}),
         "terms.joint.on: views 'a0' and 'a2' have other rows; start both from one pool"),
        (joint(VIEWS, student=("student", "student")),
         "terms.joint.student: names 2 networks for 3 views; name one, or one for each view"),
        (joint(VIEWS, student=3), "terms.joint.student: got 3; must be names"),
        (joint(VIEWS, student=("student", "studnet", "student")), "no network 'studnet'"),
        (joint(VIEWS, form="kl2"), "must be one of joint_ce, l2_norm, kl, kl_norm"),
        (joint(VIEWS, logit_scale=0.0), "must be a number more than 0, or sqrt_classes, mean_norm"),
        (joint(VIEWS, logit_scale="log"), "got logit_scale='log'"),
    ],
)
def test_what_does_not_fit(config, message):
    with pytest.raises(ConfigError) as caught:
        build_programs(config, INFO)
    assert message in str(caught.value) and "\n" not in str(caught.value)
