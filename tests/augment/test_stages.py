import inspect
import typing

import jax
import numpy as np
import pytest

from kdaug_jax.augment import STAGES
from kdaug_jax.types import Range

ARGUMENTS = {
    "pad_crop": (2,), "flip": (), "cutout": (3,), "random_resized_crop": (5,),
    "inception_crop": (5,), "center_crop": (5, 2), "efficientnet_crop": (5, 2),
    "resize": (5, 5), "resize_shorter": (5,), "crop_center": (5,), "crop_random": (5,),
}
FILL = {"fill": np.zeros(3, np.uint8)}
IMAGE_STAGES = [name for name, stage in STAGES.items() if stage.form == "example"]
POLICIES = [name for name, stage in STAGES.items() if stage.form == "policy"]


def test_every_stage_is_tried():
    assert set(IMAGE_STAGES) == set(ARGUMENTS)


@pytest.mark.parametrize("name", [name for name in STAGES if name not in POLICIES])
def test_signature_convention(name):
    function = STAGES[name].apply
    parameters = list(inspect.signature(function).parameters.values())
    second = {"example": "image", "group": "view"}[STAGES[name].form]
    assert [parameter.name for parameter in parameters[:2]] == ["key", second]
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in parameters[2:]:
        marks = getattr(hints[parameter.name], "__metadata__", ())
        traced = any(isinstance(mark, Range) for mark in marks)
        plain = hints[parameter.name] in (int, str, bool, tuple[float, float])
        plain |= typing.get_origin(hints[parameter.name]) is typing.Literal
        assert traced or "fill" in marks or plain
        assert ("fill" in marks) == (parameter.name == "fill")
        assert f"{parameter.name}:" in function.__doc__
    data = "`u8[H,W,C]`" if second == "image" else "`[B,...]`"
    for section in ("Args:", "Returns:", "`key[]`", data):
        assert section in function.__doc__


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_built_for_a_size(name):
    function = STAGES[name].apply
    parameters = inspect.signature(function).parameters
    assert parameters["size"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "size: height and width of the images in pixels" in function.__doc__
    assert inspect.signature(function).return_annotation == "Policy"


@pytest.mark.parametrize("name", IMAGE_STAGES)
def test_an_image_is_the_same_in_any_batch_and_alone(name):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 7, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 6)
    apply = STAGES[name].apply
    fill = FILL if "fill" in inspect.signature(apply).parameters else {}

    def one(key, image):
        return apply(key, image, *ARGUMENTS[name], **fill)

    stage = jax.jit(jax.vmap(one))
    whole = np.asarray(stage(keys, images))
    sized = STAGES[name].size is not None
    assert whole.shape[1:] == ((5, 5, 3) if sized else images.shape[1:])
    assert whole.dtype == (np.float32 if STAGES[name].floats else np.uint8)
    order = np.array([3, 4, 5, 0, 1, 2])
    np.testing.assert_array_equal(whole[order], stage(keys[order], images[order]))
    np.testing.assert_array_equal(whole[4], jax.jit(one)(keys[4], images[4]))
    assert sized or (whole != images).any()
