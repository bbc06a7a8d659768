"""Layers of the networks: convolutions, dense layers, and a kit of their common settings.

Images are `[B,H,W,C]`. Parameters are float32; `dtype` is the type of the computation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdaug_jax.errors import ConfigError
from kdaug_jax.models.batchnorm import BatchNorm, Initializer
from kdaug_jax.models.convolutions.choice import Convolution
from kdaug_jax.models.gradients import add_bias, convolve, multiply
from kdaug_jax.models.quantize import quantize_activation, quantize_weight

# Bits that mean full precision.
FULL = 32

# N(0, 2 / (k·k·C_out)), not truncated (He et al., 2015, "Delving Deep into Rectifiers").
kaiming_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights.
torch_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

zeros: Initializer = nn.initializers.zeros


def torch_bias(fan_in: int) -> Initializer:
    """Returns PyTorch's default initialiser of biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      fan_in: number of inputs that each output of the layer sums, at least 1.

    Returns:
      An initialiser `(key, shape, dtype) -> array[shape]`.
    """
    return uniform_within(1.0 / math.sqrt(fan_in))


def uniform_within(bound: float) -> Initializer:
    """Returns the initialiser of U(-bound, bound)."""
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class Mode(NamedTuple):
    """How a network is run: static, passed to every layer that depends on it.

    Attributes:
      train: whether BatchNorm uses and gathers statistics of the batch, and dropout is on.
      branches: BatchNorm branch of each of the V views that are stacked in the batch.
      groups: number of consecutive groups that BatchNorm splits the batch into; at least 1.
      record: whether BatchNorm leaves its running statistics as they are and returns what it saw,
        for one update from several parts of a batch (see `batchnorm.moved`).
    """

    train: bool
    branches: tuple[int, ...] = (0,)
    groups: int = 1
    record: bool = False


def global_average(x: jax.Array) -> jax.Array:
    """Averages over all pixels, in float32.

    Args:
      x: `[B,H,W,C]`.

    Returns:
      `f32[B,C]`.
    """
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def shrink(x: jax.Array, stride: int) -> jax.Array:
    """Averages `x[B,H,W,C]` over squares of stride×stride pixels, those at the border cut off."""
    if stride == 1:
        return x
    rows, columns = (np.minimum(stride, n - np.arange(0, n, stride)) for n in x.shape[1:3])
    missing = [(0, len(counts) * stride - counts.sum()) for counts in (rows, columns)]
    whole = jnp.pad(x, ((0, 0), *missing, (0, 0)))
    shape = (x.shape[0], len(rows), stride, len(columns), stride, x.shape[-1])
    sums = jnp.sum(whole.reshape(shape), axis=(2, 4))
    return sums / np.outer(rows, columns)[None, :, :, None].astype(x.dtype)


def pad_channels(x: jax.Array, features: int, before: int = 0) -> jax.Array:
    """Widens `x[B,H,W,C]` to `features` channels with zeros, `before` of them before x's own."""
    missing = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


def random_factors(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Multiplies `x[B,...]` by `forward[B]`, and its gradient by `backward[B]`."""
    forward, backward = (
        factor.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) for factor in (forward, backward)
    )
    scaled = x * backward
    return lax.stop_gradient(x * forward) + (scaled - lax.stop_gradient(scaled))


def channels_first(x: jax.Array) -> jax.Array:
    """Flattens `x[B,H,W,C]` to `[B,C*H*W]`, so that PyTorch's dense kernels mean the same here."""
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)


class Conv(nn.Module):
    """A 2-D convolution.

    Attributes:
      features: number of output channels.
      size: side of the square kernel.
      stride: step in both directions.
      padding: zeros on each of the four sides, or "SAME" for TensorFlow's rule. The two differ:
        at stride 2 a 3×3 kernel with "SAME" pads an even image by (0,1), PyTorch by (1,1).
      use_bias: whether a bias is added.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of the kernel `f32[size,size,C_in/groups,features]`.
      bias_init: initialiser of the bias; None for `torch_bias`.
      groups: number of groups of channels; C_in makes the convolution depthwise.
      bits: of the kernel, 1..8, or 32 for full precision.
    """

    features: int
    size: int
    stride: int = 1
    padding: int | str = 0
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = kaiming_normal
    bias_init: Initializer | None = None
    groups: int = 1
    bits: int = FULL

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x[B,H,W,C_in]` to `dtype[B,H',W',features]`."""
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if self.bits != FULL:
            kernel = quantize_weight(kernel, self.bits)
        padding = self.padding
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(x.shape[1:3], shape[:2], (self.stride,) * 2, padding)
        else:
            padding = ((padding, padding), (padding, padding))
        settings = Convolution(self.stride, tuple(padding), self.groups)
        y = convolve(x.astype(self.dtype), kernel, settings)
        if not self.use_bias:
            return y
        bias_init = self.bias_init or torch_bias(math.prod(shape[:-1]))
        return add_bias(y, self.param("bias", bias_init, (self.features,), jnp.float32))


class Linear(nn.Module):
    """A dense layer.

    Attributes:
      features: number of outputs.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of the kernel `f32[C_in,features]`.
      bias_init: initialiser of the bias; None for `torch_bias`.
      use_bias: whether a bias is added.
      bits: of the kernel, 1..8, or 32 for full precision.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer | None = None
    use_bias: bool = True
    bits: int = FULL

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x[B,C_in]` to `dtype[B,features]`."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (fan_in, self.features), jnp.float32)
        if self.bits != FULL:
            kernel = quantize_weight(kernel, self.bits)
        y = multiply(x.astype(self.dtype), kernel)
        if not self.use_bias:
            return y
        bias_init = self.bias_init or torch_bias(fan_in)
        return add_bias(y, self.param("bias", bias_init, (self.features,), jnp.float32))


class Kit(NamedTuple):
    """Common settings of the layers of a network, and functions that make such layers.

    Attributes:
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      kernel_init: initialiser of convolutions.
      momentum: of BatchNorm, share of the old running statistics that an update keeps.
      epsilon: of BatchNorm.
      bits: of the weights and of the activations inside the blocks, each 1..8, or 32 for full
        precision (Zhou et al., 2016, "DoReFa-Net").
    """

    num_branches: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer = kaiming_normal
    momentum: float = 0.9
    epsilon: float = 1e-5
    bits: tuple[int, int] = (FULL, FULL)

    def conv(self, name: str, features: int, size: int, stride: int = 1, **settings: Any) -> Conv:
        """Makes a convolution; unless `settings` say otherwise it keeps the size at stride 1."""
        common = {
            "padding": (size - 1) // 2,
            "dtype": self.dtype,
            "kernel_init": self.kernel_init,
            "bits": self.bits[0],
        }
        return Conv(features, size, stride, name=name, **(common | settings))

    def norm(self, name: str, **settings: Any) -> BatchNorm:
        """Makes a BatchNorm; to be called with `(x, *mode)`."""
        return BatchNorm(self.num_branches, self.momentum, self.epsilon, name=name, **settings)

    def quantize(self, x: jax.Array) -> jax.Array:
        """Rounds activations to the bits of the network, unless at full precision."""
        return x if self.bits[1] == FULL else quantize_activation(x, self.bits[1])


def make_kit(num_branches: int, dtype: Any, bits: Any = (FULL, FULL), **settings: Any) -> Kit:
    """Makes a `Kit` and checks `bits`, which may come from a config.

    Args:
      num_branches: BatchNorm branches, at least 1.
      dtype: type of the computation.
      bits: two numbers, of weights and of activations.
      **settings: the other attributes of `Kit`.

    Returns:
      A `Kit`.

    Raises:
      ConfigError: `bits` are not two of 1..8 and 32.
    """
    if not isinstance(bits, (tuple, list)) or len(bits) != 2:
        raise ConfigError("bits", f"is {bits}", "two numbers: bits of weights, of activations")
    for width in bits:
        if isinstance(width, bool) or width not in (*range(1, 9), FULL):
            raise ConfigError("bits", f"is {width}", "1 to 8, or 32 for full precision")
    return Kit(num_branches, dtype, bits=(int(bits[0]), int(bits[1])), **settings)


def check_rate(name: str, rate: float) -> float:
    """Returns a rate of dropout after validation.

    Raises:
      ConfigError: it is not in [0, 1).
    """
    if not isinstance(rate, int | float) or not 0.0 <= rate < 1.0:
        raise ConfigError(name, f"is {rate!r}", f"0 ≤ {name} < 1")
    return rate


def check_factor(name: str, factor: float) -> float:
    """Returns a factor of channels or blocks after validation.

    Raises:
      ConfigError: it is not above 0, or above 1000.
    """
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 0.0 < factor <= 1000.0:
        raise ConfigError(name, f"is {factor!r}", f"0 < {name} ≤ 1000")
    return factor


def scaled(channels: int, width: float) -> int:
    """Returns `width * channels`, rounded, but at least 1."""
    return max(round(channels * width), 1)
