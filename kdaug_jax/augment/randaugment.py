"""RandAugment: N ops drawn from a space, all at magnitude M.

A space is a table of numbers, so an image takes its row and every image runs the same code;
a branch per op would, under vmap, compute all branches for all images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdaug_jax import rng
from kdaug_jax.augment import wei2020
from kdaug_jax.augment.geometry import affine_nearest
from kdaug_jax.augment.masks import erase_square
from kdaug_jax.errors import near
from kdaug_jax.types import Fill, Level


class Space(NamedTuple):
    """One space of ops.

    Attributes:
      max_level: the largest magnitude.
      table: `table(height, width)`, what each op does at each level.
    """

    max_level: int
    table: Callable[[int, int], wei2020.Table]


SPACES = {"wei2020": Space(wei2020.MAX_LEVEL, wei2020.table)}


def _space(name: str) -> Space:
    if name not in SPACES:
        raise ValueError(f"unknown space '{name}'", near(name, SPACES))
    return SPACES[name]


def randaugment(
    key: jax.Array,
    image: jax.Array,
    n: int,
    m: Level,
    space: str = "wei2020",
    fill: Fill = "mean",
) -> jax.Array:
    """Applies `n` ops in turn, each uniform over the space, with a random sign.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      n: how many ops; the same one may come again.
      m: `i32[]`, the magnitude, 0 (no change) to the largest of the space.
      space: name in `SPACES`.
      fill: `u8[C]`, the colour of what comes in from outside the image and of squares.

    Returns:
      `u8[H,W,C]`.

    Raises:
      ValueError: no such space.

    Source: Cubuk et al. 2020 (RandAugment); Wei et al. 2020, Table 1, for `wei2020`.
    """
    height, width, _ = image.shape
    rows = _space(space).table(height, width)
    coefficients, sides = jnp.asarray(rows.coefficients), jnp.asarray(rows.side)
    for occurrence in range(n):
        own = rng.fold(key, f"op/{occurrence}")
        op_key, sign_key, top_key, left_key = jax.random.split(own, 4)
        op = jax.random.randint(op_key, (), 0, coefficients.shape[0])
        sign = jax.random.bernoulli(sign_key).astype(jnp.int32)
        image = affine_nearest(image, coefficients[op, m, sign], fill)
        side = sides[op, m]
        top = jax.random.randint(top_key, (), 0, jnp.maximum(height - side, 0) + 1)
        left = jax.random.randint(left_key, (), 0, jnp.maximum(width - side, 0) + 1)
        image = erase_square(image, top, left, side, fill)
    return image


def check_randaugment(arguments: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Refuses unknown spaces and a negative number of ops.

    Args:
      arguments: what a user wrote for `randaugment`.
      size: height and width of the images in pixels.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    del size
    _space(arguments["space"])
    if arguments["n"] < 0:
        raise ValueError(f"got n={arguments['n']}", "must be at least 0")


def limit_randaugment(arguments: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Gives the magnitudes of the space that a user chose.

    Args:
      arguments: what a user wrote for `randaugment`.

    Returns:
      `{"m": (0, largest)}`.
    """
    return {"m": (0, _space(arguments["space"]).max_level)}
