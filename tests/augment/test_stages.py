import inspect
import typing

import jax
import numpy as np
import pytest

from kdaug_jax.augment import STAGES
from kdaug_jax.types import Range

ARGUMENTS = {"pad_crop": (2,), "flip": (), "cutout": (3,), "randaugment": (2, 3)}
FILL = {"fill": np.zeros(3, np.uint8)}


@pytest.mark.parametrize("name", STAGES)
def test_signature_convention(name):
    function = STAGES[name].apply
    parameters = list(inspect.signature(function).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["key", "image"]
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in parameters[2:]:
        marks = getattr(hints[parameter.name], "__metadata__", ())
        traced = any(isinstance(mark, Range) for mark in marks)
        assert traced or "fill" in marks or hints[parameter.name] in (int, str)
        assert ("fill" in marks) == (parameter.name == "fill")
        assert f"{parameter.name}:" in function.__doc__
    for section in ("Args:", "Returns:", "`key[]`", "`u8[H,W,C]`"):
        assert section in function.__doc__


@pytest.mark.parametrize("name", STAGES)
def test_an_image_is_the_same_in_any_batch_and_alone(name):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 7, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 6)
    apply, fill = STAGES[name].apply, FILL if name != "flip" else {}

    def one(key, image):
        return apply(key, image, *ARGUMENTS[name], **fill)

    stage = jax.jit(jax.vmap(one))
    whole = stage(keys, images)
    assert whole.shape == images.shape and whole.dtype == np.uint8
    order = np.array([3, 4, 5, 0, 1, 2])
    np.testing.assert_array_equal(whole[order], stage(keys[order], images[order]))
    np.testing.assert_array_equal(whole[4], one(keys[4], images[4]))
    assert (np.asarray(whole) != images).any()
