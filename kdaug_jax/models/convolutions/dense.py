"""Convolutions without groups, reshaped to those that XLA's CPU backend has fast code for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdaug_jax.models.convolutions import choice
from kdaug_jax.models.convolutions.choice import Convolution, dense_result, flipped, result_shape
from kdaug_jax.models.convolutions.plain import convolve, kernel_gradient
from kdaug_jax.models.convolutions.windows import NO_PADDING, interleave, pad, phases


def result(x: jax.Array, kernel: jax.Array, settings: Convolution, form: str) -> jax.Array:
    """Convolves images in a form that `choice.dense_result` names.

    Args:
      x: `f32[B,H,W,C_in]`.
      kernel: `f32[h,w,C_in,C_out]`.
      settings: of the convolution.
      form: its name.

    Returns:
      `f32[B,H',W',C_out]`.
    """
    if form == choice.COLUMN_PAIRS:
        return _column_pairs(x, kernel)
    if form == choice.ROWS:
        return _rows(x, kernel, settings)
    if form == choice.PADDED:
        x, settings = pad(x, settings.padding), settings._replace(padding=NO_PADDING)
    if form == choice.CROPPED:
        x, settings = _cropped(x, settings)
    return convolve(x, kernel, settings)


def _column_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3×3 kernel, padded by 1: of pairs of columns, with twice the channels."""
    batch, height, width, channels = x.shape
    pairs = pad(x, ((0, 0), (1, 1))).reshape(batch, height, width // 2 + 1, 2 * channels)
    none = jnp.zeros_like(kernel[:, :1])
    # Of four columns, two pairs, the first result sees all but the last, the second all but the
    # first.
    first = jnp.concatenate([kernel, none], axis=1)
    second = jnp.concatenate([none, kernel], axis=1)
    both = jnp.concatenate([first, second], axis=3).reshape(3, 2, 2 * channels, -1)
    y = convolve(pairs, both, Convolution(1, ((1, 1), (0, 0)), 1))
    return y.reshape(batch, height, width, -1)


def _rows(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    """Convolves at stride 1: rows that a kernel meets side by side, the window moves in columns."""
    height = result_shape(x.shape, kernel.shape, settings)[1]
    padded = pad(x, settings.padding)
    rows = [padded[:, row : row + height] for row in range(kernel.shape[0])]
    flat = jnp.swapaxes(kernel, 0, 1).reshape(1, kernel.shape[1], -1, kernel.shape[3])
    stacked = lax.optimization_barrier(jnp.concatenate(rows, axis=3))
    return convolve(stacked, flat, Convolution(1, NO_PADDING, 1))


def _cropped(x: jax.Array, settings: Convolution) -> tuple[jax.Array, Convolution]:
    (top, bottom), (left, right) = settings.padding
    rows = slice(max(-top, 0), x.shape[1] - max(-bottom, 0))
    columns = slice(max(-left, 0), x.shape[2] - max(-right, 0))
    padding = tuple((max(before, 0), max(after, 0)) for before, after in settings.padding)
    return x[:, rows, columns], settings._replace(padding=padding)


def by_image(
    cotangent: jax.Array, kernel: jax.Array, shape: tuple[int, ...], settings: Convolution
) -> jax.Array:
    """Returns the gradient by the input, for strides 1 and 2: one convolution a phase.

    Args:
      cotangent: `f32[B,H',W',C_out]`.
      kernel: `f32[k,k,C_in,C_out]`.
      shape: `[B,H,W,C_in]` of the input.
      settings: of the convolution.

    Returns:
      `f32[B,H,W,C_in]`.
    """
    turned = jnp.swapaxes(kernel, 2, 3)
    if settings.stride == 1:
        return _chosen(cotangent, lax.rev(turned, (0, 1)), flipped(kernel.shape, settings))
    stride, (batch, height, width, channels) = settings.stride, shape
    axes = [
        phases(kernel.shape[axis], stride, settings.padding[axis][0], shape[1 + axis],
               cotangent.shape[1 + axis])
        for axis in (0, 1)
    ]
    sides = -(-height // stride), -(-width // stride)

    def phase(*pairs):
        if not all(pairs):
            return jnp.zeros((batch, *sides, channels), cotangent.dtype)
        rows, columns = (slice(axis[0][0], axis[-1][0] + 1, stride) for axis in pairs)
        places = lax.rev(turned[rows, columns], (0, 1))  # where they grow, offsets fall
        margins = tuple(
            (-axis[-1][1], axis[0][1] + pixels - count)
            for axis, pixels, count in zip(pairs, sides, cotangent.shape[1:3], strict=True)
        )
        return _chosen(cotangent, places, Convolution(1, margins, 1))

    parts = [[phase(rows, columns) for columns in axes[1]] for rows in axes[0]]
    return interleave(parts, height, width)


def _chosen(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    return result(x, kernel, settings, dense_result(x.shape, kernel.shape, settings))


def by_kernel(
    x: jax.Array, cotangent: jax.Array, shape: tuple[int, ...], settings: Convolution, form: str
) -> jax.Array:
    """Returns the gradient by the kernel, of that shape.

    Args:
      x: `f32[B,H,W,C_in]`.
      cotangent: `f32[B,H',W',C_out]`.
      shape: `[k,k,C_in,C_out]` of the kernel.
      settings: of the convolution.
      form: "padded", "parts" or "padded parts".

    Returns:
      `f32[k,k,C_in,C_out]`.
    """
    if form in (choice.PADDED, choice.PADDED_PARTS):
        x, settings = pad(x, settings.padding), settings._replace(padding=NO_PADDING)
    count = choice.NUM_PARTS if form in (choice.PARTS, choice.PADDED_PARTS) else 1
    # Each part takes every count-th image: neighbours would lie on one device of several.
    images, cotangents = (
        array.reshape(array.shape[0] // count, count, *array.shape[1:]) for array in (x, cotangent)
    )
    return sum(
        kernel_gradient(images[:, part], cotangents[:, part], shape[:2], settings, x.dtype)
        for part in range(count)
    )
