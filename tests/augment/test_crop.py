import re

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from tests.augment.images import augment_cases

BLACK = np.zeros(3, np.uint8)
IMAGE = np.random.default_rng(0).integers(1, 256, (6, 5, 3), np.uint8)
pad_crop = jax.jit(jax.vmap(augment.pad_crop, (0, None, None, None, None)))
flips = jax.jit(jax.vmap(augment.random_flip, (0, None, None)))


def test_pad_crop_and_flip_are_the_reference_bit_for_bit():
    images = augment_cases("s40x24")
    names = [name for name in images if name.startswith("pad4_crop")]
    assert len(names) == 4
    for name in names:
        top, left = map(int, re.findall(r"=(\d+)", name))
        result = pad_crop(images["in"], top, left, 4, BLACK)
        np.testing.assert_array_equal(result, images[name], err_msg=name)
        eager = augment.pad_crop(images["in"][0], top, left, 4, BLACK)
        np.testing.assert_array_equal(eager, images[name][0], err_msg=name)
    np.testing.assert_array_equal(jax.vmap(augment.flip)(images["in"]), images["flip_lr"])


# Chi-square of 24 and of 15 degrees stays under 52 and 38 but once in 1,000.
@pytest.mark.parametrize(("last", "count", "limit"), [(True, 5, 52), (False, 4, 38)])
def test_random_pad_crop_draws_all_places_alike(last, count, limit):
    keys = jax.random.split(jax.random.key(0), 100 * count**2)
    crop = jax.jit(jax.vmap(augment.random_pad_crop, (0, *[None] * 4)), static_argnums=(2, 4))
    results = np.asarray(crop(keys, IMAGE, 2, BLACK, last))
    places = {
        np.asarray(pad_crop(IMAGE[None], top, left, 2, BLACK)).tobytes(): top * count + left
        for top in range(count)
        for left in range(count)
    }
    counts = np.bincount([places[one.tobytes()] for one in results], minlength=count**2)
    assert ((counts - 100) ** 2 / 100).sum() < limit


def test_no_padding_changes_nothing_with_or_without_the_last_place():
    for last in (True, False):
        result = augment.random_pad_crop(jax.random.key(0), IMAGE, 0, BLACK, last)
        np.testing.assert_array_equal(result, IMAGE)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_random_flip_mirrors_with_its_probability(probability):
    keys = jax.random.split(jax.random.key(0), 1000)
    results = np.asarray(flips(keys, IMAGE, probability))
    mirrored = (results == IMAGE[None, :, ::-1]).all((1, 2, 3))
    kept = (results == IMAGE[None]).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.mean() - probability) <= (0.05 if probability == 0.5 else 0.0)


def test_check_refuses_padding_that_does_not_fit():
    check = augment.STAGES["pad_crop"].check
    check({"padding": 4}, (32, 32))
    for padding in (-1, 33):
        with pytest.raises(ValueError) as error:
            check({"padding": padding}, (40, 32))
        assert len(error.value.args) == 2
