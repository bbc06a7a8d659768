"""Parameters that no loss of a phase reaches stay as they are, and so does what belongs to them."""

import jax
import numpy as np
import pytest

from kdaug_jax.experiment import config as configs
from kdaug_jax.losses import overhaul
from kdaug_jax.training.state import make_init
from kdaug_jax.training.step import make_train_step
from tests.training.bench import Bench, distilled


def two_stages(loss, then=(), **fields):
    """An initial phase of a loss on features alone, as RepDistiller has it, and the main one."""
    section = configs.term(loss, ("x",), teacher="teacher", **fields)
    return distilled(
        views={"x": "flip"},
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("tiny"),
        },
        terms={"ce": configs.term("cross_entropy", ("x",), weight=0.0), loss: section},
        optim=dict(schedule=dict(name="constant", base=0.05), weight_decay=0.1),
        phases=((1, {
            "terms.ce.weight": 1.0, "optim.schedule": dict(name="milestones", base=0.1, at=(1.6,)),
            "optim.restart": True, **dict(then),
        }),),
    )


def moved(before, after):
    """Paths of the arrays that differ."""
    pairs = jax.tree.leaves_with_path(before), jax.tree.leaves(after)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, old), new in zip(*pairs, strict=True) if not np.array_equal(old, new)
    }


CASES = {
    # AB reaches what lies below its feature, FSP likewise; FT first reaches no student at all.
    "ab": (
        dict(features=("f0",)), {"terms.ab.weight": 0.0}, {"student.conv.kernel"}, set(),
    ),
    "fsp": (
        dict(features=("f0", "f1")), {"terms.fsp.weight": 0.0},
        {"student.conv.kernel", "student.bn.scale", "student.bn.bias"}, {"bn"},
    ),
    "ft": (
        dict(features=("f1",), part="paraphraser"),
        {"terms.ft.part": "translator", "terms.ft.weight": 200.0}, {"encoder", "decoder"}, set(),
    ),
}


@pytest.mark.parametrize("loss", CASES)
def test_an_initial_phase_moves_what_it_trains(loss, frozen_teacher):
    fields, then, reached, statistics = CASES[loss]
    config = two_stages(loss, then=then, **fields)
    first, second = (Bench(config, phase=phase) for phase in (0, 1))
    start = first.init(first.program.hparams)
    middle, rows = first.run(first.program.steps_per_epoch)
    assert "train/ce" not in rows[0] and f"train/{loss}" in rows[0]
    trained = moved(start.params, middle.params)
    if loss == "ft":
        assert {path.split(".")[3] for path in trained} == reached
    else:
        assert trained == reached
    assert {path.split(".")[1] for path in moved(start.network_state, middle.network_state)} == (
        statistics
    )
    # The classifier has no momentum either, which the next phase would start with.
    momenta = moved(start.opt_state, middle.opt_state)
    assert not any(".fc." in path for path in momenta)
    end, rows = second.run(2, state=middle)
    assert "train/ce" in rows[0] and ("train/ft" in rows[0]) == (loss == "ft")
    frozen = {path for path in moved(middle.params, end.params) if path.startswith("terms")}
    if loss == "ft":
        assert frozen and all(".translator." in path for path in frozen)
    else:
        assert not frozen


@pytest.mark.parametrize("loss", ["mhgd", "ii_kd"])
def test_the_attention_of_mhgd_is_trained_alone_and_then_fixed(loss, frozen_teacher):
    config = two_stages(
        loss, then={f"terms.{loss}.part": "graphs"}, features=("f0", "f1"), part="attention",
        heads=2,
    )
    first, second = (Bench(config, phase=phase) for phase in (0, 1))
    start = first.init(first.program.hparams)
    middle, rows = first.run(first.program.steps_per_epoch)
    assert f"train/{loss}/attention" in rows[0] and f"train/{loss}/graph" not in rows[0]
    trained = moved(start.params, middle.params)
    assert trained and all(path.startswith(f"terms.{loss}.attention.") for path in trained)
    assert not moved(start.network_state, middle.network_state)
    assert moved(start.term_state, middle.term_state)
    end, rows = second.run(2, state=middle)
    assert f"train/{loss}/graph" in rows[0] and f"train/{loss}/attention" not in rows[0]
    trained = moved(middle.params, end.params)
    assert "student.conv.kernel" in trained
    assert not any(path.startswith("terms") for path in trained)
    assert not moved(middle.term_state, end.term_state)


def test_a_phase_may_begin_with_a_new_optimiser(frozen_teacher):
    config = two_stages("ab", features=("f0",), then={"terms.ab.weight": 0.0})
    first, second = (Bench(config, phase=phase) for phase in (0, 1))
    middle, _ = first.run(first.program.steps_per_epoch)
    fresh = middle.replace(opt_state=first.init(first.program.hparams).opt_state)
    assert moved(fresh.opt_state, middle.opt_state)
    last, after = (
        second.run(1, state=jax.tree.map(np.copy, state))[0] for state in (middle, fresh)
    )
    assert not moved(after.params, last.params) and not moved(after.opt_state, last.opt_state)
    # Later steps of the phase keep their momenta.
    further, _ = second.run(1, state=jax.tree.map(np.copy, last))
    assert moved(last.opt_state, further.opt_state)


def flops(program, bench):
    """Floating point operations of a compiled step."""
    step = jax.jit(make_train_step(program))
    state = bench.init(program.hparams)
    return step.lower(
        state, bench.frozen, bench.batch(0), program.hparams
    ).compile().cost_analysis()["flops"]


def test_a_teacher_of_weight_zero_is_not_run(frozen_teacher):
    def bench(weight, **sections):
        terms = {
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher", weight=weight),
        }
        return Bench(distilled(views={"x": ""}, terms=terms, **sections))

    taught, alone = bench(1.0), bench(0.0)
    assert alone.program.pairs == (("student", "x"),)
    assert flops(alone.program, alone) < 0.8 * flops(taught.program, taught)
    _, rows = alone.run(1)
    assert "train/kd" not in rows[0] and "train/ce" in rows[0]
    # A weight that is scheduled or swept may become another.
    swept = bench(0.0, population=(("terms.kd.weight", (0.0, 1.0)),))
    scheduled = bench(dict(name="linear", base=0.0, end=1.0))
    for other in (taught, swept, scheduled):
        assert other.program.pairs == (("student", "x"), ("teacher", "x"))


def test_margins_of_ofd_are_those_of_the_frozen_teacher(frozen_teacher):
    names = {"student": configs.network("resnet8", trainable=True),
             "teacher": configs.network("resnet8")}
    terms = {
        "ce": configs.term("cross_entropy", ("x",)),
        "ofd": configs.term("ofd", ("x",), teacher="teacher", features=("f1_pre", "f3_pre")),
    }
    bench = Bench(distilled(views={"x": ""}, networks=names, terms=terms))
    bench.frozen = jax.tree.map(lambda leaf: leaf + 0.25, bench.frozen)
    init = make_init(bench.programs[0], bench.frozen)
    margins = init(bench.program.hparams).term_state["ofd"]
    for number, block in (("0", "layer1_0"), ("1", "layer3_0")):
        norm = bench.frozen["teacher"]["params"][block]["bn2"]
        expected = overhaul.closed_margin(norm["scale"][0], norm["bias"][0])
        np.testing.assert_allclose(margins[number]["margin"], expected, rtol=1e-6)
        assert (expected < -0.5).all()
