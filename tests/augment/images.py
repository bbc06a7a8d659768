"""Images for the tests of this folder: stored reference outputs, and pieces of photographs."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from tests import golden_augment

FOLDER = Path(__file__).parents[1] / "golden"


@functools.cache
def augment_cases(name):
    """All arrays of one set of Pillow's outputs, by key."""
    return golden_augment.load(FOLDER / "augment", name)


@functools.cache
def photographs(count, height, width, channels=3):
    """`u8[count,height,width,channels]`: pieces of two photographs, one in eight of them noise.

    Of the alpha channel every other image is noise and the others are of 0, 3, 128 and 255.
    """
    rng = np.random.default_rng(height * width + channels)
    sources = load_sample_images().images
    images = np.empty((count, height, width, channels), np.uint8)
    for number, image in enumerate(images):
        source = sources[number % 2]
        top, left = (rng.integers(0, n) for n in np.subtract(source.shape[:2], (height, width)))
        image[..., :3] = source[top : top + height, left : left + width]
        if number % 8 == 7:
            image[..., :3] = rng.integers(0, 256, (height, width, 3))
        if channels == 4:
            few = rng.choice([0, 3, 128, 255], (height, width))
            image[..., 3] = few if number % 2 else rng.integers(0, 256, (height, width))
    return images


def through_pillow(function, images, *arguments):
    """Runs a function of one image of Pillow on each image, and on its own arguments."""
    rows = zip(images, *arguments, strict=True)
    return np.stack([np.asarray(function(Image.fromarray(one), *own)) for one, *own in rows])
