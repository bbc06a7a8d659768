import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.errors import ArgumentError
from kdaug_jax.images import boxes, threefry
from kdaug_jax.images.crops import Crop, plan

DRAWS = 64
EXTREME = [
    (1, 1), (1, 2), (2, 1), (1, 7), (1, 500), (500, 1), (1, 5000), (1, 100_000), (100_000, 1),
    (2, 3), (3, 2), (7, 13), (20, 30), (31, 900), (900, 31), (224, 224), (375, 500), (333, 500),
    (3000, 5000), (8000, 12000), (11584, 11584), (1, 2**27 - 1),
]
RANGES = [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.35, 0.35), (0.2, 5.0)), ((0.01, 0.02), (0.01, 50.0))]


@functools.cache
def sizes():
    """`i32[110,2]`: extreme sizes, and others of all orders of magnitude."""
    random = np.random.default_rng(0)
    usual = random.integers(100, 800, (44, 2))
    small = random.integers(1, 40, (22, 2))
    any_order = np.exp(random.uniform(0, np.log(9000), (22, 2))).astype(int)
    return np.concatenate([EXTREME, usual, small, any_order]).astype(np.int32)


@functools.cache
def words():
    """`u32[110,DRAWS,4,10]`: of several seeds, epochs, positions and draws."""
    random = np.random.default_rng(1)
    each = []
    for number in range(len(sizes())):
        keys = threefry.example_keys(
            number % 3, "view/x", number % 5, random.integers(0, 1_281_167, DRAWS)
        )
        keys = threefry.redraw(threefry.fold(keys, "crop"), np.arange(DRAWS) % 4)
        each.append(threefry.bits(keys, boxes.WORDS))
    return np.stack(each)


def on_host(kind, **arguments):
    """Boxes `i32[110,DRAWS,4]`, drawn in one call for images of all sizes."""
    each = np.repeat(sizes(), DRAWS, axis=0)
    steps = plan([Crop(kind, arguments)], [words().reshape(-1, 4, 10)], each)
    assert steps.dtype == np.int32 and steps.shape == (len(each), 1, 6)
    return steps[:, 0, :4].reshape(-1, DRAWS, 4)


def over_sizes_and_draws(function):
    """Compiles `f(words [4,10], limits) -> Box` once for all sizes."""
    return jax.jit(jax.vmap(jax.vmap(function, (0, None)), 0))


@pytest.mark.parametrize(("scale", "ratio"), RANGES, ids=str)
def test_boxes_of_the_host_are_those_of_the_device(scale, ratio):
    limits = boxes.limits(*sizes().T, scale, ratio)
    draw = over_sizes_and_draws(lambda words, limits: boxes.random_box(words, limits, ratio, jnp))
    device = np.stack(draw(words(), limits), -1)[:, :, 0]
    host = on_host("random_resized_crop", size=32, method="bilinear", scale=scale, ratio=ratio)
    np.testing.assert_array_equal(host, device)
    height, width = sizes().T[..., None]
    top, left, rows, columns = np.moveaxis(host, -1, 0)
    assert (top >= 0).all() and (left >= 0).all() and (rows >= 1).all() and (columns >= 1).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()


def test_boxes_of_tensorflow_of_the_host_are_those_of_the_device():
    limits = boxes.inception_limits(*sizes().T, boxes.SCALE, boxes.COVERED)
    table = boxes.inception_heights(boxes.inception_shapes(boxes.RATIO), limits)

    def inception_box(words, limits_and_table):
        limits, table = limits_and_table
        return boxes.inception_box(
            words, limits, boxes.RATIO, lambda shape: tuple(side[shape] for side in table), jnp
        )

    device = np.stack(over_sizes_and_draws(inception_box)(words(), (limits, table)), -1)
    device = device[:, :, 0]
    host = on_host("inception_crop", size=224)
    entire = (device[..., 2:] == sizes()[:, None]).all(-1)
    np.testing.assert_array_equal(host[~entire], device[~entire])
    # Where the box is the whole image, the middle is taken: here of each size at least once.
    assert entire[0].all() and not entire.all()
    middle = np.stack(boxes.center_box(*sizes().T, 224), -1)
    tiny = middle[:, 2] == 0
    assert tiny.sum() > 5 and (host[tiny][entire[tiny]][:, 2:] == 1).all()
    for number in np.flatnonzero(~tiny):
        assert (host[number][entire[number]] == middle[number]).all()
    height, width = sizes().T[..., None]
    assert (host[..., :2] >= 0).all() and (host[..., 0] + host[..., 2] <= height).all()
    assert (host[..., 1] + host[..., 3] <= width).all()


def draws_of_device(function, number, *arguments):
    """What the device op draws for images of one size, without being compiled for it."""
    data = np.random.default_rng(number).integers(0, 2**32, (DRAWS, 2), np.uint32)
    keys = jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
    box = jax.vmap(lambda key: function(key, *map(int, sizes()[number]), *arguments))(keys)
    return threefry.bits(data, boxes.WORDS), np.stack(box, -1)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(110))
def test_the_ops_of_the_device_draw_the_same_for_all_sizes(number):
    size = np.repeat(sizes()[number : number + 1], DRAWS, 0)
    for scale, ratio in RANGES[:2]:
        bits, expected = draws_of_device(augment.draw_box, number, scale, ratio)
        arguments = {"size": 8, "method": "bilinear", "scale": scale, "ratio": ratio}
        steps = plan([Crop("random_resized_crop", arguments)], [bits], size)
        np.testing.assert_array_equal(steps[:, 0, :4], expected)
    bits, expected = draws_of_device(augment.draw_inception_box, number)
    steps = plan([Crop("inception_crop", {"size": 224})], [bits], size)
    drawn = (expected[:, 2:] != size).any(1)
    np.testing.assert_array_equal(steps[drawn, 0, :4], expected[drawn])


def test_images_with_more_pixels_than_can_be_counted_are_refused():
    largest = np.array([[1, 2**27 - 1], [11585, 11585], [2**27 - 1, 1]])
    assert not boxes.too_large(*largest.T).any()
    assert boxes.too_large([1, 11586, 2**31 - 1], [2**27, 11585, 2**31 - 1]).all()
    message = "^an image of 30000×20000 has more than 134,217,727 pixels; store it smaller"
    key = jax.random.key(0)
    image = jax.ShapeDtypeStruct((20_000, 30_000, 3), np.uint8)
    for draw in (
        lambda: augment.draw_box(key, 20_000, 30_000),
        lambda: augment.draw_inception_box(key, 20_000, 30_000),
        lambda: jax.eval_shape(lambda image: augment.random_resized_crop(key, image, 8), image),
        lambda: jax.eval_shape(augment.invert, image),
    ):
        with pytest.raises(ArgumentError, match=message):
            draw()
    for kind, stage in augment.STAGES.items():
        if stage.host:
            arguments = {"size": 8, "side": 8, "height": 8, "width": 8, "padding": 0}
            with pytest.raises(ArgumentError, match="^the 30000×20000 image has more than 134"):
                stage.check(arguments, (20_000, 30_000))
            with pytest.raises(ArgumentError, match="^the 30000×20000 image has more than 134"):
                plan([Crop(kind, arguments)], [None], np.array([[9, 9], [20_000, 30_000]]))


def test_long_boxes_that_cannot_be_squared_in_32_bits_do_not_fit():
    numbers = np.array([2**30 - 2**18, 2**30, 2**31, 1e12], np.float32)
    roots = boxes.rounded_root(numbers)
    np.testing.assert_array_equal(roots, [32764, 32766, 32766, 32766])
    np.testing.assert_array_equal(jax.jit(lambda x: boxes.rounded_root(x, jnp))(numbers), roots)
    limits = boxes.limits(1000, 100_000, (0.9, 1.0), (100, 100))
    box = boxes.random_box(words()[0], limits, (100, 100))
    assert (box.height == 1000).all() and (box.width == 100_000).all()
