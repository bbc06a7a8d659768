"""The leading part of a view: what it may be, and that it is the same on host and device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import data
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.training.cropping import host_crops
from kdaug_jax.types import Info
from tests.conftest import tiny_config

MIXED = Info(4, None, np.zeros(8, np.int32), (1.0,) * 3, (1.0,) * 3, mixed="train: 8 of 9 sizes")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}


def settled(**texts):
    return views.parse_all(texts, views.with_crops(MIXED, texts, "auto"))


@pytest.mark.parametrize("text, calls, draws, size", [
    ("random_resized_crop(8)", 1, 1, (8, 8)),
    ("random_resized_crop(8)|flip", 1, 1, (8, 8)),
    ("repeat(3)|inception_crop(6)|flip", 2, 3, (6, 6)),
    ("resize(4, 6)|flip", 1, 1, (4, 6)),
    ("resize_shorter(9)|crop_center(8)", 2, 1, (8, 8)),
    ("repeat(2)|resize_shorter(9)|crop_random(5)|repeat(2)", 3, 2, (5, 5)),
    ("crop_center(7)", 1, 1, (7, 7)),
])
def test_a_view_begins_with_what_fixes_the_size(text, calls, draws, size):
    (spec,) = settled(x=text)
    assert (spec.leading.calls, spec.leading.draws) == (calls, draws)
    assert spec.leading.plan.size == size


def test_the_size_of_a_mixed_set_is_that_of_the_first_view():
    texts = {"x": "random_resized_crop(8)", "y": 'view("x")|flip', "z": "center_crop(6)"}
    assert views.with_crops(MIXED, texts, "auto").size == (8, 8)
    sizes = {spec.name: spec.size for spec in settled(**texts)}
    assert sizes == {"x": (8, 8), "y": (8, 8), "z": (6, 6)}


@pytest.mark.parametrize("text, where, words", [
    ("", "views.x", "does not fix one; begin it with random_resized_crop"),
    ("flip|random_resized_crop(8)", "views.x", "does not fix one"),
    ("pad_crop(4)", "views.x", "does not fix one"),
    ("randaugment(2, 9)", "views.x", "does not fix one"),
    ("cutmix(1.0)", "views.x", "does not fix one"),
    ("repeat(2)", "views.x", "does not fix one"),
    ("resize_shorter(9)", "views.x.resize_shorter", "sizes; write resize_shorter(...)|crop_center"),
    ("resize_shorter(9)|flip", "views.x.resize_shorter", "several sizes"),
    ("resize_shorter(9)|repeat(2)|crop_random(4)", "views.x.resize_shorter", "several sizes"),
    ("center_crop(0)", "views.x.center_crop", "at least 1"),
])
def test_a_view_that_leaves_sizes_mixed_is_refused(text, where, words):
    with pytest.raises(ConfigError) as error:
        settled(x=text)
    assert error.value.where == where and words in str(error.value)


def test_mixed_sizes_cannot_be_cropped_on_the_device():
    with pytest.raises(ConfigError, match="data.crop: 'device' takes images of one size"):
        views.with_crops(MIXED, {"x": "random_resized_crop(8)"}, "device")


VIEWS = {
    "x": "random_resized_crop(8)|flip",
    "y": "repeat(2)|inception_crop(6)|flip|pad_crop(1)",
    "plain": "",
    "clean": "efficientnet_crop(6, 2)",
    "a2": "resize_shorter(10)|crop_random(8)|randaugment(1, 5)",
    "z": 'view("x")|cutout(4)',
}


def made_views(crop, steps, seeds=(0,)):
    """All views of some steps, by member, with crops on the host or on the device."""
    dataset = data.load("synthetic:12x17,4,24", SPLITS)
    terms = {name: dict(loss="cross_entropy", on=(name,)) for name in VIEWS}
    config = tiny_config(views=VIEWS, terms=terms, data=dict(crop=crop))
    info = views.with_crops(data.describe(dataset), VIEWS, crop)
    (program,) = build_programs(config, info)
    split = dataset.splits["train"]
    members = [{**program.hparams, "seed": np.uint32(seed)} for seed in seeds]
    crops, _ = host_crops((program,), [members], split) or (None, {})
    assert (crops is None) == (crop == "device")
    feed = data.make_feed(split, 0, 8, device_bytes=10**9, crops=crops)

    def make_views(clock, batch):
        return program.make_views(clock, batch, program.hparams, {}, {})[0]

    make = jax.jit(make_views)
    results = {}
    for step in steps:
        item = feed.item(step)
        for member, seed in enumerate(seeds):
            batch = feed.batch(feed.constants, feed.select(item, member))
            clock = program.clock(jnp.int32(step), {"seed": np.uint32(seed)})
            results[step, seed] = jax.device_get(make(clock, batch))
    feed.close()
    return results


def test_where_a_crop_runs_changes_no_pixel():
    device = made_views("device", (0, 1, 5), (0, 3))
    host = made_views("host", (0, 1, 5), (0, 3))
    for place, expected in device.items():
        for name, view in expected.items():
            jax.tree.map(np.testing.assert_array_equal, host[place][name], view)
    again = made_views("host", (5,), (3,))
    jax.tree.map(np.testing.assert_array_equal, again[5, 3], device[5, 3])
    different = host[0, 0]["x"].image, host[0, 3]["x"].image
    assert (different[0] != different[1]).any()
