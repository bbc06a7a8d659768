"""Small trained layers between a student's and a teacher's activations, as pure functions.

Parameters are named as in the networks ("kernel", "bias", "scale"), so that scopes of weight decay
reach them alike. BatchNorm always has the statistics of each group: adapters are not there when the
student is evaluated.
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
    """Gives PyTorch's initial dense layer, U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1.0 / math.sqrt(inputs)
    made = {"kernel": uniform(kernel_key, (inputs, outputs), bound)}
    return {**made, "bias": uniform(bias_key, (outputs,), bound)} if bias else made


def linear(params: Params, x: jax.Array) -> jax.Array:
    """Maps the last axis of `f32[...,D]`."""
    y = matmul(x, params["kernel"])
    return y + _last(params["bias"], y) if "bias" in params else y


def conv_init(
    key: jax.Array, size: int, inputs: int, outputs: int, bias: bool = True
) -> Params:
    """Gives PyTorch's initial convolution, U(-b, b) with b = 1/sqrt(size^2 inputs)."""
    kernel_key, bias_key = jax.random.split(key)
    bound = 1.0 / math.sqrt(size * size * inputs)
    made = {"kernel": uniform(kernel_key, (size, size, inputs, outputs), bound)}
    return {**made, "bias": uniform(bias_key, (outputs,), bound)} if bias else made


def conv(
    params: Params, x: jax.Array, stride: int = 1, padding: int = 0, dilation: int = 1
) -> jax.Array:
    """Convolves `f32[B,H,W,C]` with a square kernel.

    Args:
      params: "kernel" `f32[k,k,C,C']` and perhaps "bias" `f32[C']`.
      x: `f32[B,H,W,C]`.
      stride: step in both directions.
      padding: zeros on each side.
      dilation: zeros put between pixels, plus one; 2 makes a transposed convolution of stride 2.

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
    """Gives BatchNorm's initial scale 1 and bias 0."""
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def norm(params: Params, x: jax.Array, groups: int, eps: float = 1e-5) -> jax.Array:
    """Normalises each channel over each group's examples and pixels.

    Args:
      params: see `norm_init`.
      x: `f32[B,...,C]`.
      groups: into how many groups the batch is split.
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
    """Makes the layer that gives a student's map the teacher's shape.

    It is a 3x3 convolution of stride 2 where the student's side is twice the teacher's, a
    transposed 4x4 one of stride 2 where it is half, else one without padding that is as large as
    the sides ask for (1x1 where they are equal); then BatchNorm.

    Args:
      key: for the convolution.
      student: shape `[B,H,W,C]`.
      teacher: shape `[B,H',W',C']`.

    Returns:
      `{"conv": ..., "bn": ...}`.

    Raises:
      ValueError: (what is wrong, what would be right).
    """
    size = _plan(student, teacher)[0]
    conv_params = conv_init(key, size, student[-1], teacher[-1])
    return {"conv": conv_params, "bn": norm_init(teacher[-1])}


def regress(
    params: Params, student: jax.Array, teacher: tuple[int, ...], groups: int, relu: bool
) -> jax.Array:
    """Applies what `regressor_init` made.

    Args:
      params: its parameters.
      student: `[B,H,W,C]`.
      teacher: shape `[B,H',W',C']`.
      groups: into how many groups the batch is split.
      relu: whether a ReLU ends it.

    Returns:
      `f32[B,H',W',C']`.
    """
    _, stride, padding, dilation = _plan(student.shape, teacher)
    y = conv(params["conv"], student.astype(jnp.float32), stride, padding, dilation)
    y = norm(params["bn"], y, groups)
    return jax.nn.relu(y) if relu else y


def _plan(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Gives size, stride, padding and dilation of the convolution between two maps."""
    if len(student) != 4 or len(teacher) != 4:
        what = f"got {list(student)} and {list(teacher)}"
        raise ArgumentError(f"works on maps [B,H,W,C], {what}", "choose a feature before the pooling")
    own, other = student[1], teacher[1]
    if own == 2 * other:
        return 3, 2, 1, 1
    if 2 * own == other:
        return 4, 1, 2, 2  # as a transposed convolution of stride 2 and padding 1
    if own < other:
        raise ArgumentError(
            f"cannot enlarge maps of side {own} to {other}",
            "choose a feature of equal, double or larger side",
        )
    return 1 + own - other, 1, 0, 1


def widen_init(key: jax.Array, inputs: int, outputs: int) -> Params:
    """Makes a 1x1 convolution (He normal) with BatchNorm, which changes the width only."""
    deviation = math.sqrt(2.0 / inputs)
    kernel = deviation * jax.random.normal(key, (1, 1, inputs, outputs), jnp.float32)
    return {"conv": {"kernel": kernel}, "bn": norm_init(outputs)}


def widen(params: Params, maps: jax.Array, groups: int) -> jax.Array:
    """Applies what `widen_init` made to `[B,H,W,C]`."""
    return norm(params["bn"], conv(params["conv"], maps.astype(jnp.float32)), groups)
