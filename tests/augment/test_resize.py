import functools

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.arithmetic import resize_weights
from kdaug_jax.images.arithmetic import product, split
from tests.augment.images import augment_cases, photographs, through_pillow
from tests.golden_augment import QUICK


def boxes(count, height, width, size, seed=0):
    """Random boxes `i32[count,4]`: top, left, height, width; among them the whole image."""
    rng = np.random.default_rng(seed)
    high, wide = rng.integers(1, height + 1, count), rng.integers(1, width + 1, count)
    high[0], wide[0] = height, width
    # A box of the result's own size is copied; two are just where the order of passes changes.
    high[1], wide[1] = min(height, size[0]), min(width, size[1])
    lost = min(3, width - wide[2])
    wide[2:4] = size[1] + lost
    high[2:4] = np.minimum(size[0] + 2 * lost + np.array([0, 1]), height)
    wide = np.minimum(wide, width)
    return np.stack(
        [rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1), high, wide], 1
    ).astype(np.int32)


def pillow_box(image, box, size, method):
    top, left, height, width = map(int, box)
    return image.crop((left, top, left + width, top + height)).resize(size[::-1], method)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((32, 32, 3), (32, 32)), ((60, 90, 3), (20, 50)), ((41, 33, 4), (24, 24))],
    ids=str,
)
def test_traced_boxes_are_pillow_bit_for_bit(shape, size, method):
    images = photographs(40, *shape)
    places = boxes(len(images), *shape[:2], size)
    function = functools.partial(augment.resize_box, size=size, method=method)
    result = jax.jit(jax.vmap(function), compiler_options=QUICK)(images, *places.T)
    filter_ = {"bilinear": 2, "bicubic": 3}[method]
    expected = through_pillow(
        lambda image, box: pillow_box(image, box, size, filter_), images, places
    )
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 50), (50, 20), (64, 64), (30, 40)], ids=str)
def test_whole_images_are_pillow_bit_for_bit(size, method):
    images = photographs(4, 30, 40, 4)
    filter_ = {"bilinear": 2, "bicubic": 3}[method]
    expected = through_pillow(lambda image: image.resize(size[::-1], filter_), images)
    function = functools.partial(augment.resize, size=size, method=method)
    result = jax.jit(jax.vmap(function), compiler_options=QUICK)(images)
    np.testing.assert_array_equal(result, expected)


def test_a_box_alone_and_eager_is_the_same():
    image = photographs(4, 30, 40)[1]
    for box in ((0, 0, 30, 40), (3, 5, 20, 8)):
        (expected,) = through_pillow(lambda image: pillow_box(image, box, (12, 12), 3), image[None])  # noqa: B023
        result = augment.resize_box(image, *box, (12, 12), "bicubic")
        np.testing.assert_array_equal(result, expected)


def test_tensorflows_bicubic_of_boxes_is_that_of_the_cut_image():
    images = augment_cases("s40x24")["in"]
    size = (20, 20)
    for version in (1, 2):
        box = jax.jit(functools.partial(augment.resize_box_tensorflow, size=size, version=version))
        whole = jax.jit(functools.partial(augment.resize_tensorflow, size=size, version=version))
        result = box(images[0], 3, 2, 30, 17)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, whole(images[0, 3:33, 2:19]))
        eager = augment.resize_tensorflow(images[0, 3:33, 2:19], size, version)
        np.testing.assert_array_equal(result, eager)


def test_products_are_the_same_whether_or_not_roundings_are_merged():
    rng = np.random.default_rng(0)
    x = rng.uniform(-300, 300, 5000).astype(np.float32)
    y = rng.uniform(-1.5, 1.5, 5000).astype(np.float32)
    multiply = jax.jit(lambda x, y: product(split(x), split(y)))
    result = np.asarray(multiply(x, y))
    # The same sums on the host, which merges none.
    x_parts, y_parts = (augment.split_alpha(np.abs(one)) for one in (x, y))
    (a, b), (c, d) = x_parts, y_parts
    expected = ((a * c + a * d) + (b * c + b * d)) * np.sign(x) * np.sign(y)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(result, product(split(x), (y,)))
    np.testing.assert_allclose(result, x.astype(float) * y, rtol=1.2e-7)


def test_weights_add_up_and_a_table_holds_each_length():
    for kind in ("bilinear", "bicubic", "tf1", "tf2"):
        table = resize_weights.weight_table(50, 24, kind)
        total = table.weight[1:].sum(-1)
        one = 1 << resize_weights.BITS if kind in resize_weights.FILTERS else 1
        # Each weight is rounded on its own.
        assert np.abs(total - one).max() <= (13 if kind in resize_weights.FILTERS else 1e-5)
    row = resize_weights.pillow_weights(37, 24, "bicubic")
    table = resize_weights.weight_table(50, 24, "bicubic")
    np.testing.assert_array_equal(table.first[37], row.first)
    np.testing.assert_array_equal(table.weight[37, :, : row.weight.shape[1]], row.weight)
    assert not table.weight[37, :, row.weight.shape[1] :].any()


def test_what_cannot_be_resized_is_refused():
    image = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r"height=31; must be a whole number 1\.\.30"):
        augment.resize_box(image, 0, 0, 31, 4, (8, 8))
    with pytest.raises(ValueError, match=r"left=37; must be a whole number 0\.\.36"):
        augment.resize_box(image, 0, 37, 30, 4, (8, 8))
    with pytest.raises(ValueError, match="did you mean bicubic"):
        augment.resize(image, (8, 8), "bicubi")
    with pytest.raises(ValueError, match="height, width"):
        augment.resize(image, (0, 8))
    with pytest.raises(ValueError, match="must be 1 or 2"):
        augment.resize_tensorflow(image, (8, 8), 3)
    with pytest.raises(ValueError, match="64 MiB"):
        augment.resize_box(np.zeros((4000, 8, 3), np.uint8), 0, 0, 9, 8, (640, 8))
