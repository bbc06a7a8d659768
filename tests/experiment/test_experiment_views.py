import jax
import numpy as np
import pytest

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.types import Batch, Clock, Info

INFO = Info(4, (12, 12), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))


def batch_of(index):
    images = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)
    index = np.asarray(index, np.int32)
    return Batch(images[index], index % 4, index, np.ones(len(index), bool))


def make(expressions, index=range(16), seed=0, epoch=0, step=0, groups=1):
    plans = views.ordered(
        {name: views.parse(name, text, INFO) for name, text in expressions.items()}
    )
    values, _ = views.hparams(plans)
    clock = Clock(np.uint32(seed), np.int32(epoch), np.int32(step))
    run = jax.jit(lambda batch: views.make(plans, clock, batch, values, INFO, groups))
    return run(batch_of(index))


def test_numbers_have_paths_and_repeats_are_numbered():
    plan = views.parse("x", "randaugment(2, 3)|flip|randaugment(1, m=4)", INFO)
    values, ranges = views.hparams((plan,))
    assert values == {
        "views.x.randaugment.m": 3,
        "views.x.flip.probability": 0.5,
        "views.x.randaugment_1.m": 4,
    }
    assert ranges["views.x.randaugment.m"].high == 10


def test_repeated_stages_draw_differently():
    plan = views.parse("x", "randaugment(1, 5)|randaugment(1, 5)", INFO)
    keys = rng.example_keys(Clock(np.uint32(0), np.int32(0), np.int32(0)), "view/x", np.arange(3))
    first, second = (rng.fold(keys, call.role) for call in plan.calls)
    assert not np.array_equal(jax.random.key_data(first), jax.random.key_data(second))


@pytest.mark.parametrize(
    "text, message",
    [
        ("flipp", "unknown stage 'flipp'; did you mean flip"),
        ("pad_crop", "argument 'padding' is missing"),
        ("pad_crop(4.5)", "must be a int"),
        ("pad_crop(1, 2, 3)", "got 3 arguments"),
        ("pad_crop(1, padding=1)", "given twice"),
        ("randaugment(2, 11)", "must be at least 0 and at most 10"),
        ("randaugment(2, -1)", "must be at least 0"),
        ("randaugment(2, 3.5)", "must be a whole number"),
        ("randaugment(2, 3, space='wei2021')", "did you mean wei2020"),
        ("randaugment(2, 3, n_ops=1)", "has no argument 'n_ops'"),
        ("cutout(99)", "larger than the 12x12 image"),
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
        views.ordered(
            {n: views.parse(n, f'view("{o}")', INFO) for n, o in (("a", "b"), ("b", "a"))}
        )
    with pytest.raises(ConfigError, match="no view 'c'"):
        views.ordered({"a": views.parse("a", 'view("c")', INFO)})


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
    built = jax.jit(views.build(text, size=(12, 12), mean=INFO.mean))
    expected = make({"x": text}, seed=3, epoch=2)["x"].image
    np.testing.assert_array_equal(built(keys, batch.image), expected)
    with pytest.raises(ConfigError, match="needs a batch"):
        views.build('view("x")|flip')


def test_group_stages_mix_inside_their_group(monkeypatch):
    from kdaug_jax.augment.stage import Stage

    def roll(key, view):
        return jax.tree.map(lambda array: jax.numpy.roll(array, 1, axis=0), view)

    monkeypatch.setitem(views.STAGES, "roll", Stage(roll, form="group"))
    rolled = make({"x": "roll"}, groups=4)["x"].index
    np.testing.assert_array_equal(rolled, np.roll(np.arange(16).reshape(4, 4), 1, axis=1).ravel())


def test_batch_stages_get_all_keys(monkeypatch):
    from kdaug_jax.augment.stage import Stage

    def shift(keys, images):
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, 9))(keys).astype("uint8")
        return images + draw[:, None, None, None]

    def shift_one(key, image):
        return image + jax.random.randint(key, (), 0, 9).astype("uint8")

    monkeypatch.setitem(views.STAGES, "shift", Stage(shift, form="batch"))
    together = make({"x": "shift"})["x"].image
    monkeypatch.setitem(views.STAGES, "shift", Stage(shift_one))
    np.testing.assert_array_equal(together, make({"x": "shift"})["x"].image)
