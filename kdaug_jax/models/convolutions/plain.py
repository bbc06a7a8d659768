"""XLA's own convolution and its gradients, of images `[B,H,W,C]`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kdaug_jax.models.convolutions.choice import Convolution

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    """Convolves `[B,H,W,C_in]` with a kernel `[k,k,C_in/groups,C_out]` of the same dtype."""
    return lax.conv_general_dilated(
        x, kernel, window_strides=(settings.stride,) * 2, padding=settings.padding,
        dimension_numbers=_DIMENSIONS, feature_group_count=settings.groups,
    )


def image_gradient(
    cotangent: jax.Array, kernel: jax.Array, shape: tuple[int, ...], settings: Convolution
) -> jax.Array:
    """Returns the gradient of a convolution by its input, of that shape."""
    image = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    (gradient,) = jax.linear_transpose(lambda x: convolve(x, kernel, settings), image)(cotangent)
    return gradient


def kernel_gradient(
    x: jax.Array, cotangent: jax.Array, sides: tuple[int, int], settings: Convolution, made_in: Any
) -> jax.Array:
    """Returns the gradient of a convolution by its kernel: a convolution that sums over examples.

    Args:
      x: `[B,H,W,C_in]`.
      cotangent: `[B,H',W',C_out]`, of its result.
      sides: height and width of the kernel.
      settings: of the convolution.
      made_in: dtype of the result; factors of more bits are rounded to it.

    Returns:
      `made_in[k,k,C_in/groups,C_out]`.
    """
    padding = []
    for axis, (before, _) in enumerate(settings.padding):
        reached = (cotangent.shape[1 + axis] - 1) * settings.stride + sides[axis]
        padding.append((before, reached - x.shape[1 + axis] - before))
    return lax.conv_general_dilated(
        narrowed(x, made_in), narrowed(cotangent, made_in), window_strides=(1, 1),
        padding=padding, rhs_dilation=(settings.stride,) * 2,
        dimension_numbers=("CHWN", "IHWO", "HWNC"), batch_group_count=settings.groups,
        preferred_element_type=made_in,
    )


def narrowed(array: jax.Array, dtype: Any) -> jax.Array:
    """Rounds an array to `dtype`, unless that has as many bits."""
    return array.astype(dtype) if array.dtype.itemsize > jnp.dtype(dtype).itemsize else array
