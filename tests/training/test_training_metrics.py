"""Metrics of whole runs: their values, on any number of devices, and what is refused."""

import io
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from kdaug_jax import data, metrics
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.build import lowest_is_best
from kdaug_jax.evaluation.data_sets import load_human
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.evaluation.metric_table import METRICS
from kdaug_jax.evaluation.run import evaluate_state, variables_of
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import manifest
from kdaug_jax.runtime.checkpoint import Checkpoints
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop, teachers
from kdaug_jax.training.plan import plan_run
from kdaug_jax.training.setup import prepare
from kdaug_jax.training.state import initial_states
from tests.conftest import tiny_config

EVERY = tuple(METRICS)
SOURCE = "synthetic:8x8,6,52"  # test and validation are 13 examples: never whole batches


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    counts = np.random.default_rng(0).multinomial(50, np.full(6, 1 / 6), 13)
    counts[:, 0] = 0  # a class that nobody names
    path = tmp_path_factory.mktemp("human") / "counts.npy"
    np.save(path, counts)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    directory = tmp_path_factory.mktemp("teacher")
    networks = {"student": configs.network("tiny_wide", trainable=True)}
    loop.train(
        tiny_config(data=dict(source=SOURCE), networks=networks), directory, stream=io.StringIO()
    )
    return str(directory)


@pytest.fixture(scope="module")
def distilled(teacher, human):
    def make(**sections):
        settings = dict(
            data=dict(source=SOURCE),
            views={"x": "pad_crop(2)|flip", "m": 'view("x")|cutmix(1.0)', "z": "repeat(2)|flip"},
            networks={
                "student": configs.network("tiny", trainable=True),
                "teacher": configs.network("", checkpoint=teacher),
            },
            terms={"ce": configs.term("cross_entropy", ("x",)),
                   "kd": configs.term("kl", ("x", "m"), teacher="teacher")},
            train=dict(allow_weak_teacher=True, epochs=1.0),
            eval=dict(
                metrics=EVERY, bins=5, views=("x", "m"), human=str(human), batch_size=5,
            ),
        )
        return tiny_config(**{**settings, **sections})

    return make


@pytest.fixture(scope="module")
def evaluated(distilled, tmp_path_factory):
    """What the first state of a run gives on the test split, by number of devices."""

    def on(devices, **sections):
        config = distilled(mesh=dict(data=devices), **sections)
        setup = prepare(configs.validate(config), tmp_path_factory.mktemp("w"), print, record=False)
        setup.feed.close()
        return setup, initial_states(setup)[0]

    return on


def evaluate(setup, state, use):
    splits = setup.dataset.splits
    return evaluate_state(setup.evaluator, state, setup.frozen, setup.moment(0, 0)[1], splits, use)


@pytest.fixture(scope="module")
def tested(evaluated):
    setup, state = evaluated(1)
    return setup, state, evaluate(setup, state, "test")


def logits_of(setup, state, name, images):
    network = setup.first.networks[name]
    variables = variables_of(state, name) if network.trainable else setup.frozen[name]
    outputs, _ = network.model.apply(variables, images, train=False)
    return np.asarray(outputs.logits), np.asarray(outputs.features["pooled"])


def test_values_are_those_of_numpy_and_scikit_learn(tested, human):
    setup, state, (numbers, arrays) = tested
    split = setup.dataset.splits["test"]
    (logits, pooled), (taught, _) = (
        logits_of(setup, state, name, split.image) for name in ("student", "teacher")
    )
    label, rows = split.label, np.arange(13)
    p, q = (np.asarray(jax.nn.softmax(z.astype(np.float64))) for z in (logits, taught))
    answer = p.argmax(1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        label, answer, average="macro", zero_division=0
    )
    shares = np.load(human) / np.load(human).sum(1, keepdims=True)
    filled = np.where(shares > 0, shares, 1)
    confidence, right = p.max(1), answer == label
    bins = np.ceil(confidence * 5).astype(int) - 1
    count = np.bincount(bins, minlength=5)
    gap = np.abs(np.bincount(bins, right, 5) - np.bincount(bins, confidence, 5))
    expected = {
        "accuracy": right.mean(),
        "top5": (np.argsort(-p, 1)[:, :5] == label[:, None]).any(1).mean(),
        "nll": -np.log(p[rows, label]).mean(),
        "brier": ((p - np.eye(6)[label]) ** 2).sum(1).mean(),
        "precision": precision, "recall": recall, "f1": f1,
        "ece": gap.sum() / 13,
        "mce": (gap / np.maximum(count, 1)).max(),
        "agreement": (answer == q.argmax(1)).mean(),
        "predictive_kl": (q * np.log(q / p)).sum(1).mean(),
        "effective_classes": np.exp(-(p * np.log(p)).sum(1)).mean(),
        "human_kl": (shares * np.log(filled / p)).sum(1).mean(),
        "human_cross_entropy": -(shares * np.log(p)).sum(1).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            numbers[f"eval/test/{name}"], value, rtol=1e-5, atol=1e-6, err_msg=name
        )
    np.testing.assert_array_equal(
        arrays["eval/test/confusion"], confusion_matrix(label, answer, labels=range(6))
    )
    np.testing.assert_array_equal(arrays["eval/test/reliability_count"], count)
    assert arrays["eval/test/human_kl_matrix"].shape == (6, 6)
    present = np.unique(label)
    np.testing.assert_allclose(
        arrays["eval/test/human_class_means"][present],
        [shares[label == number].mean(0) for number in present], rtol=1e-5,
    )
    mask = np.ones(13, bool)
    sums = metrics.unit_sums(pooled, label, mask, metrics.moments(pooled, mask), 6)
    expected = metrics.class_discrimination(sums)
    for name in ("cohesion", "adhesion", "discrimination"):
        np.testing.assert_allclose(
            numbers[f"eval/test/{name}"], getattr(expected, name), rtol=1e-4, atol=1e-6
        )


def test_devices_and_batches_do_not_matter(tested, evaluated):
    human = tested[0].first.config["eval"]["human"]
    setup, state = evaluated(4, eval=dict(
        metrics=EVERY, bins=5, human=human, batch_size=3,
    ))
    for part, other in zip(evaluate(setup, state, "test"), tested[2], strict=True):
        kept = {name for name in other if "/view_" not in name}
        assert set(part) == kept
        for name in kept:
            np.testing.assert_allclose(
                part[name], other[name], rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_views_of_training_are_compared_too(tested):
    numbers = tested[2].numbers
    for view in ("x", "m"):
        for metric in ("agreement", "predictive_kl", "effective_classes"):
            assert f"eval/test/view_{view}/{metric}" in numbers
        assert 1 <= numbers[f"eval/test/view_{view}/teacher/effective_classes"] <= 6
    kl = [numbers[f"eval/test/{front}predictive_kl"] for front in ("", "view_x/", "view_m/")]
    assert len(set(kl)) == 3
    assert not any(name.startswith("eval/test/view_x/accuracy") for name in numbers)


def test_the_view_is_the_one_that_a_run_would_make(tested):
    """An unmixed view draws by index and epoch 0, so its answers can be had from the view."""
    from kdaug_jax import rng
    from kdaug_jax.experiment import views
    from kdaug_jax.types import Clock

    setup, state, (numbers, _) = tested
    split = setup.dataset.splits["test"]
    keys = rng.example_keys(Clock(np.uint32(0), np.int32(0), np.int32(0)), "view/x", split.index)
    images = views.build_augment("pad_crop(2)|flip")(keys, split.image)
    (logits, _), (taught, _) = (
        logits_of(setup, state, name, images) for name in ("student", "teacher")
    )
    same = (logits.argmax(1) == taught.argmax(1)).mean()
    np.testing.assert_allclose(numbers["eval/test/view_x/agreement"], same, rtol=1e-6)


def test_a_run_writes_numbers_and_arrays(distilled, tmp_path):
    console = io.StringIO()
    results = loop.train(distilled(), tmp_path, stream=console)[""]
    rows = read_rows(tmp_path)
    assert rows[0]["step"] == 0 and "eval/validation/teacher/effective_classes" in rows[0]
    test = next(row for row in rows if "eval/test/accuracy" in row)
    assert set(test) - {"step"} == {name for name in results if name.startswith("eval/test/")}
    assert json.loads((tmp_path / "results.json").read_text())[""] == results
    with np.load(tmp_path / "results.npz") as arrays:
        assert arrays["0/eval/test/confusion"].sum() == 13
        assert "0/eval/validation/reliability_right" in arrays
        assert "0/eval/validation/human_kl_matrix" not in arrays
    assert "eval/test/human_kl" in results and "eval/validation/human_kl" not in results
    text = console.getvalue()
    assert "more in metrics.jsonl" in text and "predictive_kl" in text and "metric " in text
    # It is enough to be evaluated again, for other metrics too.
    fewer = distilled()
    fewer.eval.metrics = ("accuracy", "nll", "agreement")
    fewer.eval.human, fewer.eval.views = "", ()
    again = evaluate_run(fewer, tmp_path, stream=io.StringIO())[""]
    assert set(again) == {f"eval/{split}/{name}" for split in ("validation", "test")
                          for name in ("accuracy", "nll", "agreement")}
    for name, value in again.items():
        np.testing.assert_allclose(value, results[name], rtol=1e-6)


def test_several_teachers_are_told_apart(distilled, teacher, evaluated):
    networks = {
        "student": configs.network("tiny", trainable=True),
        **{name: configs.network("", checkpoint=teacher) for name in ("t1", "t2")},
    }
    terms = {"kd": configs.term("kl", ("x",), teacher=("t1", "t2"))}
    setup, state = evaluated(1, networks=networks, terms=terms,
                             eval=dict(metrics=("accuracy", "nll", "agreement")))
    numbers = evaluate(setup, state, "validation").numbers
    first = numbers["eval/validation/agreement_t1"]
    assert first == numbers["eval/validation/agreement_t2"]
    assert "eval/validation/agreement" not in numbers


def test_a_teacher_that_is_trained_first_has_nobody_to_be_compared_with(tmp_path, distilled):
    config = distilled(networks={
        "student": configs.network("tiny", trainable=True), "teacher": configs.network("tiny_wide"),
    })
    config.eval.human = ""
    config.eval.metrics = ("accuracy", "nll", "agreement", "brier")
    teachers.ensure(config, tmp_path, stream=io.StringIO())
    results = json.loads((tmp_path / "teacher" / "results.json").read_text())[""]
    assert {name.rpartition("/")[2] for name in results} == {"accuracy", "nll", "brier"}


BASE = ("accuracy", "nll")


@pytest.mark.parametrize(
    "section, message",
    [
        (dict(metrics=(*BASE, "ecee")), "eval.metrics: unknown metric 'ecee'; did you mean ece"),
        (dict(metrics=("accuracy",)), "eval.metrics: leaves out accuracy or nll"),
        (dict(metrics=(*BASE, "nll")), "must be names, each once"),
        (dict(metrics=(*BASE, 3)), "must be names, each once"),
        (dict(metrics=(*BASE, "human")), "eval.human: is ''; name a file of answers here"),
        (dict(human="a.npy"), "eval.human: is 'a.npy'; name a file of answers here and 'human'"),
        (dict(metrics=(*BASE, "agreement"), views=("y",)), "eval.views: no view 'y'"),
        (dict(metrics=(*BASE, "agreement"), views=("z",)),
         "eval.views: 'z' changes the number of rows; name views without repeat and pick"),
        (dict(views=("x",)), "eval.views: no metric is measured there; put agreement or"),
        (dict(bins=0), "eval.bins: got 0; must be at least 1"),
        (dict(metrics=(*BASE, "discrimination"), embedding="f9"),
         "eval.embedding: student has no feature 'f9'; it has logits, f0, f1, pooled"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(distilled, tmp_path, section, message):
    section = {**dict(metrics=BASE, human="", views=()), **section}
    with pytest.raises(ConfigError) as caught:
        plan_run(distilled(eval=section), tmp_path, print)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_needs_a_teacher_or_many_classes_is_told(tmp_path):
    for metric, message in (
        ("agreement", "no term has a teacher for 'agreement'"), ("top5", "top5 of 4 classes"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_run(tiny_config(eval=dict(metrics=(*BASE, metric))), tmp_path, print)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.ones((13, 5)), r"holds float64\[13, 5\]; counts or shares \[N,6\] are wanted"),
        (np.ones((12, 6)), "has 12 rows; the split needs 13"),
        (np.zeros((13, 6)), "has rows with negative or infinite counts, or with 0 only"),
        (np.full((13, 6), np.nan), "has rows with negative or infinite counts, or with 0 only"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_peoples_answers_that_does_not_fit(distilled, tmp_path, array, message):
    path = tmp_path / "human.npy"
    if array is not None:
        np.save(path, array)
    section = dict(metrics=(*BASE, "human"), human=str(path), views=())
    with pytest.raises(DataError, match=message):
        plan_run(distilled(eval=section), tmp_path, print)


def test_peoples_answers_in_another_order_are_told(tmp_path):
    label = np.arange(60, dtype=np.int32) % 6
    pair = np.zeros((60, 4, 4, 3), np.uint8), label
    dataset = data.from_arrays({"test": pair}, tuple("abcdef"))
    counts = 45 * np.eye(6, dtype=np.int64)[label] + 1
    line = "eval.human: people's likeliest class is the label of {} % of the test images"
    for columns, share, warned in ((range(6), 100.0, False), ((1, 2, 3, 4, 5, 0), 0.0, True)):
        np.save(tmp_path / "human.npy", counts[:, list(columns)])
        said = []
        load_human(str(tmp_path / "human.npy"), dataset, said.append)
        assert line.format(share) in said[0] and said[0].startswith("warning: ") == warned


USER = "tests.training.metrics_of_a_user"


def test_metrics_of_a_user_are_measured(evaluated):
    names = ("second_guess", "disagreement", "predicted")
    setup, state = evaluated(1, eval=dict(
        metrics=(*BASE, "agreement", "top5", *(f"{USER}:{name}" for name in names)),
        human="", views=(), batch_size=5,
    ))
    numbers, arrays = evaluate(setup, state, "test")
    split = setup.dataset.splits["test"]
    logits, _ = logits_of(setup, state, "student", split.image)
    second = np.argsort(-logits, 1)[:, 1]
    np.testing.assert_allclose(
        numbers["eval/test/second_guess"], (second == split.label).mean(), rtol=1e-6
    )
    differ = 1 - numbers["eval/test/agreement"]
    np.testing.assert_allclose(numbers["eval/test/disagreement"], differ, rtol=1e-5, atol=1e-6)
    counts = np.bincount(logits.argmax(1), minlength=6)
    np.testing.assert_array_equal(arrays["eval/test/predicted"], counts)
    assert numbers["eval/test/most_predicted"] == counts.max()


@pytest.mark.parametrize(
    "name, message",
    [
        ("per_example", "eval.metrics: 'per_example' returned (float32[2], bool[2]); return (sum"),
        ("half", "metrics_of_a_user:half' are bfloat16, which stops short in the sum over batches"),
        ("truths", "truths' are bool, which stops short in the sum over batches; sum in float32"),
        ("no_pair", "eval.metrics: 'no_pair' returned float32[]; return (sum, count)"),
        ("two_arguments", "two_arguments' is no function of one argument; name a Metric, or a"),
        ("number", "number' is no function of one argument; name a Metric, or a function f(inputs"),
        ("unreduced", "unreduced' have a shape that depends on the batch size; sum over the rows"),
        ("again", f"eval.metrics: 'accuracy' and '{USER}:again' both report 'accuracy'"),
        ("second_gues", "has no 'second_gues'; did you mean second_guess"),
    ],
)
def test_what_is_no_metric_is_refused_by_name(tmp_path, name, message):
    config = tiny_config(eval=dict(metrics=(*BASE, f"{USER}:{name}")))
    with pytest.raises(ConfigError) as caught:
        plan_run(config, tmp_path, print)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, error",
    [("value_error", ValueError), ("type_error", TypeError), ("index_error", IndexError)],
)
def test_an_error_inside_a_metric_keeps_its_traceback(tmp_path, name, error):
    with pytest.raises(error) as caught:
        plan_run(tiny_config(eval=dict(metrics=(*BASE, f"{USER}:{name}"))), tmp_path, print)
    assert any(frame.name == name for frame in caught.traceback)


def test_the_best_checkpoint_may_be_that_of_a_users_metric(tmp_path):
    best = dict(best="eval/validation/wrong_guess")
    metrics = (*BASE, f"{USER}:wrong_guess")
    config = tiny_config(eval=dict(metrics=metrics), checkpoint=best)
    setup = prepare(configs.validate(config), tmp_path, print, record=False)
    setup.feed.close()
    assert lowest_is_best(setup.evaluator, best["best"])


@pytest.mark.parametrize("name", [f"{USER}:second_guess", "effective_classes"])
def test_what_says_nothing_of_better_and_worse_is_no_criterion(tmp_path, name):
    best = dict(best="eval/validation/" + name.rpartition(":")[2])
    config = tiny_config(eval=dict(metrics=(*BASE, name)), checkpoint=best)
    with pytest.raises(ConfigError, match="more or less of .* is better; make it by mean_metric"):
        plan_run(config, tmp_path, print)


def test_every_score_says_which_values_are_better():
    """Those of the literature: what falls as a network improves, and what rises."""
    lower = {"nll", "brier", "ece", "mce", "adhesion", "predictive_kl", "human_kl",
             "human_cross_entropy", "human_kl_class"}
    better = {name: value for row in METRICS.values() for name, value in row.better.items()}
    assert {name for name, value in better.items() if value == "lower"} == lower
    assert {name for name, value in better.items() if not value} == {"effective_classes"}


@pytest.mark.parametrize("best, kept", [("brier", [5, 4, 2]), ("ece", [5, 4, 2])])
def test_the_lowest_score_is_kept(tmp_path, best, kept):
    name = f"eval/validation/{best}"
    config = tiny_config(eval=dict(metrics=(*BASE, best)), checkpoint=dict(best=name))
    setup = prepare(configs.validate(config), tmp_path, print, record=False)
    setup.feed.close()
    lowest = lowest_is_best(setup.evaluator, name)
    with Checkpoints(tmp_path / "c", keep=2, say=print, best=name, lowest=lowest) as checkpoints:
        for step, value in ((1, 0.5), (2, 0.1), (3, 0.7), (4, 0.8), (5, 0.9)):
            checkpoints.save(step, {"a": np.zeros(2)}, {name: value}, {})
    assert manifest.steps(tmp_path / "c") == kept


def test_answers_that_are_none_are_told(evaluated):
    setup, state = evaluated(1)
    kernel = state.params["student"]["fc"]["kernel"]
    broken = {**state.params["student"]["fc"], "kernel": np.full(kernel.shape, np.nan)}
    params = {**state.params, "student": {**state.params["student"], "fc": broken}}
    numbers, arrays = evaluate(setup, state.replace(params=params), "test")
    assert numbers["eval/test/unanswered"] == 13 and numbers["eval/test/accuracy"] == 0
    assert numbers["eval/test/f1"] == 0 and numbers["eval/test/agreement"] == 0
    assert arrays["eval/test/confusion"].sum() == 0
    assert not {"eval/test/nll", "eval/test/ece"} & set(numbers)


def test_a_choice_on_the_test_split_is_told_once(tmp_path):
    lines = []
    section = dict(validation="test", test="test")
    plan_run(tiny_config(data=section), tmp_path, lines.append)
    told = [line for line in lines if "test results are too good" in line]
    assert len(told) == 1 and "the best checkpoint is chosen" in told[0]
    plan_run(tiny_config(data=section, checkpoint=dict(best="")), tmp_path, lines.append)
    plan_run(tiny_config(), tmp_path, lines.append)
    assert len([line for line in lines if "too good" in line]) == 1
