import json

import jax
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import config, views
from kdaug_jax.experiment.binding import read_calls
from kdaug_jax.types import Batch, Clock, Info
from tests.experiment import parts_of_a_user

PARTS = "tests.experiment.parts_of_a_user"
INFO = Info(4, (12, 12), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))


def batch_of(index):
    images = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)
    index = np.asarray(index, np.int32)
    return Batch(images[index], index % 4, index, np.ones(len(index), bool))


def make(expressions, index=range(16), seed=0, epoch=0, step=0, groups=1):
    specs = views.parse_all(expressions, INFO)
    values, _ = views.hparams(specs)
    clock = Clock(np.uint32(seed), np.int32(epoch), np.int32(step))
    run = jax.jit(lambda batch: views.make(specs, clock, batch, values, INFO, groups))
    return run(batch_of(index))


def test_numbers_have_paths_and_repeats_are_numbered():
    spec = views.parse("x", "randaugment(2, 3)|flip|randaugment(1, m=4)", INFO)
    values, ranges = views.hparams((spec,))
    assert values == {
        "views.x.randaugment.m": 3,
        "views.x.flip.probability": 0.5,
        "views.x.randaugment_1.m": 4,
    }
    assert ranges["views.x.randaugment.m"].high == 30


def test_repeated_stages_draw_differently():
    spec = views.parse("x", "randaugment(1, 5)|randaugment(1, 5)", INFO)
    keys = rng.example_keys(Clock(np.uint32(0), np.int32(0), np.int32(0)), "view/x", np.arange(3))
    first, second = (rng.fold(keys, call.role) for call in spec.calls)
    assert not np.array_equal(jax.random.key_data(first), jax.random.key_data(second))


@pytest.mark.parametrize(
    "text, message",
    [
        ("flipp", "unknown stage 'flipp'; did you mean flip"),
        ("pad_crop", "argument 'padding' is missing"),
        ("pad_crop(4.5)", "must be a int"),
        ("pad_crop(1, 2, True, 3)", "got 4 arguments"),
        ("pad_crop(1, padding=1)", "given twice"),
        ("randaugment(2)", "argument 'm' is missing; randaugment(n, m)"),
        ("randaugment(2, 31)", "m is 31; must be a whole number, 0..30"),
        ("randaugment(2, -1)", "m is -1; must be a whole number"),
        ("randaugment(2, 3.5)", "m is 3.5; must be a whole number"),
        ("randaugment(2, 3, space='papre')", "unknown space 'papre'; did you mean paper"),
        ("randaugment('rand-m9-q1')", "views.x.randaugment: "),
        ("randaugment(2, 3, fill='meen')", "views.x.randaugment.fill: got 'meen'"),
        ("wei2020(2, 11)", "views.x.wei2020: m is 11"),
        ("autoaugment('cifar11')", "did you mean cifar10"),
        ("autoaugment('no.json')", "views.x.autoaugment: no file no.json"),
        ("schedule('no.json')", "views.x.schedule: no file no.json"),
        ("pba((1, 2))", "views.x.pba: policy: the policy is 2; must be 60 whole numbers"),
        ("pba()", "a square of 18 pixels is larger than the 12×12 image; take levels="),
        ("trivialaugment_wide(3)", "got 1 argument"),
        ("efficientnet_crop(8)|flip", "views.x.flip: comes after a stage that returns floats"),
        ("random_resized_crop(0)", "got size=0"),
        ("random_resized_crop(8)|cutout(9)", "larger than the 8×8 image"),
        ("randaugment(2, 3, n_ops=1)", "has no argument 'n_ops'"),
        ("cutout(99)", "larger than the 12×12 image"),
        ("cutout(4, fill='meen')", "must be 'mean', 'black'"),
        ("flip|", "cannot read"),
        ("flip + flip", "cannot read"),
        ("__import__('os').system('true')", "cannot read"),
        ("pad_crop(x)", "cannot read"),
        ("flip|view('x')", "out of place"),
    ],
)
def test_errors_name_the_view_and_the_remedy(text, message):
    with pytest.raises(ConfigError, match="views.x") as caught:
        views.parse("x", text, INFO)
    assert message in str(caught.value)


def test_views_start_from_other_views():
    made = make({"a": 'view("b")|cutout(4)', "b": "flip"})
    same = np.all(made["a"].image == made["b"].image, axis=-1)
    assert not same.all() and same.mean() > 0.5
    with pytest.raises(ConfigError, match="starts from itself"):
        views.parse_all({"a": 'view("b")', "b": 'view("a")'}, INFO)
    with pytest.raises(ConfigError, match="no view 'c'"):
        views.parse_all({"a": 'view("c")'}, INFO)


def test_sizes_follow_the_stages():
    texts = {"b": 'view("a")|randaugment(1, 9)', "a": "random_resized_crop(9)", "c": ""}
    sizes = {spec.name: spec.size for spec in views.parse_all(texts, INFO)}
    assert sizes == {"a": (9, 9), "b": (9, 9), "c": (12, 12)}
    assert make(texts)["b"].image.shape == (16, 9, 9, 3)


def test_a_schedule_follows_the_epoch(tmp_path):
    invert = [0] * 60
    invert[10:12], invert[40:42] = [10, 0], [10, 0]  # Invert, always, from either copy
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"segments": [[1, [0] * 60], [2, invert]]}))
    text = {"x": f"schedule('{file}', levels='released_scaled')"}
    specs = views.parse_all(text, INFO, epochs=3)
    values, _ = views.hparams(specs)
    assert values == {}

    @jax.jit
    def run(epoch, batch):
        clock = Clock(np.uint32(0), epoch, np.int32(0))
        return views.make(specs, clock, batch, values, INFO, 1)["x"].image

    batch = batch_of(range(16))
    np.testing.assert_array_equal(run(np.int32(0), batch), batch.image)
    later = np.asarray(run(np.int32(1), batch))
    inverted = (later == 255 - batch.image).all((1, 2, 3))
    # Twice is not at all: 0, 1 and 2 ops come with probability 0.2, 0.3 and 0.5.
    assert inverted.any() and not inverted.all()
    assert (inverted | (later == batch.image).all((1, 2, 3))).all()


def test_a_policy_of_numbers_may_be_swept():
    specs = views.parse_all({"x": "pba(levels='released_scaled')"}, INFO)
    values, ranges = views.hparams(specs)
    assert values["views.x.pba.policy"].shape == (60,)
    new = config.overlay(values, ranges, {"views.x.pba.policy": [5] * 60})
    np.testing.assert_array_equal(new["views.x.pba.policy"], np.full(60, 5, np.int32))
    for wrong in ([5] * 59, 5, [11] * 60, [0.5] * 60):
        with pytest.raises(ConfigError, match=r"^views.x.pba.policy: got"):
            config.overlay(values, ranges, {"views.x.pba.policy": wrong})


def test_a_view_depends_on_seed_epoch_and_index_alone():
    text = {"x": "pad_crop(2)|flip|randaugment(2, 5)|cutout(4)"}
    whole = make(text)["x"].image
    halves = [make(text, part, step=7)["x"].image for part in (range(8), range(8, 16))]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    shuffled = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(whole[shuffled], make(text, shuffled)["x"].image)
    for change in (dict(seed=1), dict(epoch=1)):
        assert not np.array_equal(whole, make(text, **change)["x"].image)


def test_build_gives_what_a_run_gives():
    text = "pad_crop(2)|randaugment(2, 5)|flip"
    batch = batch_of(range(16))
    keys = rng.example_keys(Clock(np.uint32(3), np.int32(2), np.int32(9)), "view/x", batch.index)
    built = jax.jit(views.build_augment(text, mean=INFO.mean))
    expected = make({"x": text}, seed=3, epoch=2)["x"].image
    np.testing.assert_array_equal(built(keys, batch.image), expected)
    with pytest.raises(ConfigError, match="needs a batch"):
        views.build_augment('view("x")|flip')


@pytest.mark.parametrize(
    "text, message",
    [
        ("randaugment(2, 31)", "m is 31; must be a whole number, 0..30"),
        ("flip(1.5)", "flip.probability: got 1.5"),
        ("flip(probability=0.5, probability=0.6)", "flip: argument 'probability' is given twice"),
        ("random_resized_crop(8)|cutout(9)", "larger than the 8×8 image"),
        ("random_resized_crop(8, scale=(0.5, 0.1))", "scale=.0.5, 0.1.; must be two fractions"),
        ("random_resized_crop(8, ratio=3)", "ratio=3; must be two numbers"),
        ("center_crop(8, method='cubic')", "unknown method 'cubic'; did you mean bicubic"),
        ("efficientnet_crop(8, -1)", "padding=-1; must be"),
        ("efficientnet_crop(8)|flip", "comes after a stage that returns floats"),
        ("autoaugment('none.json')", "no file none.json"),
        (3, "got 3; write text"),
    ],
)
def test_build_tells_at_once_what_no_image_would_mend(text, message):
    with pytest.raises(ConfigError, match=message):
        views.build_augment(text)


def test_built_views_refuse_arrays_that_do_not_fit():
    flip, keys = views.build_augment("flip"), jax.random.split(jax.random.key(0), 2)
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for wrong in (images.astype(np.float32), images.tolist()):
        with pytest.raises(TypeError, match="must be uint8 .B,H,W"):
            flip(keys, wrong)
    with pytest.raises(ValueError, match="must be uint8 .B,H,W"):
        flip(keys[:1], images[0])
    for few in (keys[:1], keys[0], jax.random.split(jax.random.PRNGKey(0), 2), 3):
        with pytest.raises(ValueError, match="must be one key for each image"):
            flip(few, images)
    with pytest.raises(ConfigError, match="9 is larger than the 8×8 image"):
        views.build_augment("cutout(9)")(keys, images)
    with pytest.raises(ConfigError, match="padding=32 leave nothing of the 8×8 image"):
        views.build_augment("center_crop(1)")(keys, images)


def test_group_stages_mix_inside_their_group():
    rolled = make({"x": f"{PARTS}.roll"}, groups=4)["x"].index
    np.testing.assert_array_equal(rolled, np.roll(np.arange(16).reshape(4, 4), 1, axis=1).ravel())


def test_batch_stages_get_all_keys(monkeypatch):
    together = make({"x": f"{PARTS}.shift"})["x"].image
    monkeypatch.setattr(f"{PARTS}.shift", parts_of_a_user.shift_one)
    np.testing.assert_array_equal(together, make({"x": f"{PARTS}.shift"})["x"].image)


@pytest.mark.parametrize(
    "text, message",
    [
        ("flip # cutout(4)", "views.x: has a comment, '# cutout(4)', in 'flip # cutout(4)'; take"),
        ("# flip", "views.x: has a comment, '# flip'"),
        ("(flip | # mirrored\n cutout(4))", "views.x: has a comment, '# mirrored'"),
        ("flip|\ncutout(4)", "which has a line break outside of brackets; write all stages on one"),
        ("flip\n|cutout(4)", "which has a line break outside of brackets; write all stages on one"),
    ],
)
def test_nothing_of_a_view_is_left_out(text, message):
    with pytest.raises(ConfigError) as caught:
        views.parse("x", text, INFO)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_line_breaks_inside_of_brackets_and_marks_inside_of_texts_are_read():
    for text in ("(flip |\n cutout(4))", "\n flip|cutout(\n4)\n"):
        spec = views.parse("x", text, INFO)
        assert [call.role for call in spec.calls] == ["flip", "cutout"]
    assert read_calls("x", "name('#1')") == [("name", ["#1"], {})]


def test_images_of_one_channel_are_told_apart_when_a_view_is_built():
    with pytest.raises(ConfigError, match="views.x.randaugment: takes images of 3 channels, and"):
        views.build_augment("flip|randaugment(2, 9)", mean=(128.0,))
    keys, grey = jax.random.split(jax.random.key(0), 2), np.zeros((2, 8, 8, 1), np.uint8)
    for view in (views.build_augment("pad_crop(2)|cutout(4)", mean=(9.0,)),
                 views.build_augment("flip")):
        assert view(keys, grey).shape == (2, 8, 8, 1)
    with pytest.raises(ConfigError) as caught:
        views.build_augment("pad_crop(2)")(keys, grey)
    assert str(caught.value) == (
        "views.x: images have 1 channel, and `mean` is that of 3; build it with a mean of the "
        "images, such as mean=(128.0,)"
    )
    with pytest.raises(ConfigError, match=r"images have 3 channels, and `mean` is that of 1"):
        views.build_augment("cutout(4)", mean=(9.0,))(keys, np.zeros((2, 8, 8, 3), np.uint8))
