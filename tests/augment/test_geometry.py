import re

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import augment
from kdaug_jax.augment.ops import geometry
from tests import golden_augment
from tests.augment.images import augment_cases, photographs, through_pillow

affine = jax.jit(jax.vmap(augment.affine_nearest, (0, None, None)))
OPS = {
    "rotate": lambda image, value, **kw: image.rotate(value, **kw),
    "shear_x": lambda image, value, **kw: moved(image, (1, value, 0, 0, 1, 0), **kw),
    "shear_y": lambda image, value, **kw: moved(image, (1, 0, 0, value, 1, 0), **kw),
    "translate_x": lambda image, value, **kw: moved(image, (1, 0, value, 0, 1, 0), **kw),
    "translate_y": lambda image, value, **kw: moved(image, (1, 0, 0, 0, 1, value), **kw),
}


def moved(image, matrix, **kw):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **kw)


def golden_cases(prefix):
    arrays = augment_cases("s40x24")
    for name, expected in arrays.items():
        if name.startswith(prefix) and not re.search("bilinear|bicubic", name):
            fill = np.full(3, 128 if "fill128" in name else 0, np.uint8)
            yield name, arrays["in"], float(name.split("=")[1]), fill, expected


@pytest.mark.parametrize("op", OPS)
def test_each_named_op_is_pillow_bit_for_bit(op):
    count = 0
    for name, images, value, fill, expected in golden_cases(op):
        count += 1
        result = jax.vmap(lambda one: getattr(augment, op)(one, value, fill))(images)  # noqa: B023
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected, err_msg=name)
    assert count >= 11


@pytest.mark.parametrize("op", OPS)
def test_random_magnitudes_are_pillow_bit_for_bit(op):
    images = photographs(24, 33, 47)
    rng = np.random.default_rng(0)
    reach = {"rotate": 400, "shear_x": 2, "shear_y": 2}.get(op, 60)
    values = np.append(rng.uniform(-reach, reach, 20).round(2), [0, 90, 180, -2.5])
    fill = np.array([1, 2, 3], np.uint8)
    expected = through_pillow(
        lambda image, value: OPS[op](image, float(value), fillcolor=(1, 2, 3)), images, values
    )
    result = [getattr(augment, op)(*row, fill) for row in zip(images, values, strict=True)]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_interpolated_maps_of_images_with_alpha_are_pillow_bit_for_bit(method):
    images = photographs(40, 17, 23, 4)
    rng = np.random.default_rng(1)
    fill = (200, 100, 7, 130)
    names = [*OPS] * 8
    # Few decimals, so that many sums fall on whole numbers, where the roundings decide.
    values = rng.uniform(-1, 1, 40).round(2) * [{"r": 180, "s": 1, "t": 20}[n[0]] for n in names]
    expected = through_pillow(
        lambda image, op, value: OPS[op](
            image, value, resample=Image.Resampling[method.upper()], fillcolor=fill
        ),
        images,
        names,
        values.tolist(),
    )
    matrices = [
        golden_augment.matrix_of(op, value, 17, 23)
        for op, value in zip(names, values.tolist(), strict=True)
    ]
    function = jax.jit(
        jax.vmap(getattr(augment, f"affine_{method}"), (0, 0, None)),
        compiler_options=golden_augment.QUICK,
    )
    bits = np.stack([augment.exact_coefficients(*matrix) for matrix in matrices])
    result = np.asarray(function(images, bits, np.array(fill, np.uint8)))
    np.testing.assert_array_equal(result, expected)
    # Half a turn moves whole pixels and leaves colours under alpha as they are.
    half = augment.rotate(images[0], 180, fill, method)
    np.testing.assert_array_equal(half, images[0, ::-1, ::-1])


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_named_ops_give_their_maps_to_the_interpolation(monkeypatch, method):
    image, fill = photographs(40, 17, 23, 4)[1], np.array([1, 2, 3, 4], np.uint8)
    seen = []
    monkeypatch.setitem(geometry._INTERPOLATED, method, lambda *arguments: seen.append(arguments))
    for op, value in zip(OPS, (33.5, 0.3, -0.7, 4.5, -3.25), strict=True):
        getattr(augment, op)(image, value, fill, method)
        matrix = golden_augment.matrix_of(op, value, 17, 23)
        given, bits, colour = seen.pop()
        assert given is image and colour is fill and not seen
        np.testing.assert_array_equal(bits, augment.exact_coefficients(*matrix))


def test_one_compiled_program_serves_all_coefficients():
    before = affine._cache_size()
    for name, images, value, fill, expected in golden_cases("shear_x"):
        coefficients = augment.affine_coefficients(1, value, 0, 0, 1, 0)
        result = affine(images, coefficients, fill)
        np.testing.assert_array_equal(result, expected, err_msg=name)
    assert affine._cache_size() - before == 1


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


@pytest.mark.parametrize("op", OPS)
def test_what_cannot_be_mapped_is_refused(op):
    image, fill = np.zeros((5, 7, 3), np.uint8), np.zeros(3, np.uint8)
    function = getattr(augment, op)
    with pytest.raises(ValueError, match="must be a number that is finite"):
        function(image, float("nan"), fill)
    with pytest.raises(TypeError, match="is traced; it must be a Python number"):
        jax.jit(lambda value: function(image, value, fill))(1.0)
    with pytest.raises(ValueError, match="did you mean bilinear"):
        function(image, 1.0, fill, "bilinera")
    if op != "rotate":
        with pytest.raises(ValueError, match="32768"):
            function(image, 1e6, fill)
