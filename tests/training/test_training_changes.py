"""What changes under a run: data, files, checkpoints, directories, teachers, exploding members."""

import io
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.analysis import compare
from kdaug_jax.deploy import export
from kdaug_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import manifest, workdir
from kdaug_jax.training import failures, loop
from tests.conftest import tiny_config

# Fixed, so that changed pixels do not show in the config.
STATISTICS = dict(mean=(128.0,) * 3, std=(64.0,) * 3)
NAMES = ("ant", "bee", "cat", "dog")


def images(seed=0, count=40):
    random = np.random.default_rng(seed)
    label = np.arange(count) % 4
    image = random.integers(0, 60, (count, 8, 8, 3)) + 60 * label[:, None, None, None]
    return image.astype(np.uint8), label


def register(name="changing", *, names=NAMES, change=lambda image, label: None, count=40):
    image, label = images(count=count)
    change(image, label)
    splits = {"train": (image, label), "validation": images(1), "test": images(2)}
    return data.register(name, data.from_arrays(splits, names))


def config(**sections):
    settings = dict(
        networks={"student": configs.network("tiny", trainable=True, **STATISTICS)},
        train=dict(epochs=1.0),
    )
    made = tiny_config(**{**settings, **sections})
    made.data.source = register()
    return made


def train(made, directory, **words):
    console = io.StringIO()
    loop.train(made, directory, stream=console, **words)
    return console.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("done")
    train(config(), directory)
    return directory


@pytest.fixture
def run(done, tmp_path):
    return shutil.copytree(done, tmp_path / "run")


def swap(image, label):
    label[:2] = label[1], label[0]


def brighten(image, label):
    image[3, 0, 0, 0] += 1


CHANGES = {
    "one pixel": dict(change=brighten),
    "two labels": dict(change=swap),
    "two names": dict(names=("bee", "ant", "cat", "dog")),
    "more images": dict(count=44),
}
TOLD = {
    "one pixel": "train: names, labels, sizes or bytes of its files differ",
    "two labels": "train: names, labels, sizes or bytes of its files differ",
    "two names": "class 0 was 'ant' and is 'bee'",
    "more images": "train: 40 examples -> 44",
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data_are_refused_everywhere(run, what):
    made = config(train=dict(epochs=2.0))
    made.data.source = register(**CHANGES[what])
    for use in (
        lambda: train(made, run),
        lambda: evaluate_run(made, run, stream=io.StringIO()),
        lambda: export.export_run(run, stream=io.StringIO()),
    ):
        with pytest.raises(DataError) as caught:
            use()
        assert TOLD[what] in str(caught.value)


def test_other_class_names_are_never_evaluated(run):
    made = config()
    made.data.source = register(names=("bee", "ant", "cat", "dog"))
    with pytest.raises(DataError, match="class 0 was 'ant' and is 'bee'"):
        evaluate_run(made, run, allow_config_change=True, stream=io.StringIO())


def test_other_data_are_evaluated_by_name(run):
    before = json.loads((run / "results.json").read_text())
    image, label = images(2)
    data.register("other", data.from_arrays({"test": (image, label)}, NAMES))
    made = config()
    made.data.source = register(change=brighten)  # what it was trained on does not matter
    console = io.StringIO()
    results = evaluate_run(made, run, eval_data="arrays:other,test", stream=console)
    assert results[""]["eval/arrays_other_test/accuracy"] == before[""]["eval/test/accuracy"]
    kept = json.loads((run / "evaluations.json").read_text())["arrays:other,test"]
    assert kept["results"] == results and kept["data"]["examples"] == 40
    assert [kept["step"]] == manifest.steps(run / "checkpoints")[-1:]
    assert json.loads((run / "results.json").read_text()) == before
    half = evaluate_run(made, run, eval_data="arrays:other,test[:50%]", stream=console)
    assert set(half[""]) == {"eval/arrays_other_test_50/accuracy", "eval/arrays_other_test_50/nll"}
    data.register("other", data.from_arrays({"test": (image, label)}, NAMES[::-1]))
    for text, message in (
        ("arrays:other,test", "its classes are not those of the run (class 0 was 'ant' and is 'd"),
        ("arrays:other,train", "has no split 'train'"),
        ("digits", "is 'digits'; --eval_data=SOURCE,SPLIT"),
    ):
        with pytest.raises(ConfigError) as caught:
            evaluate_run(made, run, eval_data=text, stream=console)
        assert str(caught.value).startswith("--eval_data: ") and message in str(caught.value)


def test_a_changed_file_that_the_config_names(tmp_path):
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"segments": [[1, [0] * 60]]}))
    made = config(views={"x": f"schedule('{file}', levels='released_scaled')"})
    train(made, tmp_path / "run")
    file.write_text(json.dumps({"segments": [[1, [1] + [0] * 59]]}))
    made.train.epochs = 2.0
    with pytest.raises(DataError, match=r"the file .*schedule.json has other contents"):
        train(made, tmp_path / "run")


def test_an_epoch_of_another_length_is_told(run):
    made = config(train=dict(epochs=2.0))
    made.data.batch_size = 4
    text = train(made, run, allow_config_change=True)
    assert "an epoch is 10 steps, was 5: step 5 is now epoch 0.5, was 1.0" in text


def test_another_environment_is_told(run):
    file = run / "environment.json"
    stored = json.loads(file.read_text())
    stored["packages"]["jax"], stored["devices"] = "0.1", ["a"]
    del stored["seal"]
    file.write_text(json.dumps(stored))
    made = config(train=dict(epochs=2.0))
    text = train(made, run, allow_config_change=True)
    (line,) = [line for line in text.splitlines() if "bitwise" in line]
    assert "jax 0.1 -> " in line and "devices 1 × cpu -> 4 × cpu" in line
    assert "processes" not in line and "numpy" not in line


# A member whose loss overflows, and those beside it.
SWEEP = dict(
    population=(("optim.schedule.base", (0.1, 1e30, 0.2)),),
    checkpoint=dict(every_steps=2, every_epochs=0.0), train=dict(epochs=2.0),
)


def test_a_member_that_explodes_does_not_end_the_others(tmp_path, capsys):
    made = config(**SWEEP)
    with pytest.raises(NonFiniteError, match="1 of 3 runs were not finite") as caught:
        train(made, tmp_path / "sweep")
    assert caught.value.exit_code == 5 and "base=1e+30" in str(caught.value)
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    good, failed, other = (results[f"optim.schedule.base={rate}"] for rate in (0.1, 1e30, 0.2))
    fault = failed["failed"]
    assert set(failed) == {"failed"} and fault["step"] <= 2 and fault["where"]
    assert "eval/test/accuracy" in good and "eval/test/accuracy" in other
    # Each of the others is the run that it is alone.
    alone = config(**{**SWEEP, "population": (("optim.schedule.base", (0.2,)),)})
    train(alone, tmp_path / "alone")
    assert json.loads((tmp_path / "alone" / "results.json").read_text()) == {
        "optim.schedule.base=0.2": other
    }
    # The same command again says the same; its evaluation and comparison leave the member out.
    with pytest.raises(NonFiniteError, match="1 of 3 runs"):
        train(made, tmp_path / "sweep")
    again = evaluate_run(made, tmp_path / "sweep", stream=io.StringIO())
    assert len(again) == 2
    words = [str(tmp_path / "sweep"), "--vary=optim.schedule.base"]
    assert compare.main(words) == 0
    text = capsys.readouterr().out
    assert f"was not finite at step {fault['step']} ({fault['where']}): left out" in text
    assert "0.2 against 0.1" in text and "1e+30 against" not in text


@pytest.mark.slow
def test_a_sweep_resumes_without_its_failed_member(tmp_path):
    made = config(**SWEEP)
    for directory, epochs in (("straight", 2.0), ("resumed", 1.0), ("resumed", 2.0)):
        made.train.epochs = epochs
        with pytest.raises(NonFiniteError):
            train(made, tmp_path / directory, allow_config_change=True)
    straight, resumed = (
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("straight", "resumed")
    )
    assert straight == resumed


@pytest.mark.slow
def test_a_poisoned_checkpoint_is_set_aside(tmp_path):
    """Finite numbers that every later loss makes infinite: the advice must work all the same."""
    made = config(
        networks={"student": configs.network("lenet_vrm", trainable=True, **STATISTICS)},
        phases=((0.8, {"optim.schedule.base": 1e14}),),
        checkpoint=dict(every_steps=1, every_epochs=0.0), train=dict(epochs=2.0),
    )
    made.data.source = "synthetic:32x32,4,40"
    with pytest.raises(NonFiniteError) as caught:
        train(made, tmp_path)
    assert "with --allow_config_change, to go on from step 4" in str(caught.value)
    assert manifest.steps(tmp_path / "checkpoints")[0] == 4
    made.phases = ()
    assert re.search(r"resumed +at step 4\n", train(made, tmp_path, allow_config_change=True))


@pytest.mark.slow
def test_a_teacher_is_the_one_that_the_run_was_started_with(done, tmp_path):
    teacher = tmp_path / "teacher"
    longer = config(train=dict(epochs=2.0))
    train(longer, teacher)
    student = config(
        networks={
            "student": configs.network("tiny", trainable=True, **STATISTICS),
            "teacher": configs.network("", checkpoint=str(teacher)),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("kl", ("x",), teacher="teacher"),
        },
        train=dict(epochs=1.0, allow_weak_teacher=True),
    )
    (teacher / "results.json").rename(tmp_path / "aside.json")
    with pytest.raises(ConfigError, match=r"has not come to its end.*or name the step: .*@10"):
        train(student, tmp_path / "refused")
    (tmp_path / "aside.json").rename(teacher / "results.json")
    train(student, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())["frozen"]["teacher"]
    assert record["steps"] == [10] and len(record["digest"]) == 64
    # It is trained on; the run takes the step that it was started with.
    longer.train.epochs = 3.0
    train(longer, teacher, allow_config_change=True)
    (tmp_path / "run" / "results.json").unlink()
    assert "step 10 of " in train(student, tmp_path / "run")
    shutil.rmtree(teacher / "checkpoints" / "10")
    with pytest.raises(CheckpointError, match="is the step that the run was started with, and is"):
        train(student, tmp_path / "run")


def test_checkpoints_that_are_gone(run):
    rows = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="the checkpoints of this run are gone; restore them"):
        train(config(), run)
    assert (run / "metrics.jsonl").read_bytes() == rows and (run / "results.json").exists()


def test_an_unmarked_directory_of_an_older_version_is_adopted(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as older:
        older.setattr(loop.mark, "claim", lambda path, say: None)
        train(config(), run)
    assert not (run / workdir.MARK).exists()
    file = run / "config.json"
    stored = json.loads(file.read_text())
    del stored["frozen"], stored["contents"], stored["seal"]
    file.write_text(json.dumps(stored))
    other = config(optim=dict(weight_decay=0.5))
    with pytest.raises(ConfigError, match="weight_decay"):
        train(other, run)
    assert not (run / workdir.MARK).exists()
    assert "a run of an older version of this package goes on here" in train(config(), run)
    assert len(workdir.run_id(run)) == 32 and "goes on here" not in train(config(), run)


def test_a_directory_that_is_moved_while_the_run_writes(tmp_path, monkeypatch):
    advance = loop.population.advance

    def moving(*args):
        if (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "moved")
        return advance(*args)

    monkeypatch.setattr(loop.population, "advance", moving)
    with pytest.raises(CheckpointError, match="was moved or removed while the run wrote to it"):
        train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    train(config(), tmp_path / "moved")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_anywhere_is_known(value):
    state = {
        "a": np.full((3, 5, 7), 3e38, np.float32), "none": np.zeros(0, np.float32),
        "count": np.arange(4), "half": np.ones(1000, jnp.bfloat16),
    }
    assert failures.all_finite(state)
    for name, place in (("a", 0), ("a", 50), ("a", 104), ("half", 0), ("half", 999)):
        damaged = {key: array.copy() for key, array in state.items()}
        damaged[name].reshape(-1)[place] = value
        assert not failures.all_finite(damaged)
