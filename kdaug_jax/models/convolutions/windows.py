"""What the forms share: padding, shifted windows, and the phases of a stride."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))


def pad(x: jax.Array, padding: Padding) -> jax.Array:
    """Returns `x[B,H,W,C]` with zeros around it, in an array of its own.

    A barrier keeps XLA from padding in the loops that read it, which then branch at each pixel.
    """
    if padding == NO_PADDING:
        return x
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))


def reaching(side: int, stride: int, before: int, length: int, results: int) -> list[int]:
    """Returns the places of a kernel that meet at least one pixel along an axis.

    Args:
      side: of the kernel.
      stride: step between results.
      before: padding before the first pixel.
      length: number of pixels.
      results: number of results.
    """
    return [
        place for place in range(side)
        if any(0 <= number * stride + place - before < length for number in range(results))
    ]


def shifted(
    x: jax.Array, row: int, column: int, stride: int, height: int, width: int
) -> jax.Array:
    """Returns height × width pixels of `x[B,H,W,C]`: each stride-th from (row, column) on."""
    last = row + stride * (height - 1) + 1, column + stride * (width - 1) + 1
    return x[:, row : last[0] : stride, column : last[1] : stride]


def phases(
    side: int, stride: int, before: int, length: int, results: int
) -> list[list[tuple[int, int]]]:
    """Returns which results each pixel of a phase of the stride has been part of, along an axis.

    Args:
      side: of the kernel.
      stride: step between results; pixel `q * stride + p` is of phase p.
      before: padding before the first pixel.
      length: number of pixels.
      results: number of results.

    Returns:
      For each phase pairs (place, offset): the gradient of pixel `q * stride + p` sums
      `kernel[place]` times the gradient of result `q + offset`.
    """
    pixels = -(-length // stride)
    pairs = []
    for phase in range(stride):
        places = range((phase + before) % stride, side, stride)
        offsets = [(place, (phase + before - place) // stride) for place in places]
        pairs.append([(place, at) for place, at in offsets if -pixels < at < results])
    return pairs


def interleave(parts: Sequence[Sequence[jax.Array]], height: int, width: int) -> jax.Array:
    """Puts phases together again.

    Args:
      parts: arrays `[B,h,w,C]` by the phase of their rows and that of their columns.
      height: rows of the result.
      width: columns of the result.

    Returns:
      `[B,height,width,C]`; what the phases hold beyond it is left out.
    """
    batch, rows, columns, channels = parts[0][0].shape
    stacked = jnp.stack([jnp.stack(line, axis=3) for line in parts], axis=2)
    joined = stacked.reshape(batch, rows * len(parts), columns * len(parts[0]), channels)
    return joined[:, :height, :width]
