"""Small filters in whole numbers, pixel for pixel those of Pillow.

Source: `ImageFilter.SMOOTH` and `BLUR`, `ImageEnhance.Sharpness` of Pillow 13.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.arithmetic.packed import even, interleave, odd, pack, unpack
from kdaug_jax.augment.ops.blending import RGB, blend_colours, blend_packed, split_alpha
from kdaug_jax.augment.ops.checks import check_image
from kdaug_jax.augment.ops.kernel import Context, Row

CHANNELS = (1, 2, 3, 4)


def _window(packed: jax.Array, radius: int) -> dict[tuple[int, int], jax.Array]:
    """Returns the neighbours of all pixels by row and column, 0 outside: `u32[H,W]` each."""
    height, width = packed.shape
    # Kept apart, lest a compiler pads again for each neighbour.
    wide = jax.lax.optimization_barrier(jnp.pad(packed, radius))
    reach = range(-radius, radius + 1)
    return {
        (row, column): wide[radius + row :, radius + column :][:height, :width]
        for row in reach for column in reach
    }


def keep_border(changed: jax.Array, image: jax.Array, border: int) -> jax.Array:
    """Takes the border from one image and the middle from another.

    Args:
      changed: `[H,W,...]`, of which the middle is taken.
      image: `[H,W,...]`, of which the border is taken.
      border: its width in pixels.

    Returns:
      `[H,W,...]`.
    """
    rows, columns = (
        (np.arange(side) >= border) & (np.arange(side) < side - border) for side in image.shape[:2]
    )
    inside = (rows[:, None] & columns[None, :]).reshape(*image.shape[:2], *[1] * (image.ndim - 2))
    return jnp.where(inside, changed, image)


def thirteenth(lanes: jax.Array) -> jax.Array:
    """Divides two numbers of up to 3,321 a word `u32[...]` by 13 and cuts off: `u32[...]`."""
    low, high = lanes & 0xFFFF, lanes >> 16
    return ((low * 5042) >> 16) | (high * 5042) & np.uint32(0xFFFF0000)


def smooth_packed(packed: jax.Array) -> jax.Array:
    """Computes `smooth` of packed pixels.

    Args:
      packed: `u32[H,W]`, see `packed.pack`.

    Returns:
      `u32[H,W]`.
    """
    neighbours = _window(packed, 1)
    # Six more are a half of 13, cut off: rounded to nearest, for there are no ties.
    sums = (
        sum(map(lanes, neighbours.values())) + 4 * lanes(packed) + np.uint32(0x00060006)
        for lanes in (even, odd)
    )
    return keep_border(interleave(*map(thirteenth, sums)), packed, 1)


def blur_packed(packed: jax.Array) -> jax.Array:
    """Computes `blur` of packed pixels.

    Args:
      packed: `u32[H,W]`, see `packed.pack`.

    Returns:
      `u32[H,W]`.
    """
    ring = [
        pixel for (row, column), pixel in _window(packed, 2).items()
        if max(abs(row), abs(column)) == 2
    ]
    sums = (sum(map(lanes, ring)) + np.uint32(0x00080008) for lanes in (even, odd))
    return keep_border(interleave(*(even(lane >> 4) for lane in sums)), packed, 2)


def smooth(image: jax.Array) -> jax.Array:
    """Averages each pixel, five times, with its eight neighbours.

    Args:
      image: `u8[H,W,C]`, C at most 4, alpha treated like a colour.

    Returns:
      `u8[H,W,C]`, rounded to nearest; the border of one pixel is unchanged.
    """
    channels = check_image(image, CHANNELS)[2]
    return unpack(smooth_packed(pack(image)), channels)


def blur(image: jax.Array) -> jax.Array:
    """Averages the ring of 16 pixels at a distance of two.

    Args:
      image: `u8[H,W,C]`, C at most 4, alpha treated like a colour.

    Returns:
      `u8[H,W,C]`, rounded half up; the border of two pixels is unchanged.
    """
    channels = check_image(image, CHANNELS)[2]
    return unpack(blur_packed(pack(image)), channels)


def sharpness(image: jax.Array, factor: ArrayLike) -> jax.Array:
    """Makes edges harder or softer, against the smoothed image; alpha is kept.

    Args:
      image: `u8[H,W,C]`, C = 3 or 4.
      factor: `f32[]`, 0 (smooth), 1 (no change), or more; may be traced.

    Returns:
      `u8[H,W,C]`.
    """
    check_image(image, RGB)
    alpha = split_alpha(factor)
    return blend_colours(smooth(image[:, :, :3]), image, *alpha)


def sharpness_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Computes `sharpness` of packed pixels, in the arithmetic of any variant."""
    return blend_packed(context.arithmetic.smooth(packed), packed, row, context)
