"""Erasing squares: the deterministic ops, and Cutout as it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.augment.ops.checks import check_fill, check_image, check_number
from kdaug_jax.augment.ops.kernel import Context, Row
from kdaug_jax.augment.ops.squares import box
from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Fill, Level


def paint(image: jax.Array, mask: jax.Array, fill: ArrayLike) -> jax.Array:
    """Sets the pixels under a mask to one colour.

    Args:
      image: `u8[H,W,C]`.
      mask: `bool[H,W]`, True where the colour goes.
      fill: `u8[C]`, the colour.

    Returns:
      `u8[H,W,C]`.

    Raises:
      TypeError: `fill` is a name; names are turned into colours by the view language.
      ArgumentError: `fill` is not a colour of the image's channels, the image is none, or the
        mask is of another size or type.
    """
    if image.ndim != 3 or mask.shape != image.shape[:2] or mask.dtype != jnp.bool_:
        raise ArgumentError(
            f"got an image {list(image.shape)} and a mask {mask.dtype}{list(mask.shape)}",
            "must be [H,W,C] and bool[H,W], map over a batch with jax.vmap",
        )
    check_fill(fill, image.shape[2])
    colour = jnp.broadcast_to(jnp.asarray(fill, image.dtype), image.shape)
    return jnp.where(mask[:, :, None], colour, image)


def in_box(height: int, width: int, top, bottom, left, right) -> jax.Array:
    """Returns `bool[height,width]`, True on rows top..bottom-1 and columns left..right-1."""
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside_rows = (rows >= top) & (rows < bottom)
    inside_columns = (columns >= left) & (columns < right)
    return inside_rows[:, None] & inside_columns[None, :]


def cutout(
    image: jax.Array, cy: ArrayLike, cx: ArrayLike, size: ArrayLike, fill: ArrayLike
) -> jax.Array:
    """Erases a square around a centre, clipped by the border of the image.

    Args:
      image: `u8[H,W,C]`.
      cy: `i32[]`, row of the centre.
      cx: `i32[]`, column of the centre.
      size: `i32[]`, side of the square in pixels; `size // 2` go to each side of the centre.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.

    Source: DeVries and Taylor 2017 (Cutout).
    """
    check_image(image)
    check_number("size", size, 0, np.inf, whole=True)
    for name, place in (("cy", cy), ("cx", cx)):
        check_number(name, place, -np.inf, np.inf, whole=True)
    half = jnp.asarray(size, jnp.int32) // 2
    return paint(image, in_box(*image.shape[:2], cy - half, cy + half, cx - half, cx + half), fill)


def erase_square(
    image: jax.Array, top: ArrayLike, left: ArrayLike, size: ArrayLike, fill: ArrayLike
) -> jax.Array:
    """Erases the square whose first corner is given; with size 0, nothing.

    Args:
      image: `u8[H,W,C]`.
      top: `i32[]`, first row.
      left: `i32[]`, first column.
      size: `i32[]`, side of the square in pixels.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.
    """
    check_image(image)
    check_number("size", size, 0, np.inf, whole=True)
    for name, place in (("top", top), ("left", left)):
        check_number(name, place, -np.inf, np.inf, whole=True)
    return paint(image, in_box(*image.shape[:2], top, top + size, left, left + size), fill)


def erase_kernel(packed: jax.Array, row: Row, context: Context) -> jax.Array:
    """Erases the square of a row from packed pixels, at the place that was drawn for it."""
    top, bottom, left, right = box(row.square_offset, *row.squares, packed.shape)
    inside = in_box(*packed.shape, top, bottom, left, right)
    return jnp.where(inside, context.packed_erase, packed)


def random_cutout(
    key: jax.Array, image: jax.Array, length: Level, n_holes: int = 1, fill: Fill = "mean"
) -> jax.Array:
    """Erases squares around centres that are uniform over the image.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      length: `i32[]`, side of each square in pixels.
      n_holes: number of squares.
      fill: `u8[C]`.

    Returns:
      `u8[H,W,C]`.

    Source: DeVries and Taylor 2017 (Cutout).
    """
    height, width, _ = image.shape
    row_key, column_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (n_holes,), 0, height)
    columns = jax.random.randint(column_key, (n_holes,), 0, width)
    for hole in range(n_holes):
        image = cutout(image, rows[hole], columns[hole], length, fill)
    return image


def check_cutout(arguments: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Validates that squares fit the image and that there is at least one.

    Args:
      arguments: what a user wrote for `random_cutout`.
      size: height and width of the images in pixels.

    Raises:
      ArgumentError: what is wrong, and what to write.
    """
    height, width = size
    if arguments["length"] > max(size):
        raise ArgumentError(
            f"length {arguments['length']} is larger than the {width}×{height} image",
            f"must be at most {max(size)}",
        )
    if arguments["n_holes"] < 1:
        raise ArgumentError(f"got n_holes={arguments['n_holes']}", "must be at least 1")
