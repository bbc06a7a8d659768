"""Convolutions and products whose kernels have gradients of a chosen type.

Devices that share a batch add their gradients up. XLA does so where a gradient is made, in the type
that it is made in, which is that of the computation; a cast afterwards comes too late. On TPUs the
layers therefore make it in the type that `reduced_in` names.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.models.batchnorm import over_last_axis
from kdaug_jax.models.convolutions import apply, plain
from kdaug_jax.models.convolutions.choice import Convolution
from kdaug_jax.models.convolutions.plain import narrowed
from kdaug_jax.runtime.platform import target_platform

_TYPE: contextvars.ContextVar[str] = contextvars.ContextVar("reduced_in", default="")


@contextlib.contextmanager
def reduced_in(dtype: str) -> Iterator[None]:
    """Sets the type of gradients for networks that are traced inside.

    Args:
      dtype: "float32" or "bfloat16".
    """
    token = _TYPE.set(dtype)
    try:
        yield
    finally:
        _TYPE.reset(token)


def gradient_type(computed: Any) -> Any:
    """Returns the type that gradients of a layer are made in.

    Args:
      computed: dtype of the computation.

    Returns:
      That of `reduced_in` for TPUs; that of the computation for others, and outside of it.
    """
    return jnp.dtype(_TYPE.get() if _TYPE.get() and target_platform() == "tpu" else computed)


def convolve(x: jax.Array, kernel: jax.Array, settings: Convolution) -> jax.Array:
    """Convolves images.

    Args:
      x: `dtype[B,H,W,C_in]`, whose type is that of the computation.
      kernel: `f32[k,k,C_in/groups,C_out]`.
      settings: of the convolution.

    Returns:
      `dtype[B,H',W',C_out]`.
    """
    made_in = gradient_type(x.dtype)
    if made_in == x.dtype:
        return apply.convolve(x, kernel.astype(x.dtype), settings)
    return _convolve_apart(x, kernel, settings, made_in)


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies rows `dtype[B,C_in]` by a kernel `f32[C_in,C_out]`, computed in dtype."""
    made_in = gradient_type(x.dtype)
    if made_in == x.dtype:
        return x @ kernel.astype(x.dtype)
    return _multiply_apart(x, kernel, made_in)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias `f32[C]` to the last axis of `dtype[...,C]`, computed in dtype."""
    made_in = gradient_type(y.dtype)
    if made_in == y.dtype:
        return y + over_last_axis(bias.astype(y.dtype), y.ndim)
    return _add_apart(y, bias, made_in)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_apart(x, kernel, settings: Convolution, made_in):
    return plain.convolve(x, kernel.astype(x.dtype), settings)


def _convolve_forward(x, kernel, settings, made_in):
    return _convolve_apart(x, kernel, settings, made_in), (x, kernel)


def _convolve_backward(settings, made_in, saved, cotangent):
    x, kernel = saved
    half = kernel.astype(x.dtype)
    by_x = plain.image_gradient(cotangent, half, x.shape, settings)
    by_kernel = plain.kernel_gradient(x, cotangent, kernel.shape[:2], settings, made_in)
    return by_x, by_kernel.astype(kernel.dtype)


_convolve_apart.defvjp(_convolve_forward, _convolve_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply_apart(x, kernel, made_in):
    return x @ kernel.astype(x.dtype)


def _multiply_forward(x, kernel, made_in):
    return _multiply_apart(x, kernel, made_in), (x, kernel)


def _multiply_backward(made_in, saved, cotangent):
    x, kernel = saved
    by_kernel = jnp.matmul(
        narrowed(x, made_in).T, narrowed(cotangent, made_in), preferred_element_type=made_in
    )
    return cotangent @ kernel.astype(x.dtype).T, by_kernel.astype(kernel.dtype)


_multiply_apart.defvjp(_multiply_forward, _multiply_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _add_apart(y, bias, made_in):
    return y + over_last_axis(bias.astype(y.dtype), y.ndim)


def _add_forward(y, bias, made_in):
    return _add_apart(y, bias, made_in), None


def _add_backward(made_in, saved, cotangent):
    by_bias = jnp.sum(cotangent.astype(made_in), axis=tuple(range(cotangent.ndim - 1)))
    return cotangent, by_bias.astype(jnp.float32)


_add_apart.defvjp(_add_forward, _add_backward)
