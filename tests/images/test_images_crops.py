import functools
import inspect
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from kdaug_jax import augment
from kdaug_jax.augment import STAGES
from kdaug_jax.errors import ArgumentError
from kdaug_jax.images import crops, threefry
from kdaug_jax.images.crops import CROPS, Crop
from tests.augment.images import photographs
from tests.golden_augment import QUICK

DRAWS = 3
# What a user writes of each stage, for results of 24 pixels.
WRITTEN = {
    "random_resized_crop": ({"size": 24}, {"size": 24, "method": "bicubic", "scale": (0.5, 0.9)}),
    "inception_crop": ({"size": 24},),
    "center_crop": ({"size": 24, "padding": 4}, {"size": 24, "padding": 0, "method": "bilinear"}),
    "efficientnet_crop": ({"size": 24, "padding": 4},),
    "resize": ({"height": 20, "width": 24}, {"height": 24, "width": 24, "method": "bicubic"}),
    "resize_shorter": ({"side": 24}, {"side": 24, "method": "bicubic"}),
    "crop_center": ({"size": 24}, {"size": 25}),
    "crop_random": ({"size": 24},),
}


def crop_of(kind, arguments):
    """The stage with all its arguments, as the view language binds them."""
    parameters = inspect.signature(STAGES[kind].apply).parameters.values()
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters if parameter.default is not parameter.empty
    }
    return Crop(kind, {**defaults, **arguments})


def cases(few):
    return [
        (kind, arguments)
        for kind, written in WRITTEN.items() for arguments in written[: 1 if few else None]
    ]


@functools.cache
def compiled(kind, arguments):
    apply = functools.partial(STAGES[kind].apply, **dict(arguments))
    floats = CROPS[kind].method(crop_of(kind, dict(arguments)).arguments).startswith("tensorflow")
    return jax.jit(apply, compiler_options=None if floats else QUICK)


def check_pixels(kind, arguments, height, width):
    """Cuts an image on the host and on the device."""
    crop = crop_of(kind, arguments)
    pixels = photographs(1, height, width)[0] if height * width > 64 else noise(height, width)
    data = threefry.example_keys(height, "view/x", width, np.arange(DRAWS))
    words = crops.words_of([crop], lambda _: data)
    steps = crops.plan([crop], words, np.array([[height, width]] * DRAWS))
    size, dtype = crops.output([crop], (height, width))
    assert STAGES[kind].size(crop.arguments, (height, width)) == size
    device = compiled(kind, tuple(arguments.items()))
    for key, step in zip(data, steps, strict=True):
        cut = crops.cut(Image.fromarray(pixels), step, crops.methods([crop]))
        expected = device(jax.random.wrap_key_data(key, impl="threefry2x32"), pixels)
        assert cut.shape == (*size, 3) and cut.dtype == dtype == expected.dtype
        np.testing.assert_array_equal(cut, expected)


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def fits(kind, arguments, height, width):
    return crops.misfit([crop_of(kind, arguments)], [(height, width)]) is None


@pytest.mark.parametrize(("kind", "arguments"), cases(few=True), ids=str)
def test_crops_of_the_host_are_those_of_the_device(kind, arguments):
    check_pixels(kind, arguments, 41, 60)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "arguments"), cases(few=False), ids=str)
def test_crops_of_odd_sizes_are_those_of_the_device(kind, arguments):
    sizes = [
        (1, 1), (1, 50), (50, 1), (2, 300), (300, 2), (7, 5), (24, 24), (25, 24), (23, 31),
        (30, 20), (33, 47), (90, 60), (25, 400), (211, 160),
    ]
    compared = [size for size in sizes if fits(kind, arguments, *size)]
    assert len(compared) > 5 and (24, 24) in compared
    for height, width in compared:
        check_pixels(kind, arguments, height, width)


def test_shorter_side_and_plain_crop_one_after_the_other():
    part = [
        crop_of("resize_shorter", {"side": 20, "method": "bicubic"}),
        crop_of("crop_random", {"size": 16}),
    ]
    pixels = photographs(1, 41, 60)[0]
    data = threefry.example_keys(0, "view/x", 0, np.arange(4))
    words = crops.words_of(part, lambda number: threefry.fold(data, f"stage {number}"))
    assert words[0] is None and words[1].shape == (4, 2)
    steps = crops.plan(part, words, [(41, 60)] * 4)
    assert steps.shape == (4, 2, crops.STEP) and crops.output(part) == ((16, 16), np.uint8)
    keys = threefry.fold(data, "stage 1")
    shorter = compiled("resize_shorter", (("side", 20), ("method", "bicubic")))(None, pixels)
    for key, step in zip(keys, steps, strict=True):
        cut = crops.cut(Image.fromarray(pixels), step, crops.methods(part))
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
        np.testing.assert_array_equal(cut, augment.crop_random(key, shorter, 16))


def torchvision_center_crop(image, size):
    """`center_crop` of torchvision 0.24, on an image of Pillow."""
    width, height = image.size
    if size > width or size > height:
        image = ImageOps.expand(
            image,
            (
                (size - width) // 2 if size > width else 0,
                (size - height) // 2 if size > height else 0,
                (size - width + 1) // 2 if size > width else 0,
                (size - height + 1) // 2 if size > height else 0,
            ),
        )
        width, height = image.size
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def torchvision_resize(image, side):
    """`Resize(int)` of torchvision, on an image of Pillow."""
    width, height = image.size
    short, long = sorted((width, height))
    longer = int(side * long / short)
    size = (side, longer) if width <= height else (longer, side)
    return image.resize(size, Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("height", "width"), [(24, 24), (57, 59), (25, 24), (23, 24), (21, 90), (90, 15), (1, 50)]
)
def test_plain_crops_from_the_middle_are_torchvisions(height, width):
    pixels = noise(height, width)
    image = Image.fromarray(pixels)
    expected = torchvision_center_crop(image, 24)
    step = crops.plan([Crop("crop_center", {"size": 24})], [None], [(height, width)])[0]
    np.testing.assert_array_equal(crops.cut(image, step, ["copy"]), expected)
    np.testing.assert_array_equal(augment.crop_center(pixels, 24), expected)


@pytest.mark.parametrize(
    ("spare", "start"), [(33, 16), (35, 18), (1, 0), (0, 0), (2, 1), (-1, 0), (-2, -1), (-3, -1)]
)
def test_halves_are_rounded_to_even(spare, start):
    step = crops.plan([Crop("crop_center", {"size": 100})], [None], [(100 + spare, 200)])[0, 0]
    assert step.tolist() == [start, 50, 100, 100, 100, 100]


@pytest.mark.parametrize(
    ("height", "width", "after"),
    [(375, 500, (256, 341)), (500, 333, (384, 256)), (256, 300, (256, 300)), (1, 9, (256, 2304))],
)
def test_the_longer_side_keeps_the_proportion(height, width, after):
    crop = Crop("resize_shorter", {"side": 256, "method": "bilinear"})
    step = crops.plan([crop], [None], [(height, width)])[0, 0]
    assert step.tolist() == [0, 0, height, width, *after]
    assert crops.output([crop], (height, width))[0] == after
    assert crops.output([crop])[0] is None


@pytest.mark.parametrize(("height", "width"), [(30, 40), (41, 25), (12, 16)])
def test_the_shorter_side_is_resized_as_torchvision_does(height, width):
    image = Image.fromarray(noise(height, width))
    crop = Crop("resize_shorter", {"side": 20, "method": "bilinear"})
    step = crops.plan([crop], [None], [(height, width)])[0]
    cut = crops.cut(image, step, crops.methods([crop]))
    np.testing.assert_array_equal(cut, torchvision_resize(image, 20))


def test_random_crops_are_uniform_and_reach_all_edges():
    count = 4000
    data = threefry.example_keys(0, "view/x", 0, np.arange(count))
    part = [Crop("crop_random", {"size": 20})]
    steps = crops.plan(part, crops.words_of(part, lambda _: data), [(23, 20)] * count)[:, 0]
    assert (steps[:, 1] == 0).all() and (steps[:, 2:] == 20).all()
    times = np.bincount(steps[:, 0])
    # Each place 1,000 times on average, with a standard deviation of 27.
    assert len(times) == 4 and np.abs(times - 1000).max() < 100


def test_the_middle_is_taken_where_the_box_is_the_whole_image():
    # A strip has no box of a tenth of its area with an allowed shape.
    part = [Crop("inception_crop", {"size": 24})]
    words = crops.words_of(part, lambda _: threefry.example_keys(0, "x", 0, np.arange(2)))
    steps = crops.plan(part, words, [(40, 4000), (1, 50)])[:, 0]
    side, tiny = 17, 1
    assert steps[0].tolist() == [12, 1992, side, side, 24, 24]
    assert steps[1].tolist() == [0, 25, tiny, tiny, 24, 24]


@pytest.mark.parametrize(
    ("part", "row", "message"),
    [
        (
            [Crop("crop_random", {"size": 30})], 1,
            r"size=30 is larger than the 40×20 image; resize_shorter\(30\) before it makes",
        ),
        (
            [Crop("center_crop", {"size": 8, "padding": 200})], 1,
            "size=8, padding=200 leave nothing of the 40×20 image; take a smaller padding",
        ),
        (
            [Crop("resize_shorter", {"side": 20_000})], 0,
            "side=20000 makes more than 134,217,727 pixels of the 50×60 image; take a smaller side",
        ),
        (
            [Crop("resize_shorter", {"side": 20}), Crop("crop_random", {"size": 21})], 0,
            "size=21 is larger than the 20×24 image",
        ),
    ],
)
def test_images_that_do_not_fit_are_named(part, row, message):
    sizes = np.array([[60, 50], [20, 40], [2, 2]])
    place, error = crops.misfit(part, sizes)
    assert place == row
    with pytest.raises(ArgumentError, match=f"^{message}"):
        raise error
    with pytest.raises(ArgumentError, match=f"^{message}"):
        crops.plan(part, [None] * len(part), sizes)
    if len(part) == 1:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            STAGES[part[0].kind].check(part[0].arguments, tuple(sizes[row]))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("crop_center", {"size": 0}, "^got size=0; must be at least 1 pixel$"),
        ("resize", {"height": 9, "width": -1}, "^got width=-1; must be at least 1 pixel$"),
        ("resize_shorter", {"side": 0}, "^got side=0; must be at least 1 pixel$"),
        ("center_crop", {"size": 4, "padding": -1}, "^got padding=-1; must be at least 0 pixels$"),
        ("resize_shorter", {"side": 9, "method": "bicubi"}, "^unknown method 'bicubi'; did you"),
        ("random_resized_crop", {"size": 9, "scale": (0, 1), "ratio": (1, 1)}, "^scale=.0, 1.; "),
    ],
)
def test_arguments_that_suit_no_image_are_refused(kind, arguments, message):
    for size in (None, (30, 40)):
        with pytest.raises(ArgumentError, match=message):
            STAGES[kind].check(arguments, size)


def test_ops_refuse_what_does_not_fit():
    image, key = np.zeros((20, 30, 3), np.uint8), jax.random.key(0)
    with pytest.raises(ArgumentError, match="size=21 is larger than the 30×20 image"):
        augment.crop_random(key, image, 21)
    with pytest.raises(ArgumentError, match="got size=0"):
        augment.crop_center(image, 0)
    with pytest.raises(ArgumentError, match="side=10000000 makes more than 134"):
        augment.resize_shorter(image, 10_000_000)


def test_each_stage_of_the_host_is_one_of_the_device():
    assert {stage.host for stage in STAGES.values()} - {""} == set(CROPS)
    assert all(stage.host in ("", name) for name, stage in STAGES.items())
    for kind, arguments in cases(few=True):
        crop, stage = crop_of(kind, arguments), STAGES[kind]
        stage.check(crop.arguments, None)
        assert (stage.size(crop.arguments, None) is None) == (not CROPS[kind].fixes_size)
        assert stage.floats == (crops.output([crop], (40, 40))[1] == np.float32)


def test_workers_need_no_jax():
    code = (
        "import sys, kdaug_jax.images.crops\n"
        "assert not {'jax', 'grain', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
