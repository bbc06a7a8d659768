"""Mixing as the view language runs it: messages, groups, devices, traced numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.runtime import sharding
from kdaug_jax.types import Batch, Clock, Info

INFO = Info(4, (12, 12), np.zeros(16, np.int32), (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))
BOTH = "flip|mixup_or_cutmix(0.8, 1.0, per='example', partner='derangement')"
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), np.uint8)


@functools.cache
def program(text, groups):
    """`f(step, batch, numbers)` and the default numbers; compiled once a layout."""
    spec = views.parse("x", text, INFO)

    def run(step, batch, numbers):
        clock = Clock(jnp.uint32(0), jnp.int32(0), step)
        return views.make((spec,), clock, batch, numbers, INFO, groups)["x"]

    return jax.jit(run), views.hparams((spec,))[0]


def made(text, groups=1, devices=1, step=0, **numbers):
    index = np.arange(16, dtype=np.int32)
    batch = Batch(IMAGES, index % 4, index, np.ones(16, bool))
    run, values = program(text, groups)
    numbers = {f"views.x.{name}": np.float32(value) for name, value in numbers.items()}
    on_mesh = sharding.put_batch(sharding.make_mesh(devices, 16), batch)
    return run(jnp.int32(step), on_mesh, {**values, **numbers})


def test_numbers_are_traced_and_have_paths():
    spec = views.parse("x", "mixup_or_cutmix(0.8, 1)|mixup(0.2, probability=0.5)", INFO)
    values, ranges = views.hparams((spec,))
    assert values == {
        "views.x.mixup_or_cutmix.mixup_alpha": np.float32(0.8),
        "views.x.mixup_or_cutmix.cutmix_alpha": 1.0,
        "views.x.mixup_or_cutmix.switch": 0.5,
        "views.x.mixup_or_cutmix.probability": 1.0,
        "views.x.mixup.alpha": np.float32(0.2),
        "views.x.mixup.probability": 0.5,
    }
    assert ranges["views.x.mixup.probability"].high == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("mixup(0)", "must be more than 0; to switch it off, take the stage out or set"),
        ("cutmix(-1.0)", "views.x.cutmix.alpha: got -1.0"),
        ("mixup_or_cutmix", "argument 'mixup_alpha' is missing"),
        ("mixup(1.0, 1.5)", "at most 1"),
        ("mixup(1.0, per='exmaple')", "unknown per 'exmaple'; did you mean example"),
        ("cutmix(1.0, partner='derange')", "unknown partner 'derange'; did you mean derangement"),
        ("mixup_or_cutmix(1.0)", "argument 'cutmix_alpha' is missing"),
        ("mixup_or_cutmix(1.0, 1.0, switch=2)", "views.x.mixup_or_cutmix.switch: got 2"),
        ("mixup(1.0, partner=3)", "must be a str"),
    ],
)
def test_wrong_arguments_are_told(text, message):
    with pytest.raises(ConfigError, match="views.x") as error:
        views.parse("x", text, INFO)
    assert message in str(error.value)


def test_groups_of_one_are_refused():
    with pytest.raises(ConfigError, match="views.x.mixup: mixes inside groups of 1"):
        made("mixup(1.0)", groups=16)


@pytest.mark.parametrize("groups", [1, 4])
def test_views_are_the_same_on_any_number_of_devices(groups):
    single, sharded = (made(BOTH, groups, devices=devices) for devices in (1, 4))
    for before, after in zip(jax.tree.leaves(single), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_array_equal(before, after)


def test_mixing_stays_inside_groups_and_changes_with_the_step():
    numbers = {"flip.probability": 0, "mixup_or_cutmix.switch": 1}
    cut, later = (made(BOTH, 4, step=step, **numbers) for step in (0, 1))
    # Every pixel is that of an image of the group at the same place.
    images, mixed = IMAGES.reshape(4, 1, 4, 12, 12, 3), np.asarray(cut.image)
    of_group = images == mixed.reshape(4, 4, 1, 12, 12, 3)
    assert of_group.any(2).all() and (cut.image != IMAGES).any()
    assert (np.asarray(cut.image) != later.image).any()
    np.testing.assert_array_equal(cut.label, np.arange(16) % 4)
    np.testing.assert_array_equal(cut.index, np.arange(16))
    np.testing.assert_allclose(cut.target.sum(-1), 1, atol=1e-6)


def test_each_group_draws_its_own_share():
    shares = np.asarray(made("mixup(1.0)", 4).target).max(-1).reshape(4, 4)
    assert len(np.unique(shares.round(6))) > 2


def test_probability_0_leaves_a_view_as_it_was():
    off = {"flip.probability": 0, "mixup_or_cutmix.probability": 0}
    view = made(BOTH, 4, **off)
    np.testing.assert_array_equal(view.image, IMAGES)
    np.testing.assert_array_equal(view.target, jax.nn.one_hot(np.arange(16) % 4, 4))
