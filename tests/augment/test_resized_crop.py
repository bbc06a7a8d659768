import math

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import augment
from kdaug_jax.augment.ops import resized_crop
from kdaug_jax.images import boxes
from tests.augment.images import photographs, through_pillow
from tests.golden_augment import QUICK

COUNT = 3000


def drawn(function, height, width, *rest):
    keys = jax.random.split(jax.random.key(0), COUNT)
    draw = jax.vmap(lambda key: function(key, height, width, *rest))
    fields = jax.jit(draw, compiler_options=QUICK)(keys)
    return np.stack([np.broadcast_to(one, COUNT) for one in fields], 1).astype(int)


def torchvision_box(rng, height, width, scale=(0.08, 1), ratio=(3 / 4, 4 / 3)):
    """`RandomResizedCrop.get_params` in Python's floats."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        h, w = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        h, w = height, round(height * ratio[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def tensorflow_box(rng, height, width):
    """`SampleDistortedBoundingBox` with EfficientNet's numbers, step by step."""
    f32 = np.float32
    least, most = f32(0.08) * f32(width) * f32(height), f32(width) * f32(height)
    for _ in range(10):
        aspect = f32(rng.uniform(3 / 4, 4 / 3))
        h = int(np.rint(np.sqrt(least / aspect)))
        top = int(np.rint(np.sqrt(most / aspect)))
        if np.rint(f32(top) * aspect) > width:
            top = int((width + 0.5 - 1e-7) / float(aspect))
            top -= int(np.rint(f32(top) * aspect) > width)
        top = min(top, height)
        h = min(h, top)
        h += rng.integers(0, top - h + 1)
        w = int(np.rint(f32(h) * aspect))
        if f32(w * h) < least:
            h += 1
            w = int(np.rint(f32(h) * aspect))
        if f32(w * h) > most:
            h -= 1
            w = int(np.rint(f32(h) * aspect))
        if not (least <= w * h <= most and 0 < w <= width and 0 < h <= height):
            continue
        if f32(w * h) / f32(width * height) < f32(0.1):
            continue
        y = rng.integers(0, height - h) if h < height else 0
        x = rng.integers(0, width - w) if w < width else 0
        return y, x, h, w
    return 0, 0, height, width


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (augment.draw_box, torchvision_box),
        (augment.draw_inception_box, tensorflow_box),
    ],
    ids=["torchvision", "tensorflow"],
)
def test_boxes_are_distributed_as_those_of_the_original(function, reference):
    height, width = 40, 60
    top, left, high, wide = drawn(function, height, width).T
    assert (top >= 0).all() and (left >= 0).all() and (high > 0).all() and (wide > 0).all()
    assert (top + high <= height).all() and (left + wide <= width).all()
    rng = np.random.default_rng(0)
    wanted = np.array([reference(rng, height, width) for _ in range(COUNT)])
    for one, other in (
        (high, wanted[:, 2]),
        (wide, wanted[:, 3]),
        (high * wide, wanted[:, 2] * wanted[:, 3]),
        (top, wanted[:, 0]),
        (left, wanted[:, 1]),
    ):
        # Kolmogorov and Smirnov's distance of two samples of 3,000 stays under 0.051 but once
        # in 1,000.
        grid = np.unique(np.concatenate([one, other]))
        ranks = [np.searchsorted(np.sort(sample), grid, "right") / COUNT for sample in (one, other)]
        assert np.abs(ranks[0] - ranks[1]).max() < 0.051


def test_the_area_that_must_be_covered_is_counted_in_float32():
    for pixels in (100, 1024, 2400, 50_176):
        least = boxes.least_covered(0.1, np.array([pixels]))[0]
        fractions = np.arange(pixels + 1, dtype=np.float32) / np.float32(pixels)
        assert least == np.argmax(fractions >= np.float32(0.1))


def test_where_no_try_fits_the_middle_is_taken():
    # A strip of 100 x 4 pixels has no box of 90 % of its area that is nearly square.
    assert (drawn(augment.draw_box, 4, 100, (0.9, 1.0)) == [0, 47, 4, 5]).all()
    box = boxes.middle_box(np.array([100, 30]), np.array([4, 40]), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(np.stack(box, 1), [(47, 0, 5, 4), (0, 0, 30, 40)])


@pytest.mark.parametrize("off", [0.0, -0.9, 0.9])
@pytest.mark.parametrize("xp", [np, jax.numpy])
def test_roots_are_rounded_to_nearest_whatever_the_device_guesses(monkeypatch, xp, off):
    numbers = np.random.default_rng(0).uniform(0.9, 60_000, 20_000).astype(np.float32)
    expected = np.floor(np.sqrt(numbers.astype(float)) + 0.5)
    root = xp.sqrt
    monkeypatch.setattr(xp, "sqrt", lambda x: root(x) + np.float32(off))
    np.testing.assert_array_equal(boxes.rounded_root(xp.asarray(numbers), xp), expected)


def test_random_resized_crop_is_the_drawn_box_resized():
    images, keys = photographs(8, 40, 30), jax.random.split(jax.random.key(1), 8)

    @jax.jit
    @jax.vmap
    def crop(key, image):
        return augment.draw_box(key, 40, 30), augment.random_resized_crop(key, image, 24)

    places, result = crop(keys, images)
    expected = through_pillow(
        lambda image, box: image.crop((box[1], box[0], box[1] + box[3], box[0] + box[2])).resize(
            (24, 24), Image.Resampling.BILINEAR
        ),
        images,
        np.stack(places, 1).tolist(),
    )
    np.testing.assert_array_equal(result, expected)


def test_inception_crop_is_the_drawn_box_or_the_middle_of_an_image_drawn_whole(monkeypatch):
    image, box = photographs(8, 40, 30)[2], augment.Box(3, 5, 20, 15)
    places = iter([box, augment.Box(0, 0, 40, 30)])
    monkeypatch.setattr(
        resized_crop,
        "draw_inception_box",
        lambda *_: augment.Box(*map(jax.numpy.int32, next(places))),
    )
    expected = [
        augment.resize_box_tensorflow(image, *box, (24, 24)),
        augment.efficientnet_crop(image, 24),
    ]
    for one in expected:
        result = augment.inception_crop(jax.random.key(0), image, 24)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, augment.to_bytes(one))


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (500, 375, 224, (86, 24, 328, 328)),
        (256, 256, 224, (16, 16, 224, 224)),
        (272, 300, 240, (16, 30, 240, 240)),
        (33, 32, 224, (3, 2, 28, 28)),
    ],
)
def test_the_middle_that_evaluation_sees(height, width, size, box):
    assert tuple(augment.center_box(height, width, size)) == box


def test_center_crop_is_the_cut_square_resized_by_pillow():
    images = photographs(4, 33, 47)
    (expected,) = through_pillow(
        lambda image: image.crop((9, 2, 38, 31)).resize((24, 24), Image.Resampling.BICUBIC),
        images[1:2],
    )
    assert tuple(augment.center_box(33, 47, 24, 3)) == (2, 9, 29, 29)
    np.testing.assert_array_equal(augment.center_crop(images[1], 24, 3), expected)
    evaluated = augment.efficientnet_crop(images[1], 24, 3)
    cut = augment.resize_tensorflow(images[1, 2:31, 9:38], (24, 24))
    np.testing.assert_array_equal(evaluated, cut)


def test_ranges_that_are_none_are_refused():
    image, key = np.zeros((8, 8, 3), np.uint8), jax.random.key(0)
    for wrong in ({"scale": (0.5, 0.1)}, {"scale": (0, 1)}, {"ratio": (2, 1)}):
        with pytest.raises(ValueError, match="the smaller first"):
            augment.random_resized_crop(key, image, 4, **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        augment.center_crop(image, 0)
    with pytest.raises(ValueError, match="leave nothing of the 8×8"):
        augment.center_crop(image, 4, 32 * 4)
