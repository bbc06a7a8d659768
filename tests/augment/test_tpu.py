"""The EfficientNet variant; that it is TensorFlow's, bit for bit, is tested in test_golden."""

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.ops import tpu
from tests.augment.images import photographs

IMAGE = photographs(8, 17, 23)[3]
# Every op of the variant that has an own form, with a magnitude.
OPS = {
    "auto_contrast": (),
    "color": (1.72,),
    "contrast": (1.72,),
    "posterize": (3,),
    "sharpness": (1.72,),
    "smooth": (),
    "solarize": (76,),
}
MAPS = {
    "rotate": 27.0,
    "shear_x": 0.27,
    "shear_y": -0.27,
    "translate_x": 3.5,
    "translate_y": -10.0,
}


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_the_same_eager_traced_and_mapped(op):
    function = getattr(tpu, op)
    eager = np.asarray(function(IMAGE, *OPS[op]))
    assert eager.dtype == np.uint8 and eager.shape == IMAGE.shape
    arguments = [np.asarray([one], np.int32 if type(one) is int else np.float32) for one in OPS[op]]
    np.testing.assert_array_equal(jax.jit(jax.vmap(function))(IMAGE[None], *arguments)[0], eager)
    np.testing.assert_array_equal(jax.jit(function)(IMAGE, *(one[0] for one in arguments)), eager)


@pytest.mark.parametrize("op", MAPS)
def test_a_map_is_the_same_eager_and_with_traced_numbers(op):
    eager = getattr(tpu, op)(IMAGE, MAPS[op])
    value = MAPS[op]
    matrix = {
        "rotate": tpu.rotation(value, 17, 23),
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
    }[op]
    rows = np.asarray([matrix], np.float32)
    traced = jax.jit(jax.vmap(tpu.affine_nearest, (0, 0, None)))(IMAGE[None], rows, 128)
    np.testing.assert_array_equal(traced[0], eager)
    with pytest.raises(TypeError, match="is traced"):
        jax.jit(lambda number: getattr(tpu, op)(IMAGE, number))(1.0)


def test_halves_are_rounded_away_from_zero():
    image = np.arange(1, 8, dtype=np.uint8).reshape(1, 7, 1)
    # Half a pixel beyond the left edge is rounded to the pixel outside.
    moved = np.asarray(tpu.translate_x(image, -0.5, 0))[0, :, 0]
    assert moved.tolist() == [0, 2, 3, 4, 5, 6, 7]
    moved = np.asarray(tpu.translate_x(image, 0.5, 0))[0, :, 0]
    assert moved.tolist() == [2, 3, 4, 5, 6, 7, 0]
    # Half a pixel less 2^-25 is nearer to 0; further on, float32 knows it as a half.
    moved = np.asarray(tpu.translate_x(image, 0.5 - 2**-25, 0))[0, :, 0]
    assert moved.tolist() == [1, 3, 4, 5, 6, 7, 0]
    assert (np.asarray(tpu.translate_x(image, 1e30, 9)) == 9).all()


def test_the_three_errors_and_their_mended_forms():
    solarized = {raw: np.asarray(tpu.solarize(IMAGE, raw)) for raw in (256, 384, 716)}
    for raw, threshold in ((256, 0), (384, 128), (716, 204)):
        np.testing.assert_array_equal(solarized[raw], augment.solarize(IMAGE, threshold))
        np.testing.assert_array_equal(tpu.solarize(IMAGE, raw, clean=True), IMAGE)
    for raw, kept, clean in ((0, 1, 1), (3, 3, 3), (8, 8, 8), (9, 1, 8), (14, 1, 8)):
        np.testing.assert_array_equal(tpu.posterize(IMAGE, raw), augment.posterize(IMAGE, kept))
        mended = tpu.posterize(IMAGE, raw, clean=True)
        np.testing.assert_array_equal(mended, augment.posterize(IMAGE, clean))
    levels = {shape: int(tpu.contrast_level(np.zeros((*shape, 3), np.uint8))) for shape in SIDES}
    assert levels == SIDES
    grey = np.asarray(tpu.grey(IMAGE)).astype(int)
    assert int(tpu.contrast_level(IMAGE, clean=True)) == grey.mean() // 1
    level = np.full(IMAGE.shape, grey.mean() // 1, np.uint8)
    mended = augment.blend(level, IMAGE, *augment.split_alpha(1.4))
    np.testing.assert_array_equal(tpu.contrast(IMAGE, 1.4, clean=True), mended)


SIDES = {(32, 32): 4, (224, 224): 196, (256, 256): 255, (300, 300): 255}


def test_traced_thresholds_and_bits_wrap_as_those_of_the_host_do():
    raw = np.arange(0, 1000, 7, dtype=np.int32)
    for clean in (False, True):
        tables = jax.jit(jax.vmap(lambda one: tpu.solarize_lut(one, clean)))(raw)  # noqa: B023
        host = [tpu.solarize_lut(one, clean) for one in raw.tolist()]
        assert all(isinstance(one, np.ndarray) for one in host)
        np.testing.assert_array_equal(tables, host)
        bits = np.arange(16, dtype=np.int32)
        tables = jax.jit(jax.vmap(lambda one: tpu.posterize_lut(one, clean)))(bits)  # noqa: B023
        host = [tpu.posterize_lut(one, clean) for one in bits.tolist()]
        np.testing.assert_array_equal(tables, host)


def test_images_with_alpha_are_refused_where_that_code_has_none():
    rgba = np.zeros((8, 8, 4), np.uint8)
    for op, arguments in OPS.items():
        with pytest.raises(ValueError, match=r"must be uint8 \[H,W,3\]"):
            getattr(tpu, op)(rgba, *arguments)
