"""The shapes that a job is compiled with are those that a run has; and its report."""

import jax
import numpy as np
import pytest

from kdaug_jax.compile import assumed, measure, programs, report, topologies
from kdaug_jax.compile.hlo import Profile
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.data_sets import load_data
from kdaug_jax.evaluation.run import evaluate_state
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import weight_cuts
from kdaug_jax.training.setup import prepare
from kdaug_jax.training.staging import Staging
from kdaug_jax.training.state import make_init
from tests.conftest import tiny_config

TAUGHT = dict(
    networks={
        "student": configs.network("tiny", trainable=True),
        "teacher": configs.network("tiny_wide", checkpoint="runs/absent"),
    },
    terms={
        "ce": configs.term("cross_entropy", ("x",)),
        "kd": configs.term("kl", ("x",), teacher="teacher"),
    },
)
EXPERIMENTS = {
    "cut weights": tiny_config(
        networks={"student": configs.network("tiny", trainable=True, shard="auto")},
        optim=dict(ema=0.9, momentum=0.9), mesh=dict(model=2),
    ),
    "resident": tiny_config(),
    "streamed": tiny_config(data=dict(device_gb=0.0), train=dict(steps_per_call=5)),
    "host crops": tiny_config(
        data=dict(crop="host"), views={"x": "resize(12, 12)|crop_random(8)", "y": "flip"},
        terms={"ce": configs.term("cross_entropy", ("x", "y"))},
        eval=dict(view="center_crop(8)", metrics=("accuracy", "nll", "ece"), batch_size=50),
    ),
    "views on the host": tiny_config(
        views={"x": dict(ops="flip|cutout(2)|mixup(0.2)", place="host"), "y": "flip"},
        terms={"ce": configs.term("cross_entropy", ("x", "y"))}, train=dict(steps_per_call=2),
    ),
    "averages": tiny_config(
        optim=dict(ema=0.9), train=dict(steps_per_call=2, accumulate=2),
        eval=dict(metrics=("accuracy", "nll", "discrimination")),
    ),
}


def planned(config, directory, dataset=None):
    full = configs.validate(config)
    dataset = dataset or load_data(full["data"], print)
    return programs.plan(full, dataset, jax.devices(), directory)


def like(tree):
    """Shapes, dtypes and shares of the devices."""

    def of(leaf):
        whole = getattr(leaf, "sharding", None)  # numbers of the host are copied to all devices
        return leaf.shape, leaf.dtype, whole.shard_shape(leaf.shape) if whole else leaf.shape

    return jax.tree.map(of, tree)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_calls_have_the_shapes_of_a_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_cuts, "SMALLEST", 16)
    config = EXPERIMENTS[name]
    setup, job = prepare(config, tmp_path, print), planned(config, tmp_path)
    (work,) = programs.training(job)
    count = setup.intervals.call_length(0)
    assert work.steps == count and work.batch_size == 8 and job.intervals == setup.intervals
    assert job.feed.item_bytes == setup.feed.item_bytes
    items = Staging(setup.feed, setup.mesh, 1).take(0, count)[0]
    hparams = setup.hparams[0][0]
    lies = setup.first.state_shardings(setup.mesh)
    state = make_init(setup.first, setup.frozen, lies)(hparams)
    given = state, setup.frozen, setup.feed.constants, items, hparams
    assert like(work.arguments) == like(given)

    called = []

    def step(*arguments):
        called.append(like(arguments))
        return setup.evaluator.step(*arguments)

    evaluator = setup.evaluator._replace(step=step)
    moment = setup.moment(0, 0)[1]
    evaluate_state(evaluator, state, setup.frozen, moment, setup.dataset.splits, "validation")
    assert like(programs.evaluation(job, work).arguments) == called[0]
    setup.feed.close()


def test_teachers_need_no_checkpoint(tmp_path):
    job = planned(tiny_config(**TAUGHT), tmp_path)
    assert job.built_by_name == ("teacher",)
    (work,) = programs.training(job)
    assert work.arguments[1]["teacher"]["params"]["conv"]["kernel"].shape == (3, 3, 3, 8)
    nameless = {**TAUGHT["networks"], "teacher": configs.network("", checkpoint="runs/absent")}
    with pytest.raises(ConfigError, match=r"networks.teacher.*runs/absent"):
        planned(tiny_config(**{**TAUGHT, "networks": nameless}), tmp_path)


def test_phases_and_members(tmp_path):
    config = tiny_config(
        phases=((1, {"views.x": "pad_crop(2)"}),), population=(("seed", (0, 1, 2)),),
    )
    job = planned(config, tmp_path)
    first, second = programs.training(job)
    assert (first.name, second.name, job.members) == ("training", "from epoch 1", 3)
    # What the loop holds beside a call: the states of two members, and the batches of the next.
    states, items = first.beside
    assert len(states) == 2 and items is first.arguments[3]
    beside = programs.evaluation(job, first).beside
    kept = [leaf for leaf in jax.tree.leaves(beside) if leaf.dtype == np.uint8]
    assert [leaf.shape for leaf in kept] == [(40, 8 * 8 * 3)]
    # Weights and momenta of three members, but for the weights that are evaluated.
    kernels = [leaf for leaf in jax.tree.leaves(beside) if leaf.shape == (3, 3, 3, 4)]
    assert len(kernels) == 3 * 2 - 1


def test_large_assumed_data_are_streamed(tmp_path):
    dataset = assumed.dataset_of(assumed.Assumption(128_116, 4, None))
    config = tiny_config(
        data=dict(batch_size=64), views={"x": "random_resized_crop(8)|flip"},
        eval=dict(view="center_crop(8)"),
    )
    job = planned(config, tmp_path, dataset)
    (work,) = programs.training(job)
    assert work.arguments[3]["image"] is None
    assert work.arguments[3]["crops"]["x"].shape == (1, 64, 8, 8, 3)
    assert job.feed.item_bytes == 64 * 8 * 8 * 3 and job.first.total_steps == 2 * 2001


def test_a_batch_that_devices_cannot_share(tmp_path):
    with pytest.raises(ConfigError, match="data.batch_size: 6 cannot be shared by 4 devices; use"):
        planned(tiny_config(data=dict(batch_size=6)), tmp_path)


def test_a_program_is_measured(tmp_path):
    (work,) = programs.training(planned(tiny_config(), tmp_path))
    measured = measure.measure(work, "cpu")
    assert measured.memory.arguments > 40 * 8 * 8 * 3 and measured.memory.beside == 2 * 4
    assert measured.profile.collectives["all-reduce"][0] >= 1
    # One convolution with a stride of 2, its filter's gradient, and a small product with two.
    forward = 8 * 2 * (4 * 3 - 1) ** 2 * 3 * 4
    assert measured.flops == 2 * forward + 3 * (8 * 2 * 4 * 4)
    assert measured.seconds(topologies.CHIPS["v5e"]) is None


MEMORY = measure.Memory(9 << 30, 1 << 20, 3 << 30, 5 << 20, 2 << 30)
PROFILE = Profile(
    3_000_000, 299_000, 1_000, {"all-reduce": (6, 27_600_000)}, {"augment": 2}, 0
)


def lines_of(job, name, **changes):
    calls = programs.training(job)
    base = measure.Measured(calls[0]._replace(steps=2), 4_000_000, MEMORY, PROFILE)
    evaluated = measure.Measured(programs.evaluation(job, calls[0]), 1_000, MEMORY, Profile(
        1_500_000, 0, 0, {}, {}, 0
    ))
    topology = topologies.parse(name)
    text = report.report(topology, job, True, [base._replace(**changes), evaluated])
    return text, [" ".join(line.split()) for line in text.splitlines()]


def test_a_report(tmp_path):
    text, lines = lines_of(planned(tiny_config(**TAUGHT), tmp_path), "v5e:2x2")
    assert lines[0] == "devices v5e:2x2: 4 × cpu, 1 host; compiled for, nothing was run"
    assert lines[1] == (
        "data 40 examples of 4 classes, 8×8 pixels (assumed); kept on every device"
    )
    assert lines[2:4] == [
        "batch 8: 2 a device",
        "networks teacher: taken by name, since there is no checkpoint",
    ]
    assert lines[5] == "of each device training evaluation"
    expected = (
        "steps a call 2 1",
        "memory 14.01 GiB 14.01 GiB",
        "arguments 9.00 GiB 9.00 GiB",
        "program 5.0 MiB 5.0 MiB",
        "fits into 15.75 GiB yes, 88.9 % yes, 88.9 %",
        "all-reduce a step 3, 13.8 MB none",
        "FLOPs a step 500 k 250",
        "elements gathered a step 149.5 k 0",
        "elements scattered a step 500 0",
        "compiler's cycles a step 1.5 M 1.5 M",
        "estimated time a step at least 2 ms 1 ms",
        "images/s of all devices at most 4,000 8,000",
        "run: 10 steps take at least 0.02 s, without evaluation",
    )
    assert [line for line in expected if line not in lines] == [], text
    assert "at 1.5 GHz" in text and "kernels have no estimate: augment (1 a step)" in text


def test_a_report_says_what_the_host_makes(tmp_path):
    _, lines = lines_of(planned(EXPERIMENTS["views on the host"], tmp_path), "v5e:2x2")
    assert lines[3] == "views x: flip|cutout(2) on the host, mixup(0.2) on the devices"


def test_a_report_of_what_does_not_fit(tmp_path):
    job = planned(tiny_config(population=(("seed", (0, 1)),)), tmp_path)
    text, lines = lines_of(
        job, "v5e:2x2", memory=None, profile=None, refusal="Ran out of memory on HBM (20G)."
    )
    assert "memory unknown 14.01 GiB" in lines
    assert "fits into 15.75 GiB no yes, 88.9 %" in lines
    assert "estimated time a step unknown 1 ms" in lines
    assert "training does not fit: Ran out of memory on HBM (20G)." in lines
    assert "population: 2 members take turns; a step is one member's" in lines
    assert not any(line.startswith("run:") for line in lines)
    _, lines = lines_of(job, "v5e:2x2", memory=MEMORY._replace(temporaries=9 << 30))
    assert "fits into 15.75 GiB no, 127.0 % yes, 88.9 %" in lines


def test_a_report_says_unknown_where_nothing_is_told(tmp_path):
    job = planned(tiny_config(), tmp_path)
    text, lines = lines_of(job, "h200:4", profile=PROFILE._replace(cycles=0))
    assert "compiler's cycles a step unknown 1.5 M" in lines
    assert "estimated time a step unknown unknown" in lines
    assert "images/s of all devices unknown unknown" in lines
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in text
    _, lines = lines_of(job, "h200:4", memory=MEMORY._replace(code=0))
    assert "program unknown 5.0 MiB" in lines
    text, lines = lines_of(job, "v5e:2x2", profile=PROFILE._replace(kernels={}, unknown_loops=1))
    assert "estimated time a step at least 2 ms 1 ms" in lines
    assert "loops whose turns are unknown count once" in text


@pytest.mark.parametrize(
    "message, line",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (300.00G) exceeds available HBM (15.75G).",
            "Ran out of memory on HBM, the total memory required for HLO temporaries (300.00G) "
            "exceeds available HBM (15.75G).",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 60.00G of 15.75G hbm. Exceeded hbm capacity by 44.25G.\n\nTotal",
            "Used 60.00G of 15.75G hbm.",
        ),
    ],
)
def test_the_reason_why_something_does_not_fit(message, line):
    assert measure.reason(message) == line
