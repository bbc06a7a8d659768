"""Drawing boxes of random size and shape, and the box in the middle that evaluation sees.

Boxes are drawn with whole numbers and single products of float32, from tables of shapes made on
the host, so that all devices draw the same boxes. All tries are drawn at once and the first that
fits is taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.images.mulhi import mulhi

TRIES = 10
_SHAPES = 4096


class Box(NamedTuple):
    """A box of pixels, each field `i32[]`.

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


def _pick(fits: jax.Array, drawn: Box, otherwise: Box) -> Box:
    """Takes the first of `[TRIES]` boxes that fits, or the other one."""
    first, some = jnp.argmax(fits), fits.any()
    return Box(
        *(jnp.where(some, tries[first], side) for tries, side in zip(drawn, otherwise, strict=True))
    )


def _below(bits: jax.Array, count: ArrayLike) -> jax.Array:
    """Turns `u32[...]` random bits into `i32[...]` whole numbers below `count`, all but uniform.

    The chances of two numbers differ by 2^-32 at most.
    """
    count = jnp.broadcast_to(jnp.asarray(count).astype(jnp.uint32), bits.shape)
    return mulhi(bits, count).astype(jnp.int32)


def _root(numbers: jax.Array) -> jax.Array:
    """Returns `i32[...]` square roots of `f32[...]`, rounded to nearest, alike on all devices."""
    # Devices may differ in the last place of a root, so it is only a guess to start from.
    guess = jnp.sqrt(numbers).astype(jnp.int32)
    root = guess - 1
    for candidate in (guess, guess + 1, guess + 2):
        # n - 1/2 <= root of x, times itself and four.
        square = (4 * (candidate * candidate - candidate) + 1).astype(jnp.float32)
        root = root + (square <= 4 * numbers).astype(jnp.int32)
    return root


def draw_box(
    key: jax.Array,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draws a box of random area, shape and place.

    Args:
      key: `key[]`.
      height: of the image in pixels.
      width: of the image in pixels.
      scale: smallest and largest area, as fractions of the image's; uniform between them, in
        steps of 1/16 pixel.
      ratio: smallest and largest width / height; its logarithm is uniform, in 4,096 steps.

    Returns:
      Four `i32[]`. If none of ten tries fits into the image, the largest box in its middle whose
      shape is allowed.

    Source: `RandomResizedCrop.get_params` of torchvision.
    """
    bits = jax.random.bits(key, (4, TRIES))
    low, high = (16 * fraction * height * width for fraction in scale)
    low = math.ceil(low)
    area = low + _below(bits[0], math.floor(high) + 1 - low)
    steps = (np.arange(_SHAPES) + 0.5) / _SHAPES
    shapes = np.exp(math.log(ratio[0]) + steps * (math.log(ratio[1]) - math.log(ratio[0])))
    shape = _below(bits[1], _SHAPES)
    area = area.astype(jnp.float32) / 16
    widths = _root(area * jnp.asarray(shapes, jnp.float32)[shape])
    heights = _root(area * jnp.asarray(1 / shapes, jnp.float32)[shape])
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    rows = _below(bits[2], jnp.maximum(height - heights, 0) + 1)
    columns = _below(bits[3], jnp.maximum(width - widths, 0) + 1)
    return _pick(fits, Box(rows, columns, heights, widths), _middle(height, width, ratio))


def _middle(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Returns the largest box in the middle of an image whose shape is allowed."""
    tall, wide = height, width
    if width / height < ratio[0]:
        tall = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def draw_inception_box(
    key: jax.Array,
    height: int,
    width: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    covered: float = 0.1,
) -> Box:
    """Draws a box as TensorFlow's op does: shape first, then a height that fits it.

    Args:
      key: `key[]`.
      height: of the image in pixels.
      width: of the image in pixels.
      area: smallest and largest area, as fractions of the image's.
      ratio: smallest and largest width / height, uniform between them in 4,096 steps.
      covered: boxes of a smaller fraction of the image's area are drawn again.

    Returns:
      Four `i32[]`; the whole image if none of ten tries will do. As in the op, a box is never at
      the last row or column that it could start from.

    Source: `sample_distorted_bounding_box_op.cc` of TensorFlow, with the image as its only object.
    """
    bits = jax.random.bits(key, (4, TRIES))
    steps = ((np.arange(_SHAPES) + 0.5) / _SHAPES).astype(np.float32)
    shapes = (steps * np.float32(ratio[1] - ratio[0]) + np.float32(ratio[0])).astype(np.float32)
    least, most = (
        np.float32(share) * np.float32(width) * np.float32(height) for share in area
    )
    low, high = _heights(shapes, least, most, height, width)
    shape = _below(bits[0], _SHAPES)
    box_shape = jnp.asarray(shapes)[shape]
    low, high = jnp.asarray(low)[shape], jnp.asarray(high)[shape]
    heights = low + _below(bits[1], high - low + 1)

    def widths(heights: jax.Array) -> jax.Array:
        return jnp.round(heights.astype(jnp.float32) * box_shape).astype(jnp.int32)

    def pixels(heights: jax.Array) -> jax.Array:
        return (heights * widths(heights)).astype(jnp.float32)

    heights = heights + (pixels(heights) < least).astype(jnp.int32)
    heights = heights - (pixels(heights) > most).astype(jnp.int32)
    areas, wide = pixels(heights), widths(heights)
    fits = (areas >= least) & (areas <= most) & (wide >= 1) & (wide <= width)
    fits &= (heights >= 1) & (heights <= height)
    fits &= heights * wide >= _least_covered(covered, height * width)
    rows = _below(bits[2], jnp.maximum(height - heights, 1))
    columns = _below(bits[3], jnp.maximum(width - wide, 1))
    return _pick(fits, Box(rows, columns, heights, wide), Box(0, 0, height, width))


def _heights(
    shapes: np.ndarray, least: np.float32, most: np.float32, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest height of boxes of each shape, `i32[N]` both."""
    low = np.rint(np.sqrt(least / shapes)).astype(np.int32)
    high = np.rint(np.sqrt(most / shapes)).astype(np.int32)
    too_wide = np.rint(high.astype(np.float32) * shapes) > width
    high = np.where(too_wide, ((width + 0.5 - 1e-7) / shapes.astype(float)).astype(np.int32), high)
    still = too_wide & (np.rint(high.astype(np.float32) * shapes) > width)
    high = np.minimum(high - still.astype(np.int32), height).astype(np.int32)
    return np.minimum(low, high), high


def _least_covered(covered: float, pixels: int) -> int:
    """Returns the smallest number of pixels that is the fraction `covered` of all, in float32."""
    least = max(math.ceil(covered * pixels) - 1, 0)
    while np.float32(least) / np.float32(pixels) < np.float32(covered):
        least += 1
    return least


def center_box(height: int, width: int, size: int, padding: int = 32) -> Box:
    """Returns the square in the middle of which evaluation sees, for one size of results.

    Args:
      height: of the image in pixels.
      width: of the image in pixels.
      size: side of the result in pixels.
      padding: pixels of the result's scale that are left out, on both sides together.

    Returns:
      Four whole numbers.

    Source: `_decode_and_center_crop` of EfficientNet as released in 2019, in float32.
    """
    fraction = np.float32(size / (size + padding))
    side = int(fraction * np.float32(min(height, width)))
    return Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)
