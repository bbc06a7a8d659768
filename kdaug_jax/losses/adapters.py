"""Small trained layers between a student's and a teacher's activations, as pure functions.

Parameters are named as in the networks ("kernel", "bias", "scale"), so that the scopes of weight
decay apply to both. BatchNorm always uses the statistics of each group, because adapters are not
part of the evaluated student.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import matmul

Params = dict[str, Any]


def uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> jax.Array:
    """Draws `f32[shape]` from U(-bound, bound)."""
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def linear_init(key: jax.Array, inputs: int, outputs: int, bias: bool = True) -> Params:
    """Initialises a dense layer as PyTorch, U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1.0 / math.sqrt(inputs)
    params = {"kernel": uniform(kernel_key, (inputs, outputs), bound)}
    return {**params, "bias": uniform(bias_key, (outputs,), bound)} if bias else params


def linear(params: Params, x: jax.Array) -> jax.Array:
    """Applies a dense layer to the last axis of `f32[...,D]`."""
    y = matmul(x, params["kernel"])
    return y + _last(params["bias"], y) if "bias" in params else y


def conv_init(
    key: jax.Array, size: int, inputs: int, outputs: int, bias: bool = True
) -> Params:
    """Initialises a convolution as PyTorch, U(-b, b) with b = 1/sqrt(size^2 inputs)."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1.0 / math.sqrt(size * size * inputs)
    params = {"kernel": uniform(kernel_key, (size, size, inputs, outputs), bound)}
    return {**params, "bias": uniform(bias_key, (outputs,), bound)} if bias else params


def conv(
    params: Params, x: jax.Array, stride: int = 1, padding: int = 0, dilation: int = 1
) -> jax.Array:
    """Convolves `f32[B,H,W,C]` with a square kernel.

    Args:
      params: "kernel" `f32[k,k,C,C']` and perhaps "bias" `f32[C']`.
      x: `f32[B,H,W,C]`.
      stride: step in both directions.
      padding: zeros on each side.
      dilation: distance of the input's pixels after zeros are inserted between them; 2 makes a
        transposed convolution of stride 2.

    Returns:
      `f32[B,H',W',C']`.
    """
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), ((padding, padding),) * 2,
        lhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return y + _last(params["bias"], y) if "bias" in params else y


def norm_init(channels: int) -> Params:
    """Initialises BatchNorm with scale 1 and bias 0."""
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def norm(params: Params, x: jax.Array, groups: int, eps: float = 1e-5) -> jax.Array:
    """Normalises each channel over each group's examples and pixels.

    Args:
      params: see `norm_init`.
      x: `f32[B,...,C]`.
      groups: number of groups in the batch.
      eps: added to the variance.

    Returns:
      `f32[B,...,C]`.
    """
    grouped = x.reshape(groups, -1, x.shape[-1])
    centred = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=1, keepdims=True)
    y = (centred * jax.lax.rsqrt(variance + eps)).reshape(x.shape)
    return y * _last(params["scale"], y) + _last(params["bias"], y)


def _last(vector: jax.Array, like: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def regressor_init(
    key: jax.Array, student: tuple[int, ...], teacher: tuple[int, ...]
) -> Params:
    """Initialises the layer that maps a student's map to the teacher's shape.

    A 3×3 convolution of stride 2 where the student's side is twice the teacher's, a transposed 4×4
    one of stride 2 where it is half, else one without padding whose kernel is the difference of the
    sides plus 1 (1×1 where they are equal); then BatchNorm.

    Args:
      key: for the convolution.
      student: shape `[B,H,W,C]`.
      teacher: shape `[B,H',W',C']`.

    Returns:
      `{"conv": ..., "bn": ...}`.

    Raises:
      ArgumentError: not maps, or the teacher's map is larger in another ratio than 2.
    """
    size = _geometry(student, teacher)[0]
    conv_params = conv_init(key, size, student[-1], teacher[-1])
    return {"conv": conv_params, "bn": norm_init(teacher[-1])}


def regress(
    params: Params, student: jax.Array, teacher: tuple[int, ...], groups: int, relu: bool
) -> jax.Array:
    """Applies the layer of `regressor_init`.

    Args:
      params: parameters of `regressor_init`.
      student: `[B,H,W,C]`.
      teacher: shape `[B,H',W',C']`.
      groups: number of groups in the batch.
      relu: whether a ReLU follows.

    Returns:
      `f32[B,H',W',C']`.
    """
    _, stride, padding, dilation = _geometry(student.shape, teacher)
    y = conv(params["conv"], student.astype(jnp.float32), stride, padding, dilation)
    y = norm(params["bn"], y, groups)
    return jax.nn.relu(y) if relu else y


def _geometry(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns size, stride, padding and dilation of the convolution between two maps."""
    if len(student) != 4 or len(teacher) != 4:
        raise ArgumentError(
            f"works on maps [B,H,W,C], got {list(student)} and {list(teacher)}",
            "choose a feature before the pooling",
        )
    side, target = student[1], teacher[1]
    if side == 2 * target:
        return 3, 2, 1, 1
    if 2 * side == target:
        return 4, 1, 2, 2  # as a transposed convolution of stride 2 and padding 1
    if side < target:
        raise ArgumentError(
            f"cannot enlarge maps of {side}×{side} to {target}×{target}",
            "choose a feature of the student that is as large, half as large, or larger",
        )
    return 1 + side - target, 1, 0, 1


def widen_init(key: jax.Array, inputs: int, outputs: int) -> Params:
    """Initialises a 1×1 convolution (He normal) with BatchNorm, which changes the channels only."""
    deviation = math.sqrt(2.0 / inputs)
    kernel = deviation * jax.random.normal(key, (1, 1, inputs, outputs), jnp.float32)
    return {"conv": {"kernel": kernel}, "bn": norm_init(outputs)}


def widen(params: Params, maps: jax.Array, groups: int) -> jax.Array:
    """Applies the layer of `widen_init` to `[B,H,W,C]`."""
    return norm(params["bn"], conv(params["conv"], maps.astype(jnp.float32)), groups)
