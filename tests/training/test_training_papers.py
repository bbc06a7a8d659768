"""Recipes of papers 001 and 003, and of what they compare with, through the real step."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.combine import COMBINE
from kdaug_jax.experiment.optim import OPTIMIZERS
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.losses import dml
from kdaug_jax.runtime import checkpoint
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop, teachers
from tests.conftest import tiny_config
from tests.losses_through_step import MAPS
from tests.training.bench import INFO, USER, Bench, distilled

PEERS = {name: configs.network("tiny", trainable=True) for name in ("student", "peer")}


def weight_at(weight, epoch):
    kd = configs.term("kl", ("x",), teacher="teacher", weight=weight, gradient_group="distill")
    program = build_programs(distilled(terms={"kd": kd}, train=dict(epochs=200.0)), INFO)[0]
    plan = program.term_specs[0]
    step = jnp.int32(epoch * program.steps_per_epoch)
    return float(plan.weight.base * plan.weight.multiplier(step))


def test_lambda_follows_the_paper_or_its_code(frozen_teacher):
    paper = dict(name="step_decay", base=0.4, every=60, factor=0.5)
    code = dict(name="milestones", base=0.4, at=(60, 120, 160), factor=0.6)
    for epoch, expected, other in (
        (0, 0.4, 0.4), (59, 0.4, 0.4), (60, 0.2, 0.24), (120, 0.1, 0.144), (180, 0.05, 0.0864),
    ):
        np.testing.assert_allclose(weight_at(paper, epoch), expected, rtol=1e-5)
        np.testing.assert_allclose(weight_at(code, epoch), other, rtol=1e-5)


def rolewise(**sections):
    terms = {
        "ce": configs.term("cross_entropy", ("x",)),
        "kd": configs.term("fitnet", ("x",), teacher="teacher", features=("f1",), weight=0.4,
                           gradient_group="distill"),
    }
    return distilled(**{**dict(terms=terms, views={"x": ""}), **sections})


def test_clipping_comes_after_lambda_and_before_decay_and_spares_the_terms(frozen_teacher):
    optim = dict(combine="clip_per_variable(start=1)", momentum=0.0, weight_decay=0.01,
                 decay="kernels", schedule=dict(base=1.0))
    bench = Bench(rolewise(optim=optim))
    program, batch, hparams = bench.program, bench.batch(0), bench.program.hparams
    state = bench.init(hparams)
    clock = program.clock(state.step, hparams)
    made, *_ = program.make_views(clock, batch, hparams, {}, {})
    context = program.context(made, clock, hparams)

    def part(params, term):
        outputs, _ = program.run_networks(
            params, state.network_state, bench.frozen, {}, context
        )
        raw = program.compute_terms(
            params["terms"], state.term_state, outputs, context
        )[1]
        return raw[program.term_names.index(term)]

    task, kd = (jax.grad(part)(state.params, term) for term in ("ce", "kd"))
    after, _ = bench.step(state, bench.frozen, batch, hparams)
    moved = jax.tree.map(lambda a, b: a - b, state.params, after.params)

    def clipped(task, kd):
        limit, kd = optax.tree.norm(task) / (1 + np.exp(1.0)), 0.4 * kd
        return task + kd * jnp.minimum(1.0, limit / jnp.maximum(optax.tree.norm(kd), 1e-30))

    expected = jax.tree.map(clipped, task["student"], kd["student"])
    for name in ("conv", "fc"):
        expected[name]["kernel"] += 0.01 * state.params["student"][name]["kernel"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), moved["student"], expected
    )
    own = jax.tree.map(lambda g: 0.4 * g, kd["terms"])
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(own)) > 0
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, g, p: g + 0.01 * p * (path[-1].key == "kernel"), own, state.params["terms"]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), moved["terms"], decayed)


NESTEROV = dict(name="sgd", momentum=0.9, nesterov=True)
ADAM = dict(name="adam", eps=1e-5)
CLIP, SUM = "clip_per_variable()", "sum()"


@pytest.mark.parametrize(
    "loss, mode, optimiser, decay, combine",
    [
        *((loss, "paper", NESTEROV, "kernels", CLIP) for loss in ("kd_svd", "mhgd", "ii_kd")),
        ("kl", "code", NESTEROV, "all", SUM), ("rkd_role", "code", NESTEROV, "all", SUM),
        ("at", "code", NESTEROV, "all", SUM), ("kd_svd", "code", NESTEROV, "all", CLIP),
        ("mhgd", "code", ADAM, "kernels", CLIP), ("ii_kd", "code", ADAM, "kernels", CLIP),
    ],
)
def test_each_method_has_its_optimiser_and_decay(
    frozen_teacher, loss, mode, optimiser, decay, combine
):
    """The table of paper 003's code, and the paper's one optimiser for all."""
    features = {"rkd_role": ("logits",), "kl": ()}.get(loss, MAPS)
    options = {"heads": 2} if loss in ("mhgd", "ii_kd") else {}
    options |= {"features": features} if features else {}
    terms = {"ce": configs.term("cross_entropy", ("x",)),
             "kd": configs.term(
                 loss, ("x",), teacher="teacher", gradient_group="distill", **options)}
    made = distilled(terms=terms, views={"x": ""})
    with made.unlocked():
        own = {key: value for key, value in optimiser.items() if key != "name"}
        made.optim = configs.optimizer(
            optimiser["name"], dict(name="milestones", base=1e-3, at=(1,), factor=0.1),
            weight_decay=1e-5, decay=decay, combine=combine, **own,
        )
    plan = build_programs(made, INFO)[0].optimizer
    method = OPTIMIZERS[optimiser["name"]]
    assert plan.method[0] is method and plan.combine[0] is COMBINE[combine.removesuffix("()")]
    assert plan.decay("bias", {}) == (decay == "all") and plan.decay("kernel", {})
    assert plan.groups == ({"task": "task", "distill": "distill"} if combine == CLIP
                           else {"task": "all", "distill": "all"})
    if optimiser is ADAM:
        assert plan.hparams["optim.eps"] == np.float32(1e-5)
    else:
        assert plan.method[1].static["nesterov"] and plan.hparams["optim.momentum"] > 0.89


def test_adam_of_the_code_takes_its_first_step(frozen_teacher):
    made = rolewise()
    with made.unlocked():
        made.optim = configs.optimizer("adam", 1e-3, eps=1e-5, combine=CLIP)
    bench = Bench(made)
    start = bench.init(bench.program.hparams)
    state, _ = bench.run(1, state=start)
    steps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start.params, state.params)
    # As long as the rate, whatever the gradient.
    assert 0.5e-3 < max(jax.tree.leaves(steps["student"])) <= 1.001e-3


def test_mutual_learning_with_a_fixed_teacher_or_a_trained_peer(frozen_teacher):
    """The paper's text has a frozen teacher, its code trains it by the same value."""
    paper = {"ce": configs.term("cross_entropy", ("x",)),
             "dml": configs.term("dml", ("x",), teacher="teacher", symmetric=True, weight=0.4)}
    _, rows = Bench(distilled(terms=paper)).run(2)
    assert rows[1]["train/dml"] > 0
    code = {
        "ce": configs.term("cross_entropy", ("x",)),
        "ce_peer": configs.term("cross_entropy", ("x",), student="peer"),
        "dml": configs.term("dml", ("x",), teacher="peer", symmetric=True, eps=1e-8, weight=0.4),
        "dml_peer": configs.term("dml", ("x",), student="peer", teacher="student", symmetric=True,
                                 eps=1e-8),
    }
    bench = Bench(tiny_config(networks=PEERS, terms=code, optim=dict(momentum=0.0),
                              views={"x": ""}))
    hparams, batch = bench.program.hparams, bench.batch(0)
    state = bench.init(hparams)
    after, rows = bench.step(state, {}, batch, hparams)
    np.testing.assert_allclose(rows["train/dml"][0], rows["train/dml_peer"][0], rtol=1e-5)
    models = {name: bench.program.networks[name].model for name in PEERS}

    def value(own, name, other, weight):
        def said(network, params):
            variables = {"params": params, "batch_stats": state.network_state[network]}
            return models[network].apply(variables, batch.image, train=True)[0].logits

        logits, fixed = said(name, own), said(other, state.params[other])
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.label[:, None], 1)
        return jnp.mean(nll) + weight * jnp.mean(dml(logits, fixed, symmetric=True, eps=1e-8))

    for name, other, weight in (("student", "peer", 0.4), ("peer", "student", 1.0)):
        grads = jax.grad(value)(state.params[name], name, other, weight)
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params[name], grads)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), after.params[name], expected
        )


def test_function_matching_is_one_term_for_each_teacher(frozen_teacher):
    networks = {
        "student": configs.network("tiny", trainable=True),
        "t1": configs.network("tiny_wide"), "t2": configs.network("tiny"),
    }
    terms = {name: configs.term("kl", ("x",), teacher=name) for name in ("t1", "t2")}
    bench = Bench(distilled(
        networks=networks, terms=terms, views={"x": "pad_crop(1)|flip|mixup(1.0)"},
        train=dict(epochs=8.0),
    ))
    _, rows = bench.run(30)
    for row in rows:
        np.testing.assert_allclose(row["train/loss"], row["train/t1"] + row["train/t2"], rtol=1e-5)
    first, last = (np.mean([row["train/loss"] for row in part]) for part in (rows[:5], rows[-5:]))
    assert last < first
    assert {"train/x/disagreement_t1", "train/x/disagreement_t2"} <= set(rows[0])


def test_crd_pick_and_top_k_in_one_run(tmp_path):
    """Contrast on x by its index, a picked pool beside it, top-K on both, a loss of a user's."""
    terms = {
        "ce": configs.term("cross_entropy", ("x",), weight=0.1),
        "kd": configs.term("topk_kl", ("x", "mixed"), teacher="teacher", k=2, weight=0.9,
                           gradient_group="distill"),
        "crd": configs.term("crd", ("x",), teacher="teacher", features=("pooled",), negatives=8,
                            dim=16, weight=0.8, gradient_group="distill"),
        "own": configs.term(f"{USER}:squared", ("mixed",), teacher="teacher", scale=0.01),
    }
    config = distilled(
        terms=terms,
        views={"x": "pad_crop(1)|flip", "mixed": 'view("x")|repeat(2)|cutmix(1.0)|pick("kl")'},
        train=dict(replica_batch_size=4, allow_weak_teacher=True, epochs=4.0),
        optim=dict(combine=CLIP, weight_decay=5e-4),
    )
    console = io.StringIO()
    full = teachers.ensure(config, tmp_path, stream=console)
    results = loop.train(full, tmp_path, stream=console)[""]
    assert np.isfinite(results["eval/test/nll"])
    rows = [row for row in read_rows(tmp_path) if "train/crd" in row]
    assert all(row["train/mixed/ratio"] > 1 for row in rows)
    assert all(0 <= row["train/mixed/disagreement"] <= 1 for row in rows)
    assert rows[-1]["train/crd"] < rows[0]["train/crd"]
    bank = checkpoint.load_subtree(tmp_path / "checkpoints", ("0", "term_state", "crd"), print)
    np.testing.assert_allclose(np.linalg.norm(bank["student"], axis=1), 1, rtol=1e-4)
    # The teacher was trained on the view that nothing is picked for.
    stored = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert stored["config"]["terms"]["ce"]["on"] == ["x"]

