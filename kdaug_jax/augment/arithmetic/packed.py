"""Pixels as words: the bytes of a pixel in one `u32`, the first channel lowest.

A pixel in a word is fetched once instead of once a channel, and two channels are added at a time,
with 16 bits of room each. What is in a word stays whole numbers, so no bit of a result depends on
whether an op was given bytes or words.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.errors import ArgumentError

ALPHA = np.uint32(0xFF000000)
_LANES = np.uint32(0x00FF00FF)  # of every other channel


def pack(image: ArrayLike) -> jax.Array:
    """Returns `u32[...]`, the words of `u8[...,C]`; the bytes of channels that are not there are 0.

    Raises:
      ArgumentError: more than four channels.
    """
    image = jnp.asarray(image, jnp.uint8)
    missing = 4 - image.shape[-1]
    if missing < 0:
        raise ArgumentError(f"image has {image.shape[-1]} channels; must be at most 4")
    widths = [(0, 0)] * (image.ndim - 1) + [(0, missing)]
    return jax.lax.bitcast_convert_type(jnp.pad(image, widths), jnp.uint32)


def unpack(packed: jax.Array, channels: int) -> jax.Array:
    """Returns the bytes `u8[...,channels]` of `u32[...]`."""
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :channels]


def planes(packed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the three colours, `i32[...]` each, of `u32[...]`."""
    return tuple(((packed >> (8 * place)) & 255).astype(jnp.int32) for place in range(3))


def with_colours(packed: jax.Array, colours: tuple[jax.Array, ...]) -> jax.Array:
    """Returns `u32[...]` with other colours, `[...]` each in 0..255, and its own alpha."""
    red, green, blue = (colour.astype(jnp.uint32) for colour in colours)
    return (packed & ALPHA) | red | (green << 8) | (blue << 16)


def even(packed: jax.Array) -> jax.Array:
    """Returns the first and the third channel of `u32[...]`, each with 16 bits of room."""
    return packed & _LANES


def odd(packed: jax.Array) -> jax.Array:
    """Returns the second and the fourth channel of `u32[...]`, each with 16 bits of room."""
    return (packed >> 8) & _LANES


def interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    """Puts together what `even` and `odd` gave, `u32[...]` each, with bytes in their lanes."""
    return first | (second << 8)
