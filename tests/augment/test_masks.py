import re

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.errors import ArgumentError
from tests.augment.images import augment_cases

BLACK = np.zeros(3, np.uint8)
WHITE = np.full((8, 6, 3), 255, np.uint8)
cutout = jax.jit(jax.vmap(augment.cutout, (0, None, None, None, None)))
many = jax.jit(jax.vmap(augment.random_cutout, (0, None, None, None, None)), static_argnums=3)


def test_cutout_is_the_reference_bit_for_bit():
    images = augment_cases("s40x24")
    names = [name for name in images if re.match(r"cutout_fill\d", name)]
    assert len(names) == 10
    for name in names:
        cy, cx, side = map(int, re.findall(r"=(\d+)", name))
        fill = np.full(3, 128 if "fill128" in name else 0, np.uint8)
        result = cutout(images["in"], cy, cx, side, fill)
        np.testing.assert_array_equal(result, images[name], err_msg=name)
        eager = augment.cutout(images["in"][0], cy, cx, side, fill)
        np.testing.assert_array_equal(eager, images[name][0], err_msg=name)


def test_erase_square_erases_exactly_its_square():
    expected = WHITE.copy()
    expected[2:5, 1:4] = (7, 8, 9)
    result = augment.erase_square(WHITE, 2, 1, 3, np.array([7, 8, 9], np.uint8))
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(augment.erase_square(WHITE, 2, 1, 0, BLACK), WHITE)


def test_random_cutout_centres_are_uniform_over_the_whole_image():
    # A side of 2 covers rows cy-1 and cy, so the last erased row and column are the centre.
    keys = jax.random.split(jax.random.key(0), 4800)
    erased = np.asarray(many(keys, WHITE, 2, 1, BLACK))[..., 0] == 0
    rows = 7 - np.argmax(erased.any(2)[:, ::-1], axis=1)
    columns = 5 - np.argmax(erased.any(1)[:, ::-1], axis=1)
    counts = np.histogram2d(rows, columns, bins=(np.arange(9), np.arange(7)))[0]
    # 48 cells of 100 expected: chi-square of 47 degrees stays under 83 but once in 1,000.
    assert ((counts - 100) ** 2 / 100).sum() < 83


def test_holes_are_drawn_apart_and_length_is_traced():
    keys = jax.random.split(jax.random.key(1), 64)
    before = many._cache_size()
    one = np.asarray(many(keys, WHITE, 2, 1, BLACK))
    np.testing.assert_array_equal(many(keys, WHITE, 0, 1, BLACK)[0], WHITE)
    assert many._cache_size() - before <= 1
    two = np.asarray(many(keys, WHITE, 2, 2, BLACK))
    erased = (two[..., 0] == 0).sum((1, 2))
    assert erased.max() == 8 and erased.mean() > (one[..., 0] == 0).sum((1, 2)).mean()


def test_a_colour_name_is_not_a_colour():
    with pytest.raises(TypeError, match="mean"):
        augment.random_cutout(jax.random.key(0), WHITE, 2)


@pytest.mark.parametrize(
    "arguments", [{"length": 41, "n_holes": 1}, {"length": 4, "n_holes": 0}], ids=str
)
def test_check_refuses_what_does_not_fit_the_image(arguments):
    check = augment.STAGES["cutout"].check
    check({"length": 40, "n_holes": 1}, (40, 24))
    with pytest.raises(ValueError) as error:
        check(arguments, (40, 24))
    assert len(error.value.args) == 2


def test_paint_refuses_batches_and_masks_of_other_sizes():
    mask = np.zeros((8, 6), bool)
    mask[2, 3] = True
    painted = augment.paint(WHITE, mask, BLACK)
    assert (np.asarray(painted) == 0).all(axis=2).sum() == 1 and (painted[2, 3] == 0).all()
    for image, other in ((WHITE[None], mask), (WHITE, mask[:1]), (WHITE, mask.astype(np.float32))):
        with pytest.raises(ArgumentError, match=r"must be \[H,W,C\] and bool\[H,W\], map over a"):
            augment.paint(image, other, BLACK)


@pytest.mark.parametrize("call, message", [
    (lambda: augment.cutout(WHITE, 0.5, 2, 2, BLACK), "cy=0.5; must be a whole number"),
    (lambda: augment.erase_square(WHITE, 2, 0.5, 2, BLACK), "left=0.5; must be a whole number"),
    (lambda: augment.pad_crop(WHITE, 5, 0, 2, BLACK), "top=5; must be a whole number 0..4"),
    (lambda: augment.pad_crop(WHITE, 1, 0.5, 2, BLACK), "left=0.5; must be a whole number 0..4"),
    (lambda: augment.apply_lut(WHITE, np.linspace(0, 1, 256)), "levels from 0 to 1; must be whole"),
    (lambda: augment.apply_lut(WHITE, 2 * np.arange(256)), "levels from 0 to 510; must be whole"),
    (lambda: augment.posterize(WHITE, jax.numpy.float32(4.5)), "bits=4.5; must be a whole number"),
    (lambda: augment.cutout(WHITE, 2, 2, 2, jax.numpy.array([300, 0, 0])), "fill=.*; must be 3 w"),
    (lambda: augment.random_flip(jax.random.key(0), WHITE, 50.0), "probability=50.0; must be a n"),
])
def test_places_levels_and_probabilities_of_other_units_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
