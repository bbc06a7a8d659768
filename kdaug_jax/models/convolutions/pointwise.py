"""Convolutions of single pixels, without padding, as products of matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdaug_jax.models.convolutions.choice import Convolution


def result(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    """Convolves `f32[B,H,W,C_in]` with a kernel `f32[1,1,C_in/groups,C_out]`."""
    pixels = x[:, :: settings.stride, :: settings.stride]
    return _multiply(pixels, kernel[0, 0], settings.groups)


def by_image(
    cotangent: jax.Array, kernel: jax.Array, shape: tuple[int, ...], settings: Convolution
) -> jax.Array:
    """Returns the gradient by the input, of that shape: zero at pixels that are stepped over."""
    stride, groups = settings.stride, settings.groups
    matrices = [matrix.T for matrix in jnp.split(kernel[0, 0], groups, axis=1)]
    pixels = _multiply(cotangent, jnp.concatenate(matrices, axis=1), groups)
    if stride == 1:
        return pixels
    gaps = [
        (0, length - ((count - 1) * stride + 1), stride - 1)
        for count, length in zip(cotangent.shape[1:3], shape[1:3], strict=True)
    ]
    return lax.pad(pixels, jnp.zeros((), pixels.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))


def by_kernel(
    x: jax.Array, cotangent: jax.Array, settings: Convolution, transposed: bool
) -> jax.Array:
    """Returns the gradient by the kernel.

    Args:
      x: `f32[B,H,W,C_in]`.
      cotangent: `f32[B,H',W',C_out]`.
      settings: of the convolution.
      transposed: whether the images are transposed in an array of their own before the product.

    Returns:
      `f32[1,1,C_in/groups,C_out]`.
    """
    pixels = _rows(x[:, :: settings.stride, :: settings.stride])
    products = []
    for inputs, outputs in _grouped(pixels, _rows(cotangent), settings.groups):
        turned = lax.optimization_barrier(inputs.T) if transposed else inputs.T
        products.append(turned @ outputs)
    return jnp.concatenate(products, axis=1)[None, None]


def _multiply(x: jax.Array, matrix: jax.Array, groups: int) -> jax.Array:
    products = [inputs @ part for inputs, part in _grouped(_rows(x), matrix, groups)]
    return jnp.concatenate(products, axis=1).reshape(*x.shape[:3], -1)


def _grouped(left: jax.Array, right: jax.Array, groups: int):
    return zip(
        jnp.split(left, groups, axis=1), jnp.split(right, groups, axis=1), strict=True
    )


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
