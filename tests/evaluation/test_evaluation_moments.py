"""Evaluation sees the views that a member makes in its phase and epoch, and its own options."""

import io
import json
import shutil

import numpy as np
import pytest

from kdaug_jax import data, rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.evaluation.run import evaluate_state, partners_of, variables_of
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import views
from kdaug_jax.training import loop
from kdaug_jax.training.plan import plan_run
from kdaug_jax.training.setup import prepare
from kdaug_jax.training.state import initial_states
from kdaug_jax.types import Clock
from tests.conftest import tiny_config

MEASURED = dict(metrics=("accuracy", "nll", "effective_classes"), views=("x",))
P = "views.x.flip.probability"
USER = "tests.evaluation.parts_of_a_user"


def config(view, **sections):
    return tiny_config(**{
        "data": dict(source="synthetic:8x8,6,52"), "views": {"x": view}, "mesh": dict(data=1),
        "eval": MEASURED, **sections,
    })


@pytest.fixture
def opened(tmp_path):
    """Prepares runs; returns their setups and states of step 0."""

    def open_run(*args, **sections):
        setup = prepare(
            configs.validate(config(*args, **sections)), tmp_path, print, record=False
        )
        setup.feed.close()
        return setup, initial_states(setup)

    return open_run


def evaluate(setup, states, step=0, member=0, splits=None, evaluator=None, use="test"):
    made, moment = setup.moment(step, member)
    return evaluate_state(
        evaluator or made, states[member], setup.frozen, moment,
        splits or setup.dataset.splits, use,
    ).numbers


def classes_of(setup, state, images):
    """Mean effective classes of the student's answers, in float64."""
    student = setup.first.networks["student"].model
    outputs, _ = student.apply(variables_of(state, "student"), images, train=False)
    logits = np.asarray(outputs.logits, np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.exp(-(p * np.log(p)).sum(1)).mean()


def seen(setup, text, seed=0, epoch=0):
    """The test images through a view as a run of that seed makes it in that epoch."""
    split = setup.dataset.splits["test"]
    clock = Clock(np.uint32(seed), np.int32(epoch), np.int32(0))
    keys = rng.example_keys(clock, "view/x", split.index)
    return views.build_augment(text, mean=setup.first.info.mean, epoch=epoch)(keys, split.image)


NAME = "eval/test/view_x/effective_classes"


def test_each_member_is_evaluated_on_the_view_that_it_trains_on(opened):
    setup, states = opened(
        "pad_crop(2)|flip(0.0)", population=((P, (0.0, 1.0)), ("seed", (3, 4)))
    )
    assert len(states) == 4
    for number, (p, seed) in enumerate(((0.0, 3), (0.0, 4), (1.0, 3), (1.0, 4))):
        images = seen(setup, f"pad_crop(2)|flip({p})", seed)
        expected = classes_of(setup, states[number], images)
        np.testing.assert_allclose(
            evaluate(setup, states, member=number)[NAME], expected, rtol=1e-5
        )
    assert setup.evaluator.step._cache_size() == 1


def test_phase_and_epoch_decide_the_view(opened):
    later = "pad_crop(2)|cutout(4)"
    setup, states = opened("flip", phases=((1, {"views.x": later}),))
    steps = setup.first.steps_per_epoch
    # The last step decides: after one epoch nothing was trained on the later view yet.
    for step, text, epoch in ((0, "flip", 0), (steps, "flip", 0), (steps + 1, later, 1),
                              (2 * steps, later, 1)):
        expected = classes_of(setup, states[0], seen(setup, text, 0, epoch))
        np.testing.assert_allclose(evaluate(setup, states, step)[NAME], expected, rtol=1e-5)


def test_a_policy_of_the_epoch_is_at_the_runs(opened):
    setup, states = opened(f"{USER}:by_epoch".replace(":", "."))
    steps, images = setup.first.steps_per_epoch, setup.dataset.splits["test"].image
    for step, expected in ((steps, images), (steps + 1, 255 - images), (2 * steps, 255 - images)):
        np.testing.assert_allclose(
            evaluate(setup, states, step)[NAME], classes_of(setup, states[0], expected), rtol=1e-5
        )
    assert setup.evaluator.step._cache_size() == 1


def test_swept_numbers_of_crops_on_the_host_are_the_members(opened):
    path = "views.x.random_resized_crop.scale"
    host = dict(source="synthetic:8x8,6,52", crop="host")
    crop = "random_resized_crop(8, scale={})"
    setup, states = opened(
        crop.format("(0.08, 1.0)"), data=host, population=((path, ((0.08, 1.0), (0.9, 1.0))),)
    )
    alone, _ = opened(crop.format("(0.9, 1.0)"), data=host)
    first, second = (evaluate(setup, states, member=number)[NAME] for number in (0, 1))
    assert second == evaluate(alone, [states[1]])[NAME] != first


def test_swept_options_of_an_ensemble_are_the_members(opened):
    setup, states = opened(
        "flip", views={"x": "flip", "y": dict(ops="pad_crop(2)", branch=1)},
        terms={"ce": configs.term("cross_entropy", ("x", "y")),
               "both": configs.term(f"{USER}:weighted", ("x", "y"))},
        eval=dict(metrics=("accuracy", "nll"), views=()),
        population=(("terms.both.share", (0.25, 1.0)),),
    )
    for number, share in enumerate((0.25, 1.0)):
        numbers = evaluate(setup, states, member=number, use="validation")
        assert numbers["eval/validation/both/share"] == share
    # With all of its weight on the first branch it is that branch.
    front = "eval/validation/"
    assert numbers[front + "both/nll"] == pytest.approx(numbers[front + "branch_0/nll"])


def test_teachers_and_ensembles_are_those_of_the_phase(opened):
    setup, _ = opened(
        "flip", views={"x": "flip", "y": dict(ops="pad_crop(2)", branch=1)},
        terms={"ce": configs.term("cross_entropy", ("x", "y")),
               "both": configs.term(f"{USER}:weighted", ("x", "y"), share=0.5)},
        eval=dict(metrics=("accuracy", "nll"), views=()),
        phases=((1, {"optim.weight_decay": 0.1}), (1.5, {"terms.both.on": ("y", "x")})),
    )
    first, same, other = setup.evaluators
    assert first is same  # so that it compiles once
    members = [
        predictor.members for made in (first, other) for predictor in made.spec.predictors
        if predictor.term
    ]
    assert members == [(("student", 0), ("student", 1)), (("student", 1), ("student", 0))]


@pytest.mark.parametrize("text", ["cutmix(1.0)|flip", "flip|mixup(0.5, per='group')"])
def test_a_mixed_view_depends_on_neither_order_nor_batches(opened, text):
    setup, states = opened(text)
    splits = setup.dataset.splits
    moved = {"test": splits["test"].take(np.random.RandomState(5).permutation(13))}
    numbers = {
        evaluate(setup, states, splits=moved if order else splits,
                 evaluator=setup.evaluator._replace(batch_size=size))[NAME]
        for size, order in ((1, 0), (5, 0), (13, 0), (4, 1))
    }
    np.testing.assert_allclose(max(numbers), min(numbers), rtol=1e-6)
    plain, plain_states = opened("flip")
    assert abs(max(numbers) - evaluate(plain, plain_states)[NAME]) > 1e-4


def test_examples_are_mixed_with_the_partner_of_all_of_the_split():
    image = np.random.RandomState(0).randint(0, 256, (9, 4, 4, 3), np.uint8)
    split = data.from_arrays({"train": (image, np.arange(9) % 3)}).splits["train"]
    partners = partners_of(split)
    assert sorted(partners) == list(range(9)) and (partners != np.arange(9)).all()
    order = np.array([3, 8, 0, 1, 2, 7, 6, 5, 4])
    moved = split.take(order)
    np.testing.assert_array_equal(
        moved.index[partners_of(moved)], split.index[partners][order]
    )
    assert partners_of(split.take([0])).tolist() == [0]

    info = data.describe(data.Dataset({"train": split}, ("a", "b", "c")))
    specs = views.parse_all({"x": "mixup(1.0)"}, info)
    clock = Clock(np.uint32(0), np.int32(2), np.int32(0))
    batches = [
        next(data.eval_batches(chosen, 9)) for chosen in (split, split.take(partners))
    ]
    numbers, _ = views.hparams(specs)
    view = views.make_in_pairs(specs, clock, *batches, numbers, info)
    own = np.asarray(view.target)[np.arange(9), split.label]
    same = split.label == split.label[partners]
    share = np.where(same, np.nan, own)  # of an example whose partner has another class
    assert len(np.unique(share[~same])) == (~same).sum() > 2  # drawn for each
    pixels = image.astype(np.float64)
    mixed = share[:, None, None, None] * pixels
    mixed += (1 - share)[:, None, None, None] * pixels[partners]
    np.testing.assert_allclose(np.asarray(view.image)[~same], mixed[~same], rtol=1e-5)
    np.testing.assert_array_equal(view.label, split.label)


SWEPT = dict(
    population=((P, (0.0, 1.0)),), train=dict(epochs=2.0),
    phases=((1, {"terms.ce.label_smoothing": 0.1}),),
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A population that was trained on one view and a mixed one: directory and results."""
    directory = tmp_path_factory.mktemp("swept")
    made = swept_config()
    return directory, loop.train(made, directory, stream=io.StringIO())


def swept_config(**sections):
    return config(
        "", views={"x": "flip(0.0)", "m": 'view("x")|cutmix(1.0)'},
        terms={"ce": configs.term("cross_entropy", ("x", "m"))},
        eval=dict(metrics=("accuracy", "nll", "effective_classes"), views=("x", "m")),
        **{**SWEPT, **sections},
    )


def test_a_member_is_a_run_of_its_own_and_can_be_evaluated_again(swept, tmp_path):
    directory, results = swept
    again = evaluate_run(swept_config(), directory, stream=io.StringIO())
    assert again == {
        member: {name: values[name] for name in again[member]} for member, values in results.items()
    }
    assert f"eval/test/view_m/{NAME.rpartition('/')[2]}" in again[f"{P}=1.0"]
    alone = swept_config(population=())
    alone.views = {"x": "flip(1.0)", "m": 'view("x")|cutmix(1.0)'}
    assert loop.train(alone, tmp_path, stream=io.StringIO())[""] == results[f"{P}=1.0"]
    assert results[f"{P}=1.0"][NAME] != results[f"{P}=0.0"][NAME]


def test_other_training_data_hide_the_epoch(swept, tmp_path):
    shutil.copytree(swept[0], tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "config.json").read_text())
    del record["seal"]
    record["data"].setdefault("splits", {})["train"] = {"examples": 416, "digest": "0"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError) as caught:
        evaluate_run(swept_config(), tmp_path, allow_config_change=True, stream=io.StringIO())
    assert str(caught.value) == (
        "eval.views: data.train has 52 examples, the run's had 416, so that nobody knows its "
        "epoch; leave it empty"
    )


@pytest.mark.parametrize(
    "sections, message",
    [
        (dict(eval=dict(MEASURED, view="cutmix(1.0)")),
         "eval.view.cutmix: mixes examples, which then have several labels; leave it out"),
        (dict(eval=dict(MEASURED, view="flip")),
         "eval.view.flip: draws at random, and an image has one answer; leave it out; name a view"),
        (dict(eval=dict(MEASURED, view="wei2020(1, 2)")),
         "eval.view.wei2020: draws at random, and an image has one answer; leave it out"),
        (dict(view="mixup(1.0)|cutmix(1.0)"),
         "eval.views: 'x' mixes examples 2 times (views.x.mixup and views.x.cutmix); name views"),
        (dict(view=f"{USER}.swap"),
         "eval.views: 'x' mixes by views.x.swap, which does not let its partners be chosen"),
        (dict(phases=((1, {"views.x": "mixup(1.0)|mixup(1.0)"}),)),
         "eval.views: 'x' mixes examples 2 times (views.x.mixup and views.x.mixup_1)"),
        (dict(phases=((1, {"views.x": "repeat(2)|flip"}),)),
         "eval.views: 'x' changes the number of rows; name views without repeat and pick"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_any_work(tmp_path, sections, message):
    sections = dict(sections)
    view = sections.pop("view", "flip")
    with pytest.raises(ConfigError) as caught:
        plan_run(config(view, **sections), tmp_path, print)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_input_view_does_not_depend_on_the_epoch(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps({"segments": [[1, [0] * 60]]}))
    section = dict(MEASURED, view=f"schedule('{path}', levels='released_scaled')")
    with pytest.raises(ConfigError, match="eval.view.schedule: depends on the epoch, and images"):
        plan_run(config("flip", eval=section), tmp_path, print)
