"""Boxes within images, from random words: one text for NumPy and for JAX, with sizes as data.

Boxes are drawn with whole numbers and single products of float32, from tables and limits that
NumPy works out in double precision, so that the host and all devices draw the same boxes. All
tries are drawn at once and the first that fits is taken. Functions that take `xp` compute with it:
`numpy`, or `jax.numpy` where words are traced.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kdaug_jax.errors import ArgumentError
from kdaug_jax.images.arithmetic import Array, mulhi

TRIES = 10
SHAPES = 4096
WORDS = (4, TRIES)  # that a box is drawn from
Range = tuple[float, float]
SCALE: Range = (0.08, 1.0)
RATIO: Range = (3 / 4, 4 / 3)
COVERED = 0.1  # of the image's area, by boxes of TensorFlow
LARGEST_IMAGE = (1 << 27) - 1  # pixels: areas are counted in 1/16 pixel in 31 bits
# Squares of roots are taken four times in 32 bits. A try with a longer side does not fit.
_LONGEST_SIDE = 32765
_LARGEST_SQUARE = (1 << 30) - (1 << 17)


class Box(NamedTuple):
    """A box of pixels, each field `i32[...]`.

    Attributes:
      top: first row.
      left: first column.
      height: number of rows.
      width: number of columns.
    """

    top: ArrayLike
    left: ArrayLike
    height: ArrayLike
    width: ArrayLike


def too_large(height: ArrayLike, width: ArrayLike) -> np.ndarray:
    """Returns which images have more pixels than can be counted: `bool[...]`.

    Args:
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
    """
    return np.asarray(height, np.int64) * np.asarray(width, np.int64) > LARGEST_IMAGE


def check_pixels(height: int, width: int) -> None:
    """Validates that an image does not have more pixels than can be counted.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.

    Raises:
      ArgumentError: naming its size.
    """
    if too_large(height, width):
        raise ArgumentError(
            f"an image of {width}×{height} has more than {LARGEST_IMAGE:,} pixels",
            "store it smaller",
        )


def below(words: Array, count: ArrayLike, xp: ModuleType = np) -> Array:
    """Turns random words into whole numbers below `count`, all but uniform.

    The chances of two numbers differ by 2^-32 at most.

    Args:
      words: `u32[...]`.
      count: 1..2^32-1, `[...]` of a shape that broadcasts to that of the words.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `i32[...]`.
    """
    count = xp.broadcast_to(xp.asarray(count).astype(np.uint32), words.shape)
    return mulhi(words, count).astype(np.int32)


def rounded_root(numbers: Array, xp: ModuleType = np) -> Array:
    """Returns square roots, rounded to nearest, alike on all devices.

    Args:
      numbers: `f32[...]`; larger ones count as 2^30 - 2^17.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `i32[...]`.
    """
    # Devices may differ in the last place of a root, so it is only a guess to start from.
    numbers = xp.minimum(numbers, np.float32(_LARGEST_SQUARE))
    guess = xp.sqrt(numbers).astype(np.uint32)
    root = guess.astype(np.int32) - 1
    for candidate in (guess, guess + 1, guess + 2):
        # n - 1/2 <= root of x, times itself and four.
        square = (4 * (candidate * candidate - candidate) + 1).astype(np.float32)
        root = root + (square <= 4 * numbers).astype(np.int32)
    return root


def _pick(fits: Array, tries: Box, otherwise: Box, xp: ModuleType) -> Box:
    """Takes the first of `[...,TRIES]` boxes that fits, or the other one: `[...,1]`."""
    first = xp.argmax(fits, -1)[..., None]
    fitting = fits.any(-1)[..., None]
    return Box(
        *(
            xp.where(fitting, xp.take_along_axis(side, first, -1), instead)
            for side, instead in zip(tries, otherwise, strict=True)
        )
    )


class Limits(NamedTuple):
    """What images of one size allow of `random_box`, each field `[...,1]` and of NumPy.

    Attributes:
      height: `i32`, of the image in pixels.
      width: `i32`, of the image in pixels.
      least: `i32`, smallest area in 1/16 pixel.
      areas: `u32`, number of areas that may be drawn.
      middle: `i32`, the box that is taken where no try fits.
    """

    height: np.ndarray
    width: np.ndarray
    least: np.ndarray
    areas: np.ndarray
    middle: Box


def limits(height: ArrayLike, width: ArrayLike, scale: Range, ratio: Range) -> Limits:
    """Works out what images allow, in double precision.

    Args:
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
      scale: see `random_box`.
      ratio: see `random_box`.

    Returns:
      Its fields are `[...,1]`.
    """
    height, width = (np.asarray(side, np.int32)[..., None] for side in (height, width))
    low, high = (16 * fraction * height.astype(float) * width for fraction in scale)
    least = np.ceil(low).astype(np.int32)
    areas = (np.floor(high).astype(np.int64) + 1 - least).astype(np.uint32)
    return Limits(height, width, least, areas, middle_box(height, width, ratio))


@functools.lru_cache(maxsize=32)
def _shapes(ratio: Range) -> tuple[np.ndarray, np.ndarray]:
    """Returns `f32[SHAPES]` width / height, evenly spaced by logarithm, and the reciprocals."""
    steps = (np.arange(SHAPES) + 0.5) / SHAPES
    shapes = np.exp(math.log(ratio[0]) + steps * (math.log(ratio[1]) - math.log(ratio[0])))
    return shapes.astype(np.float32), (1 / shapes).astype(np.float32)


def random_box(words: Array, limits: Limits, ratio: Range, xp: ModuleType = np) -> Box:
    """Draws boxes of random area, shape and place.

    Args:
      words: `u32[...,4,TRIES]`.
      limits: of the images, `[...,1]`; smallest and largest area are fractions of the image's,
        uniform between them, in steps of 1/16 pixel.
      ratio: smallest and largest width / height; its logarithm is uniform, in 4,096 steps.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `i32[...,1]` four times. If none of ten tries fits into the image, the largest box in its
      middle whose shape is allowed.

    Source: `RandomResizedCrop.get_params` of torchvision.
    """
    area = limits.least + below(words[..., 0, :], limits.areas, xp)
    area = area.astype(np.float32) / 16
    shape = below(words[..., 1, :], SHAPES, xp)
    wide, tall = map(xp.asarray, _shapes(tuple(ratio)))
    widths, heights = (rounded_root(area * table[shape], xp) for table in (wide, tall))
    tallest, widest = (xp.minimum(side, _LONGEST_SIDE) for side in limits[:2])
    fits = (widths >= 1) & (widths <= widest) & (heights >= 1) & (heights <= tallest)
    rows = below(words[..., 2, :], xp.maximum(limits.height - heights, 0) + 1, xp)
    columns = below(words[..., 3, :], xp.maximum(limits.width - widths, 0) + 1, xp)
    return _pick(fits, Box(rows, columns, heights, widths), limits.middle, xp)


def middle_box(height: np.ndarray, width: np.ndarray, ratio: Range) -> Box:
    """Returns the largest boxes in the middle of images whose shape is allowed.

    Args:
      height: `i32[...]`, of the images in pixels.
      width: `i32[...]`, of the images in pixels.
      ratio: smallest and largest width / height.

    Returns:
      `i32[...]` four times.
    """
    shape = width / height
    tall = np.where(shape < ratio[0], np.rint(width / ratio[0]), height).astype(np.int32)
    wide = np.where(shape > ratio[1], np.rint(height * ratio[1]), width).astype(np.int32)
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


class InceptionLimits(NamedTuple):
    """What images of one size allow of `inception_box`, each field `[...,1]` and of NumPy.

    Attributes:
      height: `i32`, of the image in pixels.
      width: `i32`, of the image in pixels.
      least: `f32`, smallest area in pixels.
      most: `f32`, largest area in pixels.
      covered: `i32`, smaller boxes are drawn again.
    """

    height: np.ndarray
    width: np.ndarray
    least: np.ndarray
    most: np.ndarray
    covered: np.ndarray


def inception_limits(
    height: ArrayLike, width: ArrayLike, area: Range, covered: float
) -> InceptionLimits:
    """Works out what images allow, in single precision as TensorFlow does.

    Args:
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
      area: smallest and largest area, as fractions of the image's.
      covered: boxes of a smaller fraction of the image's area are drawn again.

    Returns:
      Its fields are `[...,1]`.
    """
    height, width = (np.asarray(side, np.int32)[..., None] for side in (height, width))
    least, most = (
        np.float32(share) * width.astype(np.float32) * height.astype(np.float32) for share in area
    )
    return InceptionLimits(height, width, least, most, least_covered(covered, height * width))


def least_covered(covered: float, pixels: np.ndarray) -> np.ndarray:
    """Returns the smallest numbers of pixels that are a fraction of all, counted in float32.

    Args:
      covered: the fraction.
      pixels: `i32[...]`.

    Returns:
      `i32[...]`.
    """
    least = np.maximum(np.ceil(covered * pixels).astype(np.int32) - 1, 0)
    while True:
        few = least.astype(np.float32) / pixels.astype(np.float32) < np.float32(covered)
        if not few.any():
            return least
        least = least + few.astype(np.int32)


@functools.lru_cache(maxsize=32)
def inception_shapes(ratio: Range) -> np.ndarray:
    """Returns `f32[SHAPES]` width / height, evenly spaced between the two of `ratio`."""
    steps = ((np.arange(SHAPES) + 0.5) / SHAPES).astype(np.float32)
    low, high = map(np.float32, ratio)
    return (steps * np.float32(ratio[1] - ratio[0]) + low).astype(np.float32)


def inception_heights(
    shapes: np.ndarray, limits: InceptionLimits
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest height of boxes of each shape.

    Args:
      shapes: `f32[...,N]`, width / height.
      limits: of the images, `[...,1]`.

    Returns:
      `i32[...,N]` both.
    """
    low = np.rint(np.sqrt(limits.least / shapes)).astype(np.int32)
    high = np.rint(np.sqrt(limits.most / shapes)).astype(np.int32)

    def too_wide(heights: np.ndarray) -> np.ndarray:
        return np.rint(heights.astype(np.float32) * shapes) > limits.width

    fitting = ((limits.width + 0.5 - 1e-7) / shapes.astype(float)).astype(np.int32)
    fitting = fitting - too_wide(fitting).astype(np.int32)
    high = np.minimum(np.where(too_wide(high), fitting, high), limits.height).astype(np.int32)
    return np.minimum(low, high), high


def inception_box(
    words: Array,
    limits: InceptionLimits,
    ratio: Range,
    heights_of: Callable[[Array], tuple[Array, Array]],
    xp: ModuleType = np,
) -> Box:
    """Draws boxes as TensorFlow's op does: shape first, then a height that fits it.

    Args:
      words: `u32[...,4,TRIES]`.
      limits: of the images, `[...,1]`.
      ratio: smallest and largest width / height, uniform between them in 4,096 steps.
      heights_of: returns what `inception_heights` does, given numbers `i32[...,TRIES]` of shapes.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `i32[...,1]` four times; the whole image if none of ten tries will do. As in the op, a box
      is never at the last row or column that it could start from.

    Source: `sample_distorted_bounding_box_op.cc` of TensorFlow, with the image as its only object.
    """
    shape = below(words[..., 0, :], SHAPES, xp)
    box_shape = xp.asarray(inception_shapes(tuple(ratio)))[shape]
    low, high = heights_of(shape)
    heights = low + below(words[..., 1, :], high - low + 1, xp)

    def widths_of(heights: Array) -> Array:
        return xp.rint(heights.astype(np.float32) * box_shape).astype(np.int32)

    def pixels_of(heights: Array) -> Array:
        return (heights * widths_of(heights)).astype(np.float32)

    heights = heights + (pixels_of(heights) < limits.least).astype(np.int32)
    heights = heights - (pixels_of(heights) > limits.most).astype(np.int32)
    areas, widths = pixels_of(heights), widths_of(heights)
    fits = (areas >= limits.least) & (areas <= limits.most)
    fits &= (widths >= 1) & (widths <= limits.width) & (heights >= 1) & (heights <= limits.height)
    fits &= heights * widths >= limits.covered
    rows = below(words[..., 2, :], xp.maximum(limits.height - heights, 1), xp)
    columns = below(words[..., 3, :], xp.maximum(limits.width - widths, 1), xp)
    zero = xp.zeros_like(limits.height)
    image = Box(zero, zero, limits.height, limits.width)
    return _pick(fits, Box(rows, columns, heights, widths), image, xp)


def center_box(height: ArrayLike, width: ArrayLike, size: int, padding: int = 32) -> Box:
    """Returns the squares in the middle of which evaluation sees, for one size of results.

    Args:
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
      size: side of the result in pixels.
      padding: pixels of the result's scale that are left out, on both sides together.

    Returns:
      `i32[...]` four times.

    Source: `_decode_and_center_crop` of EfficientNet as released in 2019, in float32.
    """
    height, width = (np.asarray(side, np.int32) for side in (height, width))
    fraction = np.float32(size / (size + padding))
    side = (fraction * np.minimum(height, width).astype(np.float32)).astype(np.int32)
    return Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def middle_or_drawn(
    drawn: Box, height: ArrayLike, width: ArrayLike, size: int, xp: ModuleType = np
) -> Box:
    """Returns the drawn boxes, or where they are the whole image, the middle of it.

    The middle is that of evaluation, and of tiny images at least one pixel.

    Args:
      drawn: `i32[...]` four times, from `inception_box`.
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
      size: side of the result in pixels.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `i32[...]` four times.

    Source: `_decode_and_random_crop` of Tan and Le 2019 (EfficientNet).
    """
    middle = center_box(height, width, size)
    side = np.maximum(middle.height, 1)
    middle = Box(np.minimum(middle.top, height - side), np.minimum(middle.left, width - side),
                 side, side)
    entire = (drawn.height == height) & (drawn.width == width)
    return Box(*(xp.where(entire, *pair) for pair in zip(middle, drawn, strict=True)))


def shorter_size(height: np.ndarray, width: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sizes of images whose shorter side is brought to `side` pixels.

    Args:
      height: `i[...]`, of the images in pixels.
      width: `i[...]`, of the images in pixels.
      side: shorter side of the result in pixels.

    Returns:
      Heights and widths, `i64[...]`: the longer side in proportion, cut off.

    Source: `Resize(int)` of torchvision.
    """
    height, width = (np.asarray(length, np.int64) for length in (height, width))
    return tuple(
        np.where(length <= other, side, (side * length / other).astype(np.int64))
        for length, other in ((height, width), (width, height))
    )


def center_start(length: ArrayLike, size: int) -> np.ndarray:
    """Returns where a plain crop from the middle starts; below 0 where it is larger than the image.

    Args:
      length: `i[...]`, of the image's side in pixels.
      size: of the crop in pixels.

    Returns:
      `i32[...]`: halves are rounded to even, and of an odd padding the larger part comes last.

    Source: `CenterCrop` of torchvision.
    """
    spare = np.asarray(length, np.int64) - size
    start = np.where(spare < 0, -(-spare // 2), np.rint(spare / 2))
    return start.astype(np.int32)


def random_start(
    words: Array, height: ArrayLike, width: ArrayLike, size: int, xp: ModuleType = np
) -> tuple[Array, Array]:
    """Draws where a plain crop starts, uniformly.

    Args:
      words: `u32[...,2]`.
      height: `i[...]`, of the images in pixels, at least `size`.
      width: `i[...]`, of the images in pixels, at least `size`.
      size: side of the crop in pixels.
      xp: `numpy` or `jax.numpy`.

    Returns:
      First row and first column, `i32[...]`.

    Source: `RandomCrop` of torchvision.
    """
    return tuple(
        below(words[..., axis], np.asarray(side) - size + 1, xp)
        for axis, side in enumerate((height, width))
    )
