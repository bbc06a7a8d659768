"""Depthwise convolutions, one kernel for each channel, as sums of shifted images.

Places of a kernel that meet padding alone are left out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdaug_jax.models.convolutions.choice import Convolution, result_shape
from kdaug_jax.models.convolutions.windows import interleave, pad, phases, reaching, shifted


def result(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    """Convolves `f32[B,H,W,C]` with a kernel `f32[k,k,1,C]`."""
    _, height, width, _ = result_shape(x.shape, kernel.shape, settings)
    places = _places(x.shape, kernel.shape, settings)
    padded = pad(x, settings.padding)
    return sum(
        shifted(padded, row, column, settings.stride, height, width) * _at(kernel, row, column)
        for row, column in places
    )


def by_image(
    cotangent: jax.Array, kernel: jax.Array, shape: tuple[int, ...], settings: Convolution
) -> jax.Array:
    """Returns the gradient by the input, of that shape, one phase of the stride after another."""
    stride, (_, height, width, _) = settings.stride, shape
    results = cotangent.shape[1:3]
    axes = [
        phases(kernel.shape[axis], stride, settings.padding[axis][0], shape[1 + axis],
               results[axis])
        for axis in (0, 1)
    ]
    sides = -(-height // stride), -(-width // stride)
    margins = []
    for pairs, pixels, count in zip(axes, sides, results, strict=True):
        offsets = [0, *(offset for phase in pairs for _, offset in phase)]
        margins.append((max(0, -min(offsets)), max(0, max(offsets) + pixels - count)))
    padded = pad(cotangent, tuple(margins))
    top, left = margins[0][0], margins[1][0]

    def phase(rows, columns):
        terms = [
            shifted(padded, top + down, left + right, 1, *sides) * _at(kernel, row, column)
            for row, down in rows for column, right in columns
        ]
        if not terms:
            return jnp.zeros((shape[0], *sides, shape[3]), cotangent.dtype)
        return sum(terms)

    parts = [[phase(rows, columns) for columns in axes[1]] for rows in axes[0]]
    return parts[0][0] if stride == 1 else interleave(parts, height, width)


def by_kernel(
    x: jax.Array, cotangent: jax.Array, shape: tuple[int, ...], settings: Convolution
) -> jax.Array:
    """Returns the gradient by the kernel, of that shape.

    One reduction over the pixels yields the sums of all places, so that the images are read once.
    """
    height, width = cotangent.shape[1:3]
    places = _places(x.shape, shape, settings)
    padded = pad(x, settings.padding)
    products = [
        shifted(padded, row, column, settings.stride, height, width) * cotangent
        for row, column in places
    ]
    zeros = [jnp.zeros((), x.dtype)] * len(products)
    sums = lax.reduce(
        products, zeros, lambda left, right: [a + b for a, b in zip(left, right, strict=True)],
        (1, 2),
    )
    by_place = dict(zip(places, (jnp.sum(rows, axis=0) for rows in sums), strict=True))
    never = jnp.zeros(shape[3], x.dtype)
    flat = [
        by_place.get((row, column), never) for row in range(shape[0]) for column in range(shape[1])
    ]
    return jnp.stack(flat).reshape(shape)


def _places(
    image: tuple[int, ...], kernel: tuple[int, ...], settings: Convolution
) -> list[tuple[int, int]]:
    """Returns the (row, column) of a kernel that meet at least one pixel."""
    results = result_shape(image, kernel, settings)[1:3]
    rows, columns = (
        reaching(kernel[axis], settings.stride, settings.padding[axis][0], image[1 + axis],
                 results[axis])
        for axis in (0, 1)
    )
    return [(row, column) for row in rows for column in columns]


def _at(kernel: jax.Array, row: int, column: int) -> jax.Array:
    return kernel[row : row + 1, column : column + 1]
