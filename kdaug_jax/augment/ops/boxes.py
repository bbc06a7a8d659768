"""Drawing boxes of random size and shape from keys; see `kdaug_jax.images.boxes`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.images import boxes
from kdaug_jax.images.boxes import Box


def draw_box(
    key: jax.Array,
    height: int,
    width: int,
    scale: tuple[float, float] = boxes.SCALE,
    ratio: tuple[float, float] = boxes.RATIO,
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

    Raises:
      ArgumentError: the image has more than 2^27 - 1 pixels.

    Source: `RandomResizedCrop.get_params` of torchvision.
    """
    boxes.check_pixels(height, width)
    words = jax.random.bits(key, boxes.WORDS)
    limits = boxes.limits(height, width, scale, ratio)
    return _single(boxes.random_box(words, limits, tuple(ratio), jnp))


def draw_inception_box(
    key: jax.Array,
    height: int,
    width: int,
    area: tuple[float, float] = boxes.SCALE,
    ratio: tuple[float, float] = boxes.RATIO,
    covered: float = boxes.COVERED,
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

    Raises:
      ArgumentError: the image has more than 2^27 - 1 pixels.

    Source: `sample_distorted_bounding_box_op.cc` of TensorFlow, with the image as its only object.
    """
    boxes.check_pixels(height, width)
    words = jax.random.bits(key, boxes.WORDS)
    limits = boxes.inception_limits(height, width, area, covered)
    # A table by shape, since devices may round a root in another way.
    table = boxes.inception_heights(boxes.inception_shapes(tuple(ratio)), limits)

    def heights_of(shape: jax.Array) -> tuple[jax.Array, jax.Array]:
        return tuple(jnp.asarray(heights)[shape] for heights in table)

    return _single(boxes.inception_box(words, limits, tuple(ratio), heights_of, jnp))


def _single(box: Box) -> Box:
    """Returns the fields `i32[1]` of a box as `i32[]`."""
    return Box(*(side[0] for side in box))
