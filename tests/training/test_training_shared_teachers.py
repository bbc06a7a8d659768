"""Teachers that several runs share: trained once where recipe, data and seeds are equal."""

import io
import json

import pytest

from kdaug_jax.errors import TeacherInUse
from kdaug_jax.experiment import config as configs
from kdaug_jax.runtime import lock, manifest, records
from kdaug_jax.training import loop, shared_teachers, teachers
from tests.conftest import tiny_config
from tests.training.test_training_teachers import chain


def experiment(directory, *, student="tiny", view="flip", more=None, **fields):
    """A student of a teacher that is trained on its own view; `more` are further views."""
    recipe = (("views.x", "pad_crop(1)"), ("train.epochs", 1.0))
    return tiny_config(**{
        "teachers": str(directory),
        "views": {"x": view, **(more or {})},
        "networks": {"student": configs.network(student, trainable=True),
                     "teacher": configs.network("tiny", recipe=recipe)},
        "terms": {"ce": configs.term("cross_entropy", ("x",)),
                  "kd": configs.term("kl", (("x", *(more or {}))), teacher="teacher")},
        "train": dict(epochs=1.0, allow_weak_teacher=True),
        **fields,
    })


def place_of(config, where):
    said = io.StringIO()
    full = teachers.ensure(config, where, stream=said)
    return full["networks"]["teacher"]["checkpoint"], said.getvalue()


def test_runs_share_a_teacher_of_equal_recipe_data_and_seeds(tmp_path):
    shared = tmp_path / "teachers"
    first, text = place_of(experiment(shared), tmp_path / "a")
    assert f"--- training teacher, which other runs may share, into {first}" in text
    assert first.startswith(f"{shared}/teacher-") and "images/s" in text
    step = manifest.steps(shared.joinpath(first) / "checkpoints")[0]
    # Another student, other views of its own, other intervals and metrics: the same teacher.
    other = experiment(
        shared, student="tiny_wide", view="pad_crop(1)|flip", more={"y": "flip"},
        eval=dict(every_epochs=0.5, metrics=("accuracy", "nll", "ece")),
        checkpoint=dict(every_epochs=0.5),
    )
    again, text = place_of(other, tmp_path / "b")
    assert again == first
    assert (f"teacher: trained before by the same recipe, data and seeds: step {step} of {first}"
            in text and "images/s" not in text)
    full = teachers.ensure(other, tmp_path / "b", stream=io.StringIO())
    loop.train(full, tmp_path / "b", stream=io.StringIO())
    stored = records.read_record(tmp_path / "b")
    assert stored["config"]["networks"]["teacher"]["checkpoint"] == first
    assert stored["frozen"]["teacher"]["steps"] == [step]


@pytest.mark.parametrize("change", [
    dict(seed=1), dict(data=dict(seed=1)), dict(precision="bfloat16"),
    dict(data=dict(source="synthetic:8x8,5,40")),
    dict(optim=dict(weight_decay=0.1)),
])
def test_another_seed_precision_data_set_or_recipe_is_another_teacher(tmp_path, change):
    def fingerprint(config):
        checked = teachers._check(configs.validate(config), tmp_path, False)
        return checked.teachers["teacher"].fingerprint

    plain = fingerprint(experiment(tmp_path))
    assert len(plain) == 16
    assert fingerprint(experiment(tmp_path, **change)) != plain
    assert fingerprint(experiment(tmp_path, log=dict(every_steps=7))) == plain


def test_a_file_that_the_recipe_names_is_known_by_its_contents(tmp_path):
    file = tmp_path / "policy.json"
    fingerprints = []
    for magnitude in (3, 4):
        sub_policies = [[["Rotate", 0.5, magnitude / 10], ["Invert", 0.5, 0.3]]]
        file.write_text(json.dumps({"levels": "fast", "sub_policies": sub_policies}))
        config = experiment(tmp_path)
        config.networks.teacher.recipe = (("views.x", f'autoaugment("{file}")'),)
        checked = teachers._check(configs.validate(config), tmp_path, False)
        fingerprints.append(checked.teachers["teacher"].fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_a_teacher_that_another_run_trains_is_waited_for(tmp_path):
    shared = tmp_path / "teachers"
    first, _ = place_of(experiment(shared), tmp_path / "a")
    (shared / first / "results.json").unlink()  # it is under way
    with lock.locked(shared / first), pytest.raises(TeacherInUse) as caught:
        place_of(experiment(shared), tmp_path / "b")
    assert caught.value.exit_code == 6
    assert "networks.teacher: another run trains this teacher: " in str(caught.value)
    assert f"{first} is in use by process" in str(caught.value)
    assert str(caught.value).endswith("; run again when it has ended")
    # A run with other intervals goes on with one that was interrupted.
    other = experiment(shared, eval=dict(every_epochs=0.5), checkpoint=dict(every_epochs=0.5))
    again, text = place_of(other, tmp_path / "b")
    assert again == first and "before, at step" in text


def test_teachers_of_teachers_are_shared_too(tmp_path):
    config = chain()
    config.teachers = str(tmp_path / "teachers")
    with config.unlocked():
        checked = teachers._check(configs.validate(config), tmp_path / "a", False)
    middle = checked.teachers["teacher"]
    assert middle.fingerprint and middle.teachers["teacher"].fingerprint
    assert middle.fingerprint != middle.teachers["teacher"].fingerprint


def test_a_finished_teacher_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"": {}}')
    with pytest.raises(configs.ConfigError, match="is a finished teacher without checkpoints"):
        shared_teachers.finished_step(tmp_path)


def alone(directory, **fields):
    """A run that is the teacher of `experiment`, measured in another way."""
    return tiny_config(**{
        "teachers": str(directory), "views": {"x": "pad_crop(1)"},
        "networks": {"student": configs.network("tiny", trainable=True)},
        "terms": {"ce": configs.term("cross_entropy", ("x",))},
        "train": dict(epochs=1.0, allow_weak_teacher=True),
        "eval": dict(metrics=("accuracy", "nll", "ece")), "checkpoint": dict(best=""),
        **fields,
    })


@pytest.mark.parametrize("first", ["the teacher", "its student"])
def test_a_run_that_is_a_teacher_is_the_one_that_others_share(tmp_path, first):
    shared, row = tmp_path / "teachers", tmp_path / "row"
    if first == "its student":
        place_of(experiment(shared), tmp_path / "a")
    said = io.StringIO()
    full = teachers.ensure(alone(shared), row, stream=said)
    loop.train(full, row, stream=said)
    (place,) = shared.iterdir()
    assert row.is_symlink() and row.resolve() == place.resolve()
    assert f"--- a teacher that other runs may share: {row} is a link to {place}" in said.getvalue()
    assert ("images/s" in said.getvalue()) == (first == "the teacher")
    again, text = place_of(experiment(shared), tmp_path / "b")
    assert again == str(place) and "trained before by the same recipe" in text
    assert len(list(shared.iterdir())) == 1
    ece = "eval/test/ece" in records.read_results(row)[""]
    assert ece == (first == "the teacher")  # who trains it says what is measured on the way


def test_only_what_could_be_a_teacher_is_trained_among_them(tmp_path):
    shared = tmp_path / "teachers"
    for fields in (
        dict(checkpoint=dict(best="eval/validation/nll")), dict(teachers=""),
        dict(population=(("seed", (0, 1)),)),
    ):
        teachers.ensure(alone(shared, **fields), tmp_path / "row", stream=io.StringIO())
        assert not (tmp_path / "row").exists() and not shared.exists()
    (tmp_path / "row").mkdir()  # begun before
    teachers.ensure(alone(shared), tmp_path / "row", stream=io.StringIO())
    assert not shared.exists()
