"""Tables, blends, statistics and filters against Pillow on pieces of photographs."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from kdaug_jax import augment
from kdaug_jax.augment.ops import lut
from tests.augment.images import photographs, through_pillow
from tests.golden_augment import QUICK

SHAPES = [(33, 47, 3), (17, 23, 4), (224, 224, 3)]
COUNT = 16


def over_rgb(function):
    """Runs an op of RGB images on RGBA too, as PBA does: alpha is 255 afterwards."""

    def run(image, *arguments):
        return function(image.convert("RGB"), *arguments).convert(image.mode)

    return run


def enhance(kind):
    return lambda image, factor: getattr(ImageEnhance, kind)(image).enhance(factor)


def solarize_add(image, addition):
    return image.point([min(255, v + addition) if v < 128 else v for v in range(256)] * 3)


def factors(rng):
    """Those of AutoAugment, where merged roundings show, and any others."""
    levels = np.arange(11) * 1.8 / 10 + 0.1
    return np.concatenate([levels, rng.uniform(0, 6, COUNT - 13), [0.0, 1.0]]).astype(np.float32)


# Each op of ours, the same in Pillow, and what draws its magnitudes if it has one.
OPS = {
    "identity": (lambda image: image, None),
    "invert": (over_rgb(ImageOps.invert), None),
    "auto_contrast": (over_rgb(ImageOps.autocontrast), None),
    "equalize": (over_rgb(ImageOps.equalize), None),
    "smooth": (lambda image: image.filter(ImageFilter.SMOOTH), None),
    "blur": (lambda image: image.filter(ImageFilter.BLUR), None),
    "solarize": (over_rgb(ImageOps.solarize), lambda rng: rng.integers(0, 257, COUNT)),
    "solarize_add": (over_rgb(solarize_add), lambda rng: rng.integers(0, 256, COUNT)),
    "posterize": (over_rgb(ImageOps.posterize), lambda rng: np.arange(COUNT) % 8 + 1),
    "brightness": (enhance("Brightness"), factors),
    "contrast": (enhance("Contrast"), factors),
    "color": (enhance("Color"), factors),
    "sharpness": (enhance("Sharpness"), factors),
}


@functools.cache
def mapped(op):
    # Only float32 needs the compiler as it is, because it is that which merges roundings.
    quick = None if OPS[op][1] is factors else QUICK
    return jax.jit(jax.vmap(getattr(augment, op)), compiler_options=quick)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_an_op_is_pillow_bit_for_bit_under_vmap_and_jit(op, shape):
    reference, draw = OPS[op]
    images = photographs(COUNT, *shape)[: 4 if shape[0] > 200 else COUNT]
    magnitudes = () if draw is None else (draw(np.random.default_rng(0))[: len(images)],)
    expected = through_pillow(reference, images, *(one.tolist() for one in magnitudes))
    traced = [one.astype(np.int32) if one.dtype == int else one for one in magnitudes]
    result = mapped(op)(images, *traced)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("op", OPS)
def test_an_op_alone_is_the_same_with_a_host_number_and_with_a_traced_one(op):
    reference, draw = OPS[op]
    magnitude = () if draw is None else (draw(np.random.default_rng(0))[2].item(),)
    for channels, function in ((3, getattr(augment, op)), (4, jax.jit(getattr(augment, op)))):
        image = photographs(COUNT, 17, 23, channels)[3]
        (expected,) = through_pillow(reference, image[None], *([one] for one in magnitude))
        np.testing.assert_array_equal(function(image, *magnitude), expected)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_filters_of_images_smaller_than_they_are_do_as_pillow(side):
    image = photographs(8, 5, 5)[0][:side]
    for op in ("smooth", "blur"):
        (expected,) = through_pillow(OPS[op][0], image[None])
        np.testing.assert_array_equal(jax.jit(getattr(augment, op))(image), expected)


@pytest.fixture(scope="module")
def stretches():
    """Low and high `[65536,1]` of all ranges, all values `[1,256]`, and the table of each range."""
    low, high = (side.reshape(-1, 1).astype(np.int32) for side in np.mgrid[:256, :256])
    tables = jax.jit(jax.vmap(augment.stretch_lut), compiler_options=QUICK)(low[:, 0], high[:, 0])
    return low, high, np.arange(256)[None], np.asarray(tables).astype(int)


def test_the_table_of_auto_contrast_is_pillow_for_all_ranges(stretches):
    low, high, values, tables = stretches
    # The arithmetic of Python's floats, as `ImageOps.autocontrast` writes it.
    scale = 255.0 / np.maximum(high - low, 1)
    stretched = np.clip(np.trunc(values * scale + -low * scale), 0, 255)
    np.testing.assert_array_equal(tables, np.where(high > low, stretched, values))


def test_pillow_gives_one_less_than_whole_numbers_would_in_12094_cases(stretches):
    low, high, values, tables = stretches
    exact = (values - low) * 255 // np.maximum(high - low, 1)
    differs = (low < high) & (low <= values) & (values <= high) & (tables != exact)
    assert (tables[differs] == exact[differs] - 1).all()
    pair, value = np.nonzero(differs)
    triples = np.stack([low[pair, 0], high[pair, 0], value], axis=1)
    assert len(triples) == 12_094
    # What a search through all (low, high, value) in double precision found, apart from this code.
    digest = hashlib.sha256(triples.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "d3205e617eadd6bbf3171a338ca6b1d1c705419fa9f86ec77fbd75619672afce"


def test_all_blends_of_two_bytes_are_pillow_for_the_factors_of_autoaugment():
    degenerate, value = np.mgrid[:256, :256].astype(np.uint8)
    blend = jax.jit(augment.blend)
    images = [Image.fromarray(one) for one in (degenerate, value)]
    for factor in factors(np.random.default_rng(0)).tolist():
        expected = np.asarray(Image.blend(*images, factor))
        host = augment.blend(degenerate, value, *augment.split_alpha(factor))
        assert isinstance(host, np.ndarray)
        np.testing.assert_array_equal(host, expected)
        parts = map(jnp.asarray, augment.split_alpha(factor))
        np.testing.assert_array_equal(blend(degenerate, value, *parts), expected)


def test_factors_split_exactly():
    factor = np.random.default_rng(0).uniform(0, 10, 1000).astype(np.float32)
    for upper, rest in (augment.split_alpha(factor), augment.split_alpha(jnp.asarray(factor))):
        np.testing.assert_array_equal(np.asarray(upper) + np.asarray(rest), factor)
        assert not (np.asarray(upper).view(np.uint32) & 0xFFF).any()
        for part in (upper, rest):
            product = np.asarray(part, np.float64)[:, None] * np.arange(256)
            np.testing.assert_array_equal(product.astype(np.float32), product)


def test_tables_of_host_numbers_ask_no_device():
    tables = {
        "identity": lut.identity_lut(),
        "invert": lut.invert_lut(),
        "solarize": lut.solarize_lut(100),
        "solarize_add": lut.solarize_add_lut(30),
        "posterize": lut.posterize_lut(3),
        "brightness": lut.brightness_lut(1.3),
    }
    image = photographs(8, 5, 5)[1]
    for op, table in tables.items():
        assert isinstance(table, np.ndarray) and table.dtype == np.uint8 and table.shape == (256,)
        magnitude = {"solarize": 100, "solarize_add": 30, "posterize": 3, "brightness": 1.3}
        expected = getattr(augment, op)(image, *([magnitude[op]] if op in magnitude else []))
        np.testing.assert_array_equal(augment.apply_lut(image, table), expected)
    rows = augment.with_alpha(tables["invert"], opaque=True)
    assert isinstance(rows, np.ndarray) and (rows[3] == 255).all() and rows.shape == (4, 256)


def test_histogram_and_mean_count_every_pixel():
    image = photographs(8, 17, 23, 4)[5]
    counts = augment.histogram(image)
    expected = [np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(4)]
    np.testing.assert_array_equal(counts, expected)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_array_equal(augment.luma(image), grey)
    assert int(augment.mean_luma(image)) == int(grey.mean() + 0.5)
