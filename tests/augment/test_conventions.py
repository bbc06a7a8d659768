"""What holds for every public function of the room: documentation, order of arguments, refusals."""

import inspect

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.ops import lut, tpu

RGB = np.zeros((8, 9, 3), np.uint8)
LUT = [name for name, one in vars(lut).items() if getattr(one, "__module__", "") == lut.__name__]
FILL = np.zeros(3, np.uint8)
FUNCTIONS = {
    f"{place.__name__.removeprefix('kdaug_jax.')}.{name}": function
    for place, names in ((augment, augment.__all__), (tpu, tpu.__all__), (lut, LUT))
    for name in names
    if inspect.isfunction(function := getattr(place, name))
    and not name.startswith("_")
    and function.__module__.startswith("kdaug_jax.augment")
}
RANDOM = ("random_", "draw_", "inception_crop", "randaugment")
# Each op with legal arguments after the image.
ARGUMENTS = {
    **dict.fromkeys(("identity", "invert", "auto_contrast", "equalize", "smooth", "blur"), ()),
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), (1.3,)),
    **dict.fromkeys(("flip", "luma", "mean_luma", "histogram"), ()),
    **dict.fromkeys(("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), (1.0, FILL)),
    "solarize": (100,),
    "solarize_add": (30,),
    "posterize": (4,),
    "cutout": (3, 3, 4, FILL),
    "erase_square": (3, 3, 4, FILL),
    "pad_crop": (1, 2, 2, FILL),
    "apply_lut": (np.zeros(256, np.uint8),),
    "apply_rgb_lut": (np.zeros(256, np.uint8),),
    "affine_nearest": (np.zeros(6, np.int32), FILL),
    "affine_bilinear": (np.zeros((6, 2), np.uint32), FILL),
    "affine_bicubic": (np.zeros((6, 2), np.uint32), FILL),
    "blend_colours": (RGB, RGB, np.float32(0), np.float32(0)),
    "resize": ((4, 4),),
    "resize_box": (0, 0, 5, 5, (4, 4)),
    "resize_tensorflow": ((4, 4),),
    "resize_box_tensorflow": (0, 0, 5, 5, (4, 4)),
    "center_crop": (4,),
    "efficientnet_crop": (4,),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_tells_shapes(name):
    function = FUNCTIONS[name]
    text = inspect.getdoc(function)
    parameters = inspect.signature(function).parameters
    assert text and text[0].isupper() and text.splitlines()[0].endswith((".", "]`."))
    of_host = name.endswith((".affine_coefficients", ".rotation", ".center_box"))
    if not of_host:
        assert "[" in text and "`" in text
    # One line may say it all of ops without a magnitude.
    if len(parameters) > 1:
        assert "Args:" in text and "Returns:" in text
        assert all(f"  {one}: " in text for one in parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_images_come_first_keys_before_them_and_defaults_last(name):
    function = FUNCTIONS[name]
    parameters = list(inspect.signature(function).parameters.values())
    names = [one.name for one in parameters]
    random = any(name.split(".")[-1].startswith(start) for start in RANDOM)
    assert ("key" in names) == random and "key" not in names[1:]
    if "image" in names and not name.endswith((".blend", ".blend_colours")):
        assert names.index("image") == (1 if random else 0)
    defaults = [one.default is not inspect.Parameter.empty for one in parameters]
    assert defaults == sorted(defaults)


def test_every_op_on_images_is_refused_what_is_none():
    taking = {
        name.split(".")[-1]
        for name, function in FUNCTIONS.items()
        if next(iter(inspect.signature(function).parameters), "") == "image"
        and name.startswith("augment.")
        and not name.startswith("augment.ops.tpu.")
    }
    of_checked_images = {"paint", "premultiply", "unpremultiply", "to_bytes"}
    of_groups = {"mixup", "cutmix"}  # they take what a stage before them made, floats too
    assert taking - of_checked_images - of_groups == set(ARGUMENTS) - {"blend_colours"}


@pytest.mark.parametrize("op", ARGUMENTS)
@pytest.mark.parametrize("trace", [False, True], ids=["eager", "traced"])
def test_what_is_not_an_image_of_bytes_is_refused_in_one_line(op, trace):
    function, arguments = getattr(augment, op), ARGUMENTS[op]
    if op == "blend_colours":
        function, arguments = (
            lambda image, *rest: augment.blend_colours(RGB, image, *rest),
            arguments[2:],
        )

    def run(image):
        if trace:
            return jax.eval_shape(lambda one: function(one, *arguments), image)
        return function(image, *arguments)

    for wrong in (RGB.astype(np.float32), RGB.astype(np.int8)):
        with pytest.raises(TypeError, match=rf"^image is {wrong.dtype}\[8, 9, 3\]; must be uint8 "):
            run(wrong)
    for wrong in (RGB[0], RGB[None], RGB[:0]):
        with pytest.raises(ValueError, match=r"^image is uint8\[.*\]; must be uint8 \[H,W,"):
            run(wrong)
    if not trace:
        with pytest.raises(TypeError, match=r"^image is a list; must be uint8 \[H,W,.*\]$"):
            run([[1, 2]])


@pytest.mark.parametrize(
    ("op", "wrong", "error", "message"),
    [
        ("solarize", (257,), ValueError, "threshold=257; must be a number 0..256"),
        ("solarize", (-1,), ValueError, "threshold=-1; must be a number 0..256"),
        ("solarize", ("128",), TypeError, "threshold is '128'; must be a number 0..256"),
        ("solarize_add", (0.5,), ValueError, "addition=0.5; must be a whole number -1024..1024"),
        ("posterize", (9,), ValueError, "bits=9; must be a whole number 0..8"),
        ("posterize", (3.5,), ValueError, "bits=3.5; must be a whole number 0..8"),
        ("brightness", (-0.1,), ValueError, "factor=-0.1; must be a number of 0 or more"),
        ("contrast", (float("nan"),), ValueError, "factor=nan; must be a number of 0 or more"),
        ("color", (float("inf"),), ValueError, "factor=inf; must be a number of 0 or more"),
        ("sharpness", (None,), TypeError, "factor is None; must be a number of 0 or more"),
        ("cutout", (3, 3, -2, FILL), ValueError, "size=-2; must be a whole number of 0 or more"),
        ("rotate", (10, (1, 2)), ValueError, r"fill has shape (2,); must be 3 whole numbers"),
        ("rotate", (10, (1, 2, 300)), ValueError, r"fill=(1, 2, 300); must be 3 whole numbers"),
        ("rotate", (10, (1, 2, 0.5)), ValueError, r"fill=(1, 2, 0.5); must be 3 whole numbers"),
        ("apply_lut", (np.zeros(255, np.uint8),), ValueError, "lut has shape (255,); must be"),
    ],
    ids=str,
)
def test_magnitudes_out_of_range_are_refused_in_one_line(op, wrong, error, message):
    for image in (RGB, jax.numpy.asarray(RGB)):
        with pytest.raises(error) as caught:
            getattr(augment, op)(image, *wrong)
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    with pytest.raises(error):
        jax.eval_shape(lambda one: getattr(augment, op)(one, *wrong), RGB)


def test_two_and_five_channels_are_refused_by_ops_on_colours():
    for channels in (1, 2, 5):
        image = np.zeros((4, 4, channels), np.uint8)
        for op in ("invert", "equalize", "contrast", "color", "sharpness", "luma"):
            with pytest.raises(ValueError, match=r"must be uint8 \[H,W,3 or 4\]$"):
                getattr(augment, op)(image, *ARGUMENTS[op])
