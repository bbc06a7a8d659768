"""Layers that the networks are made of: convolution, dense layer and BatchNorm with branches.

Images are `[B,H,W,C]`. Parameters are float32; `dtype` is the type of the computation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Initializer = Callable[..., jax.Array]

# N(0, 2 / (k·k·C_out)), not truncated (He et al., 2015, "Delving Deep into Rectifiers").
kaiming_normal: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), what PyTorch gives weights unless told otherwise.
torch_uniform: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Initializer:
    """Gives PyTorch's default for biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      fan_in: number of inputs that each output of the layer sums, at least 1.

    Returns:
      An initialiser `(key, shape, dtype) -> array[shape]`.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class Mode(NamedTuple):
    """How a network is run; static, and handed to every layer that depends on it.

    Attributes:
      train: whether BatchNorm uses and gathers statistics of the batch, and dropout is on.
      branches: BatchNorm branch of each of the V views that are stacked in the batch.
      groups: into how many consecutive groups BatchNorm splits the batch; at least 1.
    """

    train: bool
    branches: tuple[int, ...] = (0,)
    groups: int = 1


def over_last_axis(vector: jax.Array, ndim: int) -> jax.Array:
    """Gives `vector[C]` the shape `[1,...,1,C]` of rank `ndim`, as explicit broadcasting asks."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def global_average(x: jax.Array) -> jax.Array:
    """Averages over all pixels, in float32.

    Args:
      x: `[B,H,W,C]`.

    Returns:
      `f32[B,C]`.
    """
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


class Conv(nn.Module):
    """A 2-D convolution with explicit symmetrical padding.

    `SAME` is avoided on purpose: at stride 2 it pads an even image by (0,1), PyTorch by (1,1).

    Attributes:
      features: number of output channels.
      size: side of the square kernel.
      stride: step in both directions.
      padding: zeros on each of the four sides.
      use_bias: whether a bias is added; it starts as `torch_bias`.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of the kernel `f32[size,size,C_in,features]`.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = kaiming_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x[B,H,W,C_in]` to `dtype[B,H',W',features]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((self.padding, self.padding), (self.padding, self.padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if not self.use_bias:
            return y
        bias_init = torch_bias(math.prod(shape[:-1]))
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        return y + over_last_axis(bias.astype(self.dtype), y.ndim)


class Linear(nn.Module):
    """A dense layer with bias.

    Attributes:
      features: number of outputs.
      dtype: type of the computation and of the result.
      kernel_init: initialiser of the kernel `f32[C_in,features]`.
      bias_init: initialiser of the bias; None for `torch_bias`.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_uniform
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x[B,C_in]` to `dtype[B,features]`."""
        fan_in = x.shape[-1]
        bias_init = self.bias_init or torch_bias(fan_in)
        kernel = self.param("kernel", self.kernel_init, (fan_in, self.features), jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + over_last_axis(bias.astype(self.dtype), y.ndim)


class BatchNorm(nn.Module):
    """Batch normalisation with branches, statistics per view and per group of the batch.

    A branch is one set of scale, bias and running statistics; all are kept as rows of
    `[num_branches, C]`, so that the tree has one shape whatever the views are. Several views of
    a batch may be normalised in one pass (view v of example b at row `b*V + v`), and each view
    still has its own statistics, exactly as in separate passes. Views of different branches are
    the auxiliary BatchNorm of Xie et al., 2020 ("Adversarial Examples Improve Image
    Recognition") and Merchant et al., 2020 ("Does Data Augmentation Benefit from Split
    BatchNorms").

    Training normalises with the biased variance of each group, and moves the running statistics
    of each view's branch, view after view, toward moments of the whole batch. Those are pooled:
    the variance of the batch is the mean of the groups' variances plus the variance of the
    groups' means (law of total variance). The mean of the variances alone would leave out the
    spread of the groups' means and so be too small, the more so the smaller the groups are. The
    pooled variance is scaled by n/(n-1), as PyTorch does, n being the elements of one channel in
    the whole batch.

    Statistics are float32 whatever the type of the input, since bfloat16 holds too few digits
    for sums, and take one pass over the input: E[x²] - E[x]², not below zero.

    Source: Ioffe and Szegedy, 2015, "Batch Normalization".

    Attributes:
      num_branches: rows of parameters and statistics.
      momentum: share of the old running statistics that one update keeps; 1 - PyTorch's.
      epsilon: added to variances.
      scale_init: initialiser of the scale `f32[num_branches,C]`.
    """

    num_branches: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, branches: tuple[int, ...] = (0,), groups: int = 1
    ) -> jax.Array:
        """Normalises every channel of `x`.

        Args:
          x: `[B*V,...,C]` with `V = len(branches)`, row `b*V + v` being view v of example b.
          train: use statistics of the batch and update the running ones, or use the latter.
          branches: branch of each view, each in `0..num_branches-1`; may repeat.
          groups: number of consecutive equal groups of examples; a divisor of B.

        Returns:
          Array of the shape and type of `x`.
        """
        shape = (self.num_branches, x.shape[-1])
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train and (len(branches) > 1 or groups > 1):
            rows = jnp.array(branches)
            split = _split(x.astype(jnp.float32), len(branches), groups)
            moments = _moments(split, (1, *range(3, split.ndim - 1)))
            factors = _fold(scale[rows][None], bias[rows][None], *moments, self.epsilon)
            y = _scale_and_shift(split, *(_spread(factor, split.ndim) for factor in factors))
            y = y.reshape(x.shape)
            batch_mean, batch_variance = _pool(*moments)
        elif train:
            # One view in one group: plain reductions, nothing is reshaped.
            branch = branches[0]
            wide = x.astype(jnp.float32)
            moments = _moments(wide, tuple(range(x.ndim - 1)))
            factors = _fold(scale[branch], bias[branch], *moments, self.epsilon)
            y = _scale_and_shift(wide, *(over_last_axis(factor, x.ndim) for factor in factors))
            batch_mean, batch_variance = moments[0][None], moments[1][None]
        else:
            factors = _fold(scale, bias, mean.value, variance.value, self.epsilon)
            y = _by_branch(x.astype(jnp.float32), *factors, branches)
        if train and not self.is_initializing():
            count = x.size // (x.shape[-1] * len(branches))
            unbiased = batch_variance * (count / max(count - 1, 1))
            mean.value = _follow(mean.value, batch_mean, branches, self.momentum)
            variance.value = _follow(variance.value, unbiased, branches, self.momentum)
        return y.astype(x.dtype)


def _split(x: jax.Array, views: int, groups: int) -> jax.Array:
    """Reshapes `[B*V,...,C]` to `[groups,B/groups,V,...,C]`."""
    examples = x.shape[0] // (views * groups)
    return x.reshape(groups, examples, views, *x.shape[1:])


def _spread(factor: jax.Array, ndim: int) -> jax.Array:
    """Reshapes `[G,V,C]` to `[G,1,V,1,...,1,C]` of rank `ndim`."""
    groups, views, channels = factor.shape
    return factor.reshape(groups, 1, views, *(1,) * (ndim - 4), channels)


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Gives mean and biased variance over `axes`, in one pass over `x`."""
    mean = jnp.mean(x, axis=axes)
    mean_of_squares = jnp.mean(lax.square(x), axis=axes)
    return mean, jnp.maximum(mean_of_squares - lax.square(mean), 0.0)


def _pool(mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Combines moments `[G,V,C]` of equal groups to those of the batch, `[V,C]`."""
    return jnp.mean(mean, axis=0), jnp.mean(variance, axis=0) + jnp.var(mean, axis=0)


def _fold(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Gives (a, b) such that `a*x + b` normalises x, scales and shifts it; all broadcast."""
    factor = scale * lax.rsqrt(variance + epsilon)
    return factor, bias - mean * factor


def _scale_and_shift(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    return x * factor + shift


def _by_branch(
    x: jax.Array, factor: jax.Array, shift: jax.Array, branches: tuple[int, ...]
) -> jax.Array:
    """Applies row `branches[v]` of `factor[N,C]` and `shift[N,C]` to view v of `x[B*V,...,C]`."""
    if len(set(branches)) == 1:
        row = branches[0]
        return _scale_and_shift(
            x, over_last_axis(factor[row], x.ndim), over_last_axis(shift[row], x.ndim)
        )
    rows = jnp.array(branches)
    split = _split(x, len(branches), groups=1)
    y = _scale_and_shift(
        split, _spread(factor[rows][None], split.ndim), _spread(shift[rows][None], split.ndim)
    )
    return y.reshape(x.shape)


def _follow(
    running: jax.Array, observed: jax.Array, branches: tuple[int, ...], momentum: float
) -> jax.Array:
    """Moves row `branches[v]` of `running[N,C]` toward `observed[v]`, for v in order.

    In order, because two views on one branch are two updates, as in two separate passes.
    """
    rows = list(running)
    for view, branch in enumerate(branches):
        rows[branch] = momentum * rows[branch] + (1.0 - momentum) * observed[view]
    return jnp.stack(rows)
