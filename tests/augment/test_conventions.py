"""What holds for every public function of the room: documentation, order of arguments, refusals."""

import inspect
import re

import jax
import numpy as np
import pytest

from kdaug_jax import augment
from kdaug_jax.augment.ops import lut, tpu
from kdaug_jax.errors import ArgumentError

RGB = np.zeros((8, 9, 3), np.uint8)
LUT = [
    name for name, value in vars(lut).items()
    if getattr(value, "__module__", "") == lut.__name__ and not name.endswith("_kernel")
]
FILL = np.zeros(3, np.uint8)
FUNCTIONS = {
    f"{place.__name__.removeprefix('kdaug_jax.')}.{name}": function
    for place, names in ((augment, augment.__all__), (tpu, tpu.__all__), (lut, LUT))
    for name in names
    if inspect.isfunction(function := getattr(place, name))
    and not name.startswith("_")
    and function.__module__.startswith("kdaug_jax.augment")
}
RANDOM = ("random_", "draw_", "inception_crop", "crop_random", "randaugment")
# Each op with legal arguments after the image.
ARGUMENTS = {
    **dict.fromkeys(("identity", "invert", "auto_contrast", "equalize", "smooth", "blur"), ()),
    **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), (1.3,)),
    **dict.fromkeys(("flip", "luma", "mean_luma", "histogram"), ()),
    "affine": ((1, 0, 0, 0, 1, 0), FILL),
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
    "resize_shorter": (4,),
    "crop_center": (4,),
}


def documentation(name, function):
    """What the docstring of a function lacks."""
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    if not text or not text[0].isupper() or not text.splitlines()[0].endswith((".", "]`.")):
        yield "does not open with one claim"
    of_host = name.endswith((
        ".affine_coefficients", ".rotation", ".center_box", ".describe_ops", ".geometric_op",
    ))
    if not of_host and not ("[" in text and "`" in text):
        yield "tells no shapes"
    # One line may say it all of ops without a magnitude.
    if len(parameters) > 1:
        yield from (f"has no {section}" for section in ("Args:", "Returns:") if section not in text)
        yield from (f"says nothing of {key}" for key in parameters if f"  {key}: " not in text)


def order(name, function):
    """What is wrong with the order of a function's arguments."""
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    random = any(name.split(".")[-1].startswith(start) for start in RANDOM)
    if ("key" in names) != random or "key" in names[1:]:
        yield "takes a key and is not random, or the reverse, or not as its first argument"
    if "image" in names and not name.endswith((".blend", ".blend_colours")):
        if names.index("image") != (1 if random else 0):
            yield "does not take the image first, or after the key"
    defaults = [parameter.default is not inspect.Parameter.empty for parameter in parameters]
    keyword_only = [parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters]
    positional = [has for has, only in zip(defaults, keyword_only, strict=True) if not only]
    if positional != sorted(positional):
        yield "has an argument without default after one with a default"


@pytest.mark.parametrize("convention", [documentation, order], ids=["documentation", "order"])
def test_all_functions_keep_the_conventions(convention):
    assert len(FUNCTIONS) > 100
    offenders = [
        f"{name} {problem}" for name, function in FUNCTIONS.items()
        for problem in convention(name, function)
    ]
    assert not offenders, "\n".join(offenders)


def test_all_ops_of_the_table_tell_their_values():
    offenders = [
        name for name, row in augment.OPS.items()
        if (row.values is None) != (len(inspect.signature(row.function).parameters) == 1)
    ]
    assert not offenders


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


def refusals(op, trace):
    """Ways in which an op does not refuse what is not an image of bytes."""
    function, arguments = getattr(augment, op), ARGUMENTS[op]
    if op == "blend_colours":
        function, arguments = (
            lambda image, *rest: augment.blend_colours(RGB, image, *rest),
            arguments[2:],
        )

    def run(image):
        if trace:
            return jax.eval_shape(lambda image: function(image, *arguments), image)
        return function(image, *arguments)

    cases = [
        *((image, TypeError, rf"^image is {image.dtype}\[8, 9, 3\]; must be uint8 ")
          for image in (RGB.astype(np.float32), RGB.astype(np.int8))),
        *((image, ArgumentError, r"^image is uint8\[.*\]; must be uint8 \[H,W,")
          for image in (RGB[0], RGB[None], RGB[:0])),
    ]
    if not trace:
        cases.append(([[1, 2]], TypeError, r"^image is a list; must be uint8 \[H,W,.*\]$"))
    for image, error, message in cases:
        try:
            run(image)
        except (TypeError, ValueError) as caught:
            if not isinstance(caught, error) or not re.search(message, str(caught)):
                yield f"{op}: {caught!r}"
        else:
            yield f"{op} takes {np.shape(image)}"


@pytest.mark.parametrize("trace", [False, True], ids=["eager", "traced"])
def test_what_is_not_an_image_of_bytes_is_refused_in_one_line(trace):
    offenders = [problem for op in ARGUMENTS for problem in refusals(op, trace)]
    assert not offenders, "\n".join(offenders)


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
        jax.eval_shape(lambda image: getattr(augment, op)(image, *wrong), RGB)


def test_two_and_five_channels_are_refused_by_ops_on_colours():
    for channels in (1, 2, 5):
        image = np.zeros((4, 4, channels), np.uint8)
        for op in ("invert", "equalize", "contrast", "color", "sharpness", "luma"):
            with pytest.raises(ValueError, match=r"must be uint8 \[H,W,3 or 4\]$"):
                getattr(augment, op)(image, *ARGUMENTS[op])
