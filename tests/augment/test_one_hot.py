"""Lookups as matrix products, and the crops of a TPU made of them: the bits of the other form."""

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.arithmetic import one_hot
from kdaug_jax.augment.ops import crop, resizing, statistics

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("module", [resizing])
def test_boxes_of_any_size_are_resized_alike(module, monkeypatch):
    """Of Pillow and of TensorFlow, enlarged and made smaller, down first and across first."""
    images = RANDOM.integers(0, 256, (16, 41, 37, 3), np.uint8)
    images[::3] = (images[::3] > 127) * 255
    heights, widths = RANDOM.integers(1, 42, 16), RANDOM.integers(1, 38, 16)
    heights[:2], widths[:2] = (41, 1), (37, 1)
    tops, lefts = RANDOM.integers(0, 42 - heights), RANDOM.integers(0, 38 - widths)
    boxes = [np.asarray(array, np.int32) for array in (tops, lefts, heights, widths)]

    def made():
        return [
            np.asarray(jax.jit(jax.vmap(function))(images, *boxes))
            for function in (
                lambda image, *box: augment.resize_box(image, *box, (9, 12), "bilinear"),
                lambda image, *box: augment.resize_box(image, *box, (48, 20), "bicubic"),
                lambda image, *box: augment.resize_box_tensorflow(image, *box, (17, 45)),
            )
        ]

    expected = made()
    monkeypatch.setattr(module, "target_platform", lambda: "tpu")
    for array, other in zip(made(), expected, strict=True):
        np.testing.assert_array_equal(array, other)


def test_crops_of_a_tpu_have_no_gather_of_elements(monkeypatch):
    keys, images = jax.random.split(jax.random.key(0), 8), np.zeros((8, 40, 48, 3), np.uint8)

    def made(keys, images):
        return (
            jax.vmap(lambda key, image: augment.inception_crop(key, image, 24))(keys, images),
            jax.vmap(lambda key, image: crop.random_pad_crop(key, image, 4, 7))(keys, images),
            jax.vmap(lambda image: augment.efficientnet_crop(image, 24))(images),
        )

    for module in (resizing, crop):
        monkeypatch.setattr(module, "target_platform", lambda: "tpu")
    text = jax.jit(made).lower(keys, images).as_text()
    gathers = [line for line in text.splitlines() if '"stablehlo.gather"' in line]
    # Rows of weights, and numbers of boxes: a few for an image, none for a pixel.
    sizes = [line.split("->")[-1].split("tensor<")[1].split(">")[0] for line in gathers]
    assert all("40x48" not in size and "24x24" not in size for size in sizes), sizes


@pytest.mark.parametrize("padding", [0, 3])
def test_pad_crop_moves_alike(padding, monkeypatch):
    images = RANDOM.integers(0, 256, (9, 12, 10, 4), np.uint8)
    fill = np.array([1, 2, 3, 4], np.uint8)
    tops, lefts = RANDOM.integers(0, 2 * padding + 1, (2, 9)).astype(np.int32)

    def made():
        return np.asarray(jax.vmap(
            lambda image, top, left: augment.pad_crop(image, top, left, padding, fill)
        )(images, tops, lefts))

    expected = made()
    monkeypatch.setattr(crop, "target_platform", lambda: "tpu")
    np.testing.assert_array_equal(made(), expected)


def test_histograms_are_counted_alike(monkeypatch):
    images = RANDOM.integers(0, 256, (4, 20, 18, 3), np.uint8)
    images[0] = 255
    expected = [augment.histogram(image) for image in images]
    monkeypatch.setattr(statistics, "target_platform", lambda: "tpu")
    np.testing.assert_array_equal([augment.histogram(image) for image in images], expected)
    np.testing.assert_array_equal(jax.vmap(augment.histogram)(images), expected)


def test_numbers_of_all_bits_are_picked_and_none_from_outside():
    lines = RANDOM.normal(size=(30, 2, 3)).astype(np.float32) * np.float32(1e3)
    places = np.array([3, 29, 0, -1, 30, 3], np.int32)
    picked = np.asarray(jax.jit(one_hot.pick)(lines, places))
    np.testing.assert_array_equal(picked[[0, 1, 2, 5]], lines[[3, 29, 0, 3]])
    assert not picked[3:5].any()


def test_sums_of_most_weights_are_exact():
    count = one_hot.MOST_WEIGHTS
    lines = np.full((count + 4, 2), 255, np.uint8)
    weights = RANDOM.integers(-(2**14), 2**14, (3, count)).astype(np.int32) | 255
    weights[1] = 2**14 - 1
    first = np.array([0, 2, 10], np.int32)
    sums = np.asarray(jax.jit(one_hot.weighted_sums)(lines, first, weights))
    inside = first[:, None] + np.arange(count) < len(lines)
    np.testing.assert_array_equal(sums[:, 0], 255 * (weights * inside).sum(1))
