"""Stages of your own: named in a view as `PACKAGE.MODULE.function(values)`.

    config.views = {"x": "pad_crop(4)|docs.examples.stage.salt(0.02)|flip"}

A plain function `f(key, image, ...)` changes one image `u8[H,W,C]` and is mapped over the batch.
Of the options, those annotated as `Fraction`, `Positive`, `NonNegative` or `Level` are traced:
they have a path (`views.x.salt.share`) and may be swept or changed by a phase without a new
compilation. All others are constants of the program. Derive every draw from `key`.

Everything else is a row `Stage`: another size, float32 pixels, a whole batch, a group or a policy.
"""

import jax
import jax.numpy as jnp

from kdaug_jax.augment import Stage
from kdaug_jax.errors import ArgumentError
from kdaug_jax.types import Fraction, Level, View


def salt(key: jax.Array, image: jax.Array, share: Fraction = 0.05, level: Level = 255):
    """Sets a share of the pixels to one level.

    Args:
      key: `key[]`.
      image: `u8[H,W,C]`.
      share: of the pixels.
      level: 0..255.

    Returns:
      `u8[H,W,C]`.
    """
    hit = jax.random.uniform(key, image.shape[:2]) < share
    return jnp.where(hit[..., None], jnp.asarray(level, jnp.uint8), image)


def _half(key: jax.Array, image: jax.Array, every: int = 2) -> jax.Array:
    """Keeps every n-th row and column; `every` sets a shape, so it is not traced."""
    del key
    return image[::every, ::every]


def _check_half(arguments, size):
    if not 1 <= arguments["every"] <= min(size):
        raise ArgumentError(f"got every={arguments['every']}", f"must be 1..{min(size)}")


def _size_of_half(arguments, size):
    return tuple(-(-side // arguments["every"]) for side in size)


# Another size is declared: `size` gets the options and (height, width).
half = Stage(_half, check=_check_half, size=_size_of_half)


def _swap_labels(key: jax.Array, view: View, share: Fraction = 0.1) -> View:
    """Gives a share of the examples the class probabilities of another one of their group."""
    draw, shuffle = jax.random.split(key)
    rows = view.target.shape[0]
    hit = jax.random.uniform(draw, (rows, 1)) < share
    others = view.target[jax.random.permutation(shuffle, rows)]
    return view.replace(target=jnp.where(hit, others, view.target))


# Form "group" sees all examples of a group, `train.replica_batch_size`, with their labels.
swap_labels = Stage(_swap_labels, form="group")
