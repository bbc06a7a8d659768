"""MHGD: graphs of attention between the examples of a group, learned on the teacher; and II-KD.

Between neighbouring features, attention heads are trained to predict the teacher's leading singular
vector of a feature from those of the feature before, over all examples. The student's vectors,
passed through the same heads, should result in the same graphs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import adapters
from kdaug_jax.losses.arrays import matmul, normalized, over_groups, split_groups
from kdaug_jax.losses.relation import rkd_role
from kdaug_jax.losses.svd import adapt, adapters_init, aligned_vectors, kd_svd_parts, reduced
from kdaug_jax.losses.term import Context, Term, TermInput
from kdaug_jax.types import NonNegative

Params = dict[str, Any]
Inputs = tuple[TermInput, ...]
EPS, DECAY = 1e-3, 0.99
# Which losses each part has, by the names of their metrics.
PARTS = {"both": ("graph", "attention"), "attention": ("attention",), "graphs": ("graph",)}


def standardized(x: jax.Array, params: Params, moments: Params) -> jax.Array:
    """Applies BatchNorm with given moments.

    Args:
      x: `f32[B,D]`.
      params: "scale" and "bias", `f32[D]`.
      moments: "mean" and "var", `f32[D]`.

    Returns:
      `f32[B,D]`.
    """
    scale = params["scale"] * jax.lax.rsqrt(moments["var"] + EPS)
    return (x - moments["mean"][None, :]) * scale[None, :] + params["bias"][None, :]


def _moments(x: jax.Array) -> Params:
    mean = jnp.mean(x, axis=0)
    return {"mean": mean, "var": jnp.mean(jnp.square(x - mean[None, :]), axis=0)}


def graph(
    params: Params, vectors: jax.Array, before: jax.Array, heads: int,
    moments: Params | None = None,
) -> tuple[jax.Array, Params]:
    """Returns the attention between examples: sender(feature) times receiver(feature before).

    Args:
      params: "sender" and "receiver", dense layers without bias, whose unit u = d heads + h is
        coordinate d of head h; "bn_sender" and "bn_receiver", their BatchNorm.
      vectors: `f32[B,D]` of a feature.
      before: `f32[B,D']` of the feature before.
      heads: H.
      moments: moments of both BatchNorms, or None for those of the batch.

    Returns:
      `f32[H,B,B]`, without scaling, and the moments of the batch.

    Source: Lee and Song 2019, "Graph-based Knowledge Distillation by Multi-head Attention Network",
    section 3.2.
    """
    sides, batch_moments = [], {}
    for name, x in (("sender", vectors), ("receiver", before)):
        x = adapters.linear(params[name], x)
        batch_moments[name] = _moments(x)
        x = standardized(x, params[f"bn_{name}"], (moments or batch_moments)[name])
        sides.append(einops.rearrange(x, "b (d h) -> h b d", h=heads))
    return matmul(sides[0], jnp.swapaxes(sides[1], -1, -2)), batch_moments


def graph_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(student || teacher) of the rows softmax(tanh G), summed over heads and rows.

    Args:
      student: `f32[H,B,B]`.
      teacher: `f32[H,B,B]`.

    Returns:
      `f32[]`.

    Source: Lee and Song 2019, "Graph-based Knowledge Distillation", as in its public code.
    """
    log_p, log_q = (jax.nn.log_softmax(jnp.tanh(g), axis=-1) for g in (student, teacher))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def _estimate(
    params: Params, attention: jax.Array, before: jax.Array, key: jax.Array
) -> jax.Array:
    """Predicts vectors `f32[B,D]` of length 1 from those of the feature before, over the graph."""
    hidden = adapters.linear(params["hidden"], before)
    hidden = jax.nn.relu(standardized(hidden, params["bn_hidden"], _moments(hidden)))
    noise = jax.random.normal(key, (*attention.shape[:2], 1), jnp.float32)
    kept = (noise > jnp.mean(noise, axis=0, keepdims=True)).astype(jnp.float32)
    mixed = matmul(jax.nn.softmax(attention, axis=-1) * kept, hidden[None])
    rows = einops.rearrange(mixed, "h b d -> b (d h)")
    return normalized(adapters.linear(params["out"], rows))


def _glorot(key: jax.Array, inputs: int, outputs: int) -> jax.Array:
    return adapters.uniform(key, (inputs, outputs), math.sqrt(6.0 / (inputs + outputs)))


def _fan_in(key: jax.Array, inputs: int, outputs: int) -> jax.Array:
    """TF's variance scaling: normal, cut at two deviations, of a variance of about 2 / inputs."""
    normal = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)
    return math.sqrt(1.3 * 2.0 / inputs) * normal


KERNELS = {"glorot": _glorot, "fan_in": _fan_in}


def attention_init(
    key: jax.Array, width: int, before: int, heads: int, kernels: str = "glorot"
) -> tuple[Params, Params]:
    """Initialises the attention between two features and the moments of its BatchNorm.

    Args:
      key: for the dense layers.
      width: D, the feature's channels.
      before: D', those of the feature before.
      heads: H.
      kernels: "glorot", uniform, or "fan_in", a normal of variance 2 / inputs.

    Returns:
      Parameters and state.

    Raises:
      ArgumentError: unknown kernels.
    """
    if kernels not in KERNELS:
        raise ArgumentError(f"got kernels={kernels!r}", "must be " + " or ".join(
            map(repr, KERNELS)
        ))
    middle = (width + before) // 2
    units, keys = middle * heads, jax.random.split(key, 4)

    def dense(key, inputs, outputs):
        return {"kernel": KERNELS[kernels](key, inputs, outputs)}

    params = {
        "sender": dense(keys[0], width, units),
        "receiver": dense(keys[1], before, units),
        "bn_sender": adapters.norm_init(units),
        "bn_receiver": adapters.norm_init(units),
        "hidden": dense(keys[2], before, middle),
        "bn_hidden": adapters.norm_init(middle),
        "out": {**dense(keys[3], units, width), "bias": jnp.zeros(width, jnp.float32)},
    }
    first = {"mean": jnp.zeros(units, jnp.float32), "var": jnp.ones(units, jnp.float32)}
    return params, {"sender": first, "receiver": first}


def _vectors(item: TermInput, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], ...]:
    """Returns the leading vector `f32[B,D]` of each feature, the student's and the teacher's."""
    vectors = [aligned_vectors(s, t, 1) for s, t in zip(maps, item.chosen_teacher, strict=True)]
    return [s[..., 0] for s, _, _ in vectors], [t[..., 0] for _, t, _ in vectors]


def _attention_loss(
    params: Params, teacher: Sequence[jax.Array], heads: int, groups: int, key: jax.Array
) -> tuple[jax.Array, Params]:
    """Returns the loss of the attention on the teacher's vectors, and the moments of the batch."""
    total, batch_moments = jnp.zeros((), jnp.float32), {}
    for i in range(1, len(teacher)):
        layers, keys = params[str(i)], jax.random.split(jax.random.fold_in(key, i), groups)

        def of_group(vectors, before, key, layers=layers):
            attention, moments = graph(layers, vectors, before, heads)
            estimate = _estimate(layers, attention, before, key)
            return 1.0 - jnp.mean(jnp.sum(estimate * vectors, axis=-1)), moments

        split = split_groups((teacher[i], teacher[i - 1]), groups)
        values, moments = jax.vmap(of_group)(*split, keys)
        total += jnp.mean(values)
        batch_moments[str(i)] = jax.tree.map(lambda x: jnp.mean(x, axis=0), moments)
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    return total + 5e-4 * squares, batch_moments


def _graph_loss(params, state, student, teacher, heads: int, groups: int) -> jax.Array:
    """Returns the distance of the graphs, with the attention fixed."""
    params, state = jax.lax.stop_gradient((params, state))
    total = jnp.zeros((), jnp.float32)
    for i in range(1, len(teacher)):
        name = str(i)

        def of_group(s, s_before, t, t_before, name=name):
            graphs = [
                graph(params[name], vectors, before, heads, state[name])[0]
                for vectors, before in ((s, s_before), (t, t_before))
            ]
            return graph_distance(*graphs)

        total += over_groups(
            of_group, groups, student[i], student[i - 1], teacher[i], teacher[i - 1]
        )
    return total


def _init(key, inputs: Inputs, info, *, heads, adapter, kernels, **options):
    if heads < 1:
        raise ArgumentError(f"got heads={heads}", "must be at least 1")
    widths = [maps.shape[-1] for maps in inputs[0].chosen_teacher]
    if len(widths) < 2:
        raise ArgumentError(
            f"compares neighbouring features and got {len(widths)}", "name at least 2"
        )
    attention = {
        str(i): attention_init(
            jax.random.fold_in(key, i), widths[i], widths[i - 1], heads, kernels
        )
        for i in range(1, len(widths))
    }
    params = {"attention": {name: layers for name, (layers, _) in attention.items()}}
    widening = adapters_init(jax.random.fold_in(key, 0), inputs[0], adapter)
    params |= {"adapters": widening} if widening else {}
    return params, {name: moments for name, (_, moments) in attention.items()}


def _apply(
    params, state, inputs: Inputs, context: Context, *,
    heads: int = 4, part: str = "both", adapter: bool = True, kernels: str = "glorot",
):
    """Multi-head graph distillation over the chosen features.

    The attention has a loss on the teacher alone, 1 - cosine of its prediction + 5e-4 times the
    squares of its parameters, which are exempt from the optimiser's weight decay. Each loss has a
    gradient for its own parameters only, so that the value is their sum; the metrics hold each. The
    original trains the attention alone for 40 epochs first, `part="attention"`, and fixes it from
    then on, in a phase of `part="graphs"`, with `heads=8`. Paper 003's code never trains it
    (`part="graphs"` alone): its graphs are random projections. The loss is a sum over heads and
    rows of each group, not a mean; so does that of KD-SVD with `reduction="sum"`.

    Args:
      params: "attention" and perhaps "adapters".
      state: running moments of the attention's BatchNorm.
      inputs: one for each view.
      context: graphs are within its groups, its key drops heads.
      heads: H, attention heads between two features.
      part: "attention" trains the attention alone, on the teacher; "graphs" the student, with the
        attention fixed; "both" does both at once.
      adapter: map features of other widths to the teacher's by a 1×1 convolution and BatchNorm.
      kernels: initial kernels of the attention, "glorot" or, as in paper 003's code, "fan_in".

    Returns:
      Value, state, and the losses of the part as metrics.

    Raises:
      ArgumentError: another part.

    Source: Lee and Song 2019, "Graph-based Knowledge Distillation by Multi-head Attention Network";
    Fu et al. 2020 (role-wise augmentation), for its use with 4 heads.
    """
    if part not in PARTS:
        raise ArgumentError(f"got part={part!r}", "must be " + " or ".join(map(repr, PARTS)))
    attention, losses = params["attention"], dict.fromkeys(PARTS[part], jnp.float32(0))
    for number, item in enumerate(inputs):
        if "graph" in losses:
            maps = adapt(params.get("adapters", {}), item.chosen_student, context.groups)
            student, teacher = _vectors(item, maps)
            losses["graph"] += _graph_loss(
                attention, state, student, teacher, heads, context.groups
            )
        else:
            _, teacher = _vectors(item, item.chosen_teacher)
        if "attention" in losses:
            loss, moments = _attention_loss(
                attention, teacher, heads, context.groups, jax.random.fold_in(context.key, number)
            )
            losses["attention"] += loss
            state = jax.tree.map(
                lambda old, new: DECAY * old + (1.0 - DECAY) * new, state, moments
            )
    metrics = {name: (loss, jnp.float32(1)) for name, loss in losses.items()}
    return sum(losses.values()), state, metrics


mhgd = Term(_init, _apply, no_decay=("attention",), features=True, min_group=2)


def _ii_kd(
    params, state, inputs: Inputs, context: Context, *,
    heads: int = 4, part: str = "both", adapter: bool = True, kernels: str = "glorot",
    distance: NonNegative = 50.0, angle: NonNegative = 100.0,
    rkd: NonNegative = 1.0, graphs: NonNegative = 1.0, vectors: NonNegative = 1.0,
):
    """Inter- and intra-class distillation: RKD on logits + MHGD + KD-SVD with equal weights.

    RKD has the role-wise form. KD-SVD is summed over the batch, as in the public code, and graphs
    over rows. The loss is meant to be clipped by variable to the task's gradient
    (`optim.combine="clip_per_variable()"`), so that the proportions of its parts matter more than
    its size. MHGD and KD-SVD share adapters.

    Args:
      params: see `mhgd`.
      state: see `mhgd`.
      inputs: one for each view.
      context: examples are compared within its groups.
      heads: see `mhgd`.
      part: see `mhgd`; "attention" leaves RKD and KD-SVD out too.
      adapter: see `mhgd`.
      kernels: see `mhgd`.
      distance: weight of RKD's distances.
      angle: weight of RKD's angles.
      rkd: weight of RKD.
      graphs: weight of MHGD.
      vectors: weight of KD-SVD.

    Returns:
      Value, state, and the parts as metrics.

    Raises:
      ArgumentError: another part.

    Source: Fu et al. 2020 (role-wise augmentation), eq. 10.
    """
    value, state, metrics = _apply(
        params, state, inputs, context, heads=heads, part=part, adapter=adapter, kernels=kernels,
    )
    value, count = graphs * value, jnp.float32(1)
    if "graph" not in metrics:
        return value, state, metrics
    relation = flow = jnp.zeros((), jnp.float32)
    for item in inputs:
        relation += over_groups(
            lambda s, t: rkd_role(s, t, distance=distance, angle=angle), context.groups,
            item.student.logits, item.teacher.logits,
        )
        maps = adapt(params.get("adapters", {}), item.chosen_student, context.groups)
        parts = sum(kd_svd_parts(maps, item.chosen_teacher))
        flow += reduced(parts, item.view.mask, context.groups, "sum")
    value += rkd * relation + vectors * flow
    return value, state, {**metrics, "relation": (relation, count), "flow": (flow, count)}


ii_kd = Term(_init, _ii_kd, no_decay=("attention",), features=True, min_group=3)
