import re
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax import augment

GOLDEN = Path(__file__).parents[1] / "golden" / "augment"
BLACK = np.zeros(3, np.uint8)
IMAGE = np.random.default_rng(0).integers(1, 256, (6, 5, 3), np.uint8)
pad_crop = jax.jit(jax.vmap(augment.pad_crop, (0, None, None, None, None)))
flips = jax.jit(jax.vmap(augment.random_flip, (0, None, None)))


@pytest.mark.parametrize("size", ["s32", "s40x24"])
def test_pad_crop_and_flip_are_the_reference_bit_for_bit(size):
    with np.load(GOLDEN / f"{size}.npz") as file:
        names = [name for name in file.files if name.startswith("pad4_crop")]
        assert len(names) == 4
        for name in names:
            top, left = map(int, re.findall(r"=(\d+)", name))
            result = pad_crop(file["in"], top, left, 4, BLACK)
            np.testing.assert_array_equal(result, file[name], err_msg=name)
            eager = augment.pad_crop(file["in"][0], top, left, 4, BLACK)
            np.testing.assert_array_equal(eager, file[name][0], err_msg=name)
        np.testing.assert_array_equal(jax.vmap(augment.flip)(file["in"]), file["flip_lr"])


def test_random_pad_crop_draws_all_places_alike():
    keys = jax.random.split(jax.random.key(0), 2500)
    crop = jax.jit(jax.vmap(augment.random_pad_crop, (0, None, None, None)), static_argnums=2)
    results = np.asarray(crop(keys, IMAGE, 2, BLACK))
    places = {
        np.asarray(augment.pad_crop(IMAGE, top, left, 2, BLACK)).tobytes(): top * 5 + left
        for top in range(5)
        for left in range(5)
    }
    counts = np.bincount([places[one.tobytes()] for one in results], minlength=25)
    # 25 places of 100 expected: chi-square of 24 degrees stays under 52 but once in 1,000.
    assert ((counts - 100) ** 2 / 100).sum() < 52


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
