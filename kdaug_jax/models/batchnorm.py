"""BatchNorm with branches: statistics per view and per group of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from kdaug_jax.errors import ConfigError

Initializer = Callable[..., jax.Array]


# The collection in which BatchNorm leaves what it saw.
OBSERVED = "observed"

Variables = Mapping[str, Any]


class Observed(NamedTuple):
    """What a layer saw in one pass.

    Attributes:
      mean, variance: `f32[V,C]` of each view; the variance is biased.
      branch: `i32[V]`, of each view.
      count: `f32[]`, elements of a channel in a view.
      keep, share: `f32[]`, of the old running statistics and of the new in an update.
    """

    mean: jax.Array
    variance: jax.Array
    branch: jax.Array
    count: jax.Array
    keep: jax.Array
    share: jax.Array


class Recorded(NamedTuple):
    """Running statistics and what was seen.

    Attributes:
      statistics: "batch_stats"; those of layers of other kinds may have moved.
      passes: the collection `OBSERVED` of each pass.
    """

    statistics: Variables
    passes: tuple[Variables, ...]


def over_last_axis(vector: jax.Array, ndim: int) -> jax.Array:
    """Reshapes `vector[C]` to `[1,...,1,C]` of rank `ndim`, for explicit broadcasting."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


class StatisticsError(Exception):
    """Running statistics are missing, or have another shape than the layer's."""


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
    for sums, and take one pass over the input, from which the mean of the first example is
    subtracted: E[d²] - E[d]² of the differences d. Without it a mean of a thousand deviations would
    leave no digit of the variance.

    Where `params` hold a `shift[C]` instead, the rest was folded into the convolution before (see
    `fold.fold_batchnorm`), and the shift is added; such a layer cannot be trained.

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
        self, x: jax.Array, train: bool, branches: tuple[int, ...] = (0,), groups: int = 1,
        record: bool = False,
    ) -> jax.Array:
        """Normalises every channel of `x`.

        Args:
          x: `[B*V,...,C]` with `V = len(branches)`, row `b*V + v` being view v of example b.
          train: use statistics of the batch and update the running ones, or use the latter.
          branches: branch of each view, each in `0..num_branches-1`; may repeat.
          groups: number of consecutive equal groups of examples; a divisor of B.
          record: whether the running statistics stay as they are in training, and what was seen is
            left in the collection `OBSERVED`, see `moved`.

        Returns:
          Array of the shape and type of `x`.
        """
        if self.has_variable("params", "shift"):
            return self._shifted(x, train)
        shape = (self.num_branches, x.shape[-1])
        if not self.is_initializing():
            # Linen would make up what is missing, and a wrong shape might be broadcast.
            _check_statistics(self.variables.get("batch_stats", {}), shape)
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
            keep, share = self.momentum, 1.0 - self.momentum
            if record:
                self.sow(OBSERVED, "moments", Observed(
                    batch_mean, batch_variance, jnp.array(branches, jnp.int32),
                    *(jnp.float32(number) for number in (count, keep, share)),
                ))
            else:
                unbiased = batch_variance * (count / max(count - 1, 1))
                running = {"mean": mean.value, "var": variance.value}
                now = _follow(running, batch_mean, unbiased, branches, keep, share)
                mean.value, variance.value = now["mean"], now["var"]
        return y.astype(x.dtype)

    def _shifted(self, x: jax.Array, train: bool) -> jax.Array:
        """Adds the shift of a folded normalisation."""
        if train:
            raise ConfigError(
                "train", "BatchNorm was folded into the convolutions", "train the unfolded weights"
            )
        shift = self.get_variable("params", "shift")
        return (x.astype(jnp.float32) + over_last_axis(shift, x.ndim)).astype(x.dtype)


def _check_statistics(statistics: Mapping[str, jax.Array], shape: tuple[int, int]) -> None:
    for name in ("mean", "var"):
        if name not in statistics or statistics[name].shape != shape:
            raise StatisticsError(f"{name} is not of shape {shape}")


def _split(x: jax.Array, views: int, groups: int) -> jax.Array:
    """Reshapes `[B*V,...,C]` to `[groups,B/groups,V,...,C]`."""
    examples = x.shape[0] // (views * groups)
    return x.reshape(groups, examples, views, *x.shape[1:])


def _spread(factor: jax.Array, ndim: int) -> jax.Array:
    """Reshapes `[G,V,C]` to `[G,1,V,1,...,1,C]` of rank `ndim`."""
    groups, views, channels = factor.shape
    return factor.reshape(groups, 1, views, *(1,) * (ndim - 4), channels)


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns mean and biased variance over `axes`, the first of which counts examples."""
    first = lax.slice_in_dim(x, 0, 1, axis=axes[0])
    # Any shift gives the same moments; only those near the mean keep their digits.
    shift = lax.stop_gradient(jnp.mean(first, axis=axes, keepdims=True))
    difference = x - shift
    mean = jnp.mean(difference, axis=axes)
    mean_of_squares = jnp.mean(lax.square(difference), axis=axes)
    variance = jnp.maximum(mean_of_squares - lax.square(mean), 0.0)
    return jnp.squeeze(shift, axes) + mean, variance


def _pool(mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Combines moments `[G,V,C]` of equal groups to those of the batch, `[V,C]`."""
    return jnp.mean(mean, axis=0), jnp.mean(variance, axis=0) + jnp.var(mean, axis=0)


def _fold(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Returns (a, b) such that `a*x + b` normalises x, scales and shifts it; all broadcast."""
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
    running: Mapping[str, jax.Array], mean: jax.Array, variance: jax.Array,
    branches: Sequence[int] | jax.Array, keep: ArrayLike, share: ArrayLike,
) -> dict[str, jax.Array]:
    """Moves row `branches[v]` of running `[N,C]` toward moments `[V,C]` of view v, in order of v.

    In order, because two views on one branch are two updates, as in two separate passes.
    """
    result = {}
    for name, observed in (("mean", mean), ("var", variance)):
        rows = running[name]
        number = jnp.arange(rows.shape[0])[:, None]
        for view in range(observed.shape[0]):
            towards = keep * rows + share * observed[view][None]
            rows = jnp.where(number == branches[view], towards, rows)
        result[name] = rows
    return result


def moved(statistics: Variables, passes: Sequence[Variables]) -> Variables:
    """Moves running statistics once by what several equal parts of a batch saw.

    The result is that of the whole batch in one part: means and variances are pooled before they
    are followed, so that splitting a batch changes nothing but rounding.

    Args:
      statistics: "batch_stats" of a network.
      passes: `Recorded.passes`, whose arrays have a leading axis of the parts.

    Returns:
      The new "batch_stats"; layers that recorded nothing stay as they are.
    """
    for seen in passes:
        statistics = _moved(statistics, seen)
    return statistics


def _moved(statistics: Variables, seen: Variables) -> Variables:
    result = dict(statistics)
    for name, part in seen.items():
        if name != "moments":
            result[name] = _moved(statistics[name], part)
            continue
        for record in part:
            count = record.count[0] * record.count.shape[0]
            pooled, variance = _pool(record.mean, record.variance)
            unbiased = variance * (count / jnp.maximum(count - 1.0, 1.0))
            result |= _follow(
                result, pooled, unbiased, record.branch[0], record.keep[0], record.share[0]
            )
    return result
