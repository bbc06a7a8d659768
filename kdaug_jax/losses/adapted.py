"""Feature losses with trained layers between student and teacher: FitNet, VID, AB, FT, CC.

Each is a `Term` on the features that the config chooses, summed over them, with parameters by the
position of the feature. They are trained with the student, by the same optimiser and weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters, feature, relation
from kdaug_jax.losses.arrays import (
    flat,
    masked_mean,
    need_maps,
    over_groups,
    pooled_alike,
)
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.types import NonNegative

Inputs = tuple[TermInput, ...]


def _features(item: TermInput) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """Yields name of its parameters, student's and teacher's activation of each chosen feature."""
    pairs = zip(item.chosen_student, item.chosen_teacher, strict=True)
    return ((str(i), *pair) for i, pair in enumerate(pairs))


def _init_features(make: Callable[..., adapters.Params]) -> Callable[..., tuple[dict, dict]]:
    """Returns a term's `init` from `make(key, student, teacher, **options)` of one feature."""

    def init(key, inputs: Inputs, info, **options):
        params = {
            name: make(jax.random.fold_in(key, int(name)), student, teacher, **options)
            for name, student, teacher in _features(inputs[0])
        }
        return {name: layers for name, layers in params.items() if layers}, {}

    return init


def _fitnet_init(key, student, teacher):
    return adapters.regressor_init(key, student.shape, teacher.shape)


def _fitnet(params, state, inputs: Inputs, context: Context):
    """Hint: mean squared difference of a regressed student's map from the teacher's.

    The regressor is a convolution that matches the sizes, BatchNorm and ReLU. RepDistiller has one
    feature, f2, and weight 100.

    Source: Romero et al. 2015, "FitNets", eq. 3.
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        for name, student, teacher in _features(item):
            regressed = adapters.regress(
                params[name], student, teacher.shape, context.groups, relu=True
            )
            value += masked_mean(feature.hint(regressed, teacher), item.view.mask)
    return value, state, {}


def _vid_init(key, student, teacher):
    jax.eval_shape(pooled_alike, student, teacher)  # raises ArgumentError for unequal sizes
    width, target = student.shape[-1], teacher.shape[-1]
    keys = jax.random.split(key, 3)
    widths = (width, target, target)
    convs = {
        f"conv{i}": adapters.linear_init(keys[i], widths[i], target, bias=False) for i in range(3)
    }
    # softplus(start) = 5 - 1e-5, so that the initial variance is 5.
    start = jnp.log(jnp.expm1(jnp.float32(5.0 - 1e-5)))
    return {**convs, "log_scale": jnp.full(target, start)}


def vid_nll(params: adapters.Params, student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Negative log likelihood of a teacher's map under a Gaussian regressed from the student's.

    Args:
      params: "conv0", "conv1", "conv2", 1×1 convolutions `{"kernel": f32[C,C']}` with a ReLU
        between them, and "log_scale" `f32[C']`, see `feature.gaussian_nll`.
      student: `[B,H,W,C]`.
      teacher: `[B,H',W',C']`; the larger map is averaged down to the smaller.

    Returns:
      `f32[B]`.

    Source: Ahn et al. 2019, "Variational Information Distillation", as in RepDistiller.
    """
    mean, target = pooled_alike(student, teacher)
    for i in range(3):
        mean = adapters.linear(params[f"conv{i}"], jax.nn.relu(mean) if i else mean)
    return feature.gaussian_nll(mean, target, params["log_scale"])


def _vid(params, state, inputs: Inputs, context: Context):
    """Variational information distillation, see `vid_nll`; weight 1 in RepDistiller.

    Weight decay applies to regressors and variances, as there.
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        for name, student, teacher in _features(item):
            value += masked_mean(vid_nll(params[name], student, teacher), item.view.mask)
    return value, state, {}


def _ab_init(key, student, teacher, **options):
    if student.shape == teacher.shape:
        return {}
    return adapters.regressor_init(key, student.shape, teacher.shape)


def _ab(
    params, state, inputs: Inputs, context: Context, *,
    margin: NonNegative = 1.0, scale: NonNegative = 0.003,
):
    """Activation boundaries on features before the ReLU, each weighted twice the one before it.

    Features of different shapes get a connector (convolution and BatchNorm). It is meant for an
    initial phase without other terms, 30 epochs in RepDistiller, with weight 1.

    Args:
      params: connectors.
      state: empty.
      inputs: one for each view.
      context: its groups are those of BatchNorm.
      margin: of the hinge.
      scale: factor of the loss; 3/1000 in the public code.

    Returns:
      Value, state, no metrics.

    Source: Heo et al. 2019, "Knowledge Transfer via Distillation of Activation Boundaries".
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        weights = feature.feature_weights(len(item.chosen_student))
        for (name, student, teacher), weight in zip(_features(item), weights, strict=True):
            if name in params:
                student = adapters.regress(
                    params[name], student, teacher.shape, context.groups, relu=False
                )
            hinge = feature.ab(student, teacher, margin=margin)
            value += weight * masked_mean(hinge, item.view.mask)
    return jnp.asarray(scale, jnp.float32) * value, state, {}


def _leaky(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, 0.1)


def _ft_init(key, student, teacher, *, share, **options):
    need_maps(student, teacher)
    if not 0 < share <= 1:
        raise ArgumentError(f"got share={share}", "must be more than 0 and at most 1")
    wide, narrow = teacher.shape[-1], max(round(teacher.shape[-1] * share), 1)
    keys = iter(jax.random.split(key, 9))

    def chain(*widths):
        return [
            adapters.conv_init(next(keys), 3, *pair)
            for pair in zip(widths[:-1], widths[1:], strict=True)
        ]

    width = student.shape[-1]
    convs = {
        "encoder": chain(wide, wide, narrow, narrow),
        "decoder": chain(narrow, narrow, wide, wide),
        "translator": chain(width, width, narrow, narrow),
    }
    norms = {f"bn{i}": adapters.norm_init(size) for i, size in enumerate((width, narrow, narrow))}
    params = {
        part: {f"conv{i}": conv for i, conv in enumerate(layers)} for part, layers in convs.items()
    }
    return {**params, "translator": {**params["translator"], **norms}}


def _convolve(params: adapters.Params, maps: jax.Array, groups: int) -> jax.Array:
    """Applies three 3×3 convolutions, each with BatchNorm, where it has one, and a leaky ReLU."""
    x = maps.astype(jnp.float32)
    for i in range(3):
        x = adapters.conv(params[f"conv{i}"], x, padding=1)
        x = adapters.norm(params[f"bn{i}"], x, groups) if f"bn{i}" in params else x
        x = _leaky(x)
    return x


def _ft(
    params, state, inputs: Inputs, context: Context, *,
    share: float = 0.5, part: str = "translator",
):
    """Factor transfer: a translator of the student's map matches a paraphraser of the teacher's.

    First only the paraphraser is trained, to reconstruct the teacher's map; then, from a later
    phase on, it is fixed. RepDistiller has the last map, 30 epochs of `part="paraphraser"` with
    weight 1, then `part="translator"` with weight 200.

    Args:
      params: paraphraser ("encoder", "decoder") and "translator" of each feature.
      state: empty.
      inputs: one for each view.
      context: its groups are those of BatchNorm.
      share: channels of the factors as a share of the teacher's.
      part: "paraphraser" or "translator", which is trained.

    Returns:
      Value, state, no metrics.

    Raises:
      ArgumentError: another part.

    Source: Kim et al. 2018, "Paraphrasing Complex Network", as in RepDistiller.
    """
    if part not in ("paraphraser", "translator"):
        raise ArgumentError(f"got part={part!r}", "must be 'paraphraser' or 'translator'")
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        for name, student, teacher in _features(item):
            layers, groups = params[name], context.groups
            factor = _convolve(layers["encoder"], teacher, groups)
            if part == "paraphraser":
                distance = feature.hint(_convolve(layers["decoder"], factor, groups), teacher)
            else:
                translated = _convolve(layers["translator"], student, groups)
                distance = feature.factor_distance(translated, jax.lax.stop_gradient(factor))
            value += masked_mean(distance, item.view.mask)
    return value, state, {}


def _cc_init(key, student, teacher, *, dim):
    if dim < 1:
        raise ArgumentError(f"got dim={dim}", "must be at least 1")
    keys = jax.random.split(key)
    widths = (student.size // student.shape[0], teacher.size // teacher.shape[0])
    return {
        network: adapters.linear_init(layer_key, width, dim)
        for network, layer_key, width in zip(("student", "teacher"), keys, widths, strict=True)
    }


def _cc(params, state, inputs: Inputs, context: Context, *, dim: int = 128):
    """Correlation congruence of embeddings, both of which are trained; see `relation.cc`.

    RepDistiller has the pooled vector, and weight 0.02.

    Args:
      params: a dense layer for each network and feature.
      state: empty.
      inputs: one for each view.
      context: examples are compared within its groups.
      dim: width of the embeddings.

    Returns:
      Value, state, no metrics.

    Source: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation".
    """
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        for name, student, teacher in _features(item):
            layers = params[name]
            pair = (
                adapters.linear(layers["student"], flat(student)),
                adapters.linear(layers["teacher"], flat(teacher)),
            )
            value += over_groups(relation.cc, context.groups, *pair)
    return value, state, {}


fitnet = Term(_init_features(_fitnet_init), _fitnet, features=True)
vid = Term(_init_features(_vid_init), _vid, features=True)
ab = Term(_init_features(_ab_init), _ab, features=True)
ft = Term(_init_features(_ft_init), _ft, features=True)
cc = Term(_init_features(_cc_init), _cc, features=True, min_group=2)
