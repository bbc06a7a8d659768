import re
from pathlib import Path

import jax
import numpy as np
import pytest

from kdaug_jax import augment

GOLDEN = Path(__file__).parents[1] / "golden" / "augment"
SIZES = ("s32", "s40x24")
affine = jax.jit(jax.vmap(augment.affine_nearest, (0, None, None)))


def golden_cases(prefix):
    for size in SIZES:
        with np.load(GOLDEN / f"{size}.npz") as file:
            for name in file.files:
                if name.startswith(prefix):
                    fill = np.full(3, 128 if "fill128" in name else 0, np.uint8)
                    numbers = [float(text) for text in re.findall(r"=([-.\d]+)", name)]
                    yield f"{size}/{name}", file["in"], numbers, fill, file[name]


@pytest.mark.parametrize("op", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_each_named_op_is_pillow_bit_for_bit(op):
    count = 0
    for name, images, (value,), fill, expected in golden_cases(op):
        count += 1
        result = jax.vmap(lambda one: getattr(augment, op)(one, value, fill))(images)  # noqa: B023
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected, err_msg=name)
    assert count >= 2 * 11


def test_one_compiled_program_serves_all_coefficients():
    before = affine._cache_size()
    for name, images, (value,), fill, expected in golden_cases("shear_x"):
        coefficients = augment.affine_coefficients(1, value, 0, 0, 1, 0)
        result = affine(images, coefficients, fill)
        np.testing.assert_array_equal(result, expected, err_msg=name)
    assert affine._cache_size() - before == len(SIZES)


def test_eager_equals_vmap_and_a_fourth_channel_is_moved_alike():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    fill = np.array([1, 2, 3, 0], np.uint8)
    coefficients = augment.affine_coefficients(1, 0.4, -1, 0.2, 1, 0.7)
    result = augment.affine_nearest(image, coefficients, fill)
    np.testing.assert_array_equal(result, affine(image[None], coefficients, fill)[0])
    three = augment.affine_nearest(image[:, :, :3], coefficients, fill[:3])
    np.testing.assert_array_equal(result[:, :, :3], three)


def test_coefficients_that_16_16_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="32768"):
        augment.affine_coefficients(1, 0, 40000, 0, 1, 0)
    with pytest.raises(ValueError, match="32768"):
        augment.affine_coefficients(1, 0, 0, -32768.5, 1, 0)
