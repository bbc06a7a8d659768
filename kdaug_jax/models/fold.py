"""Folds BatchNorm into the convolutions before it, for networks that are run but not trained.

Pairs are found by tracing: a convolution whose output only one BatchNorm reads. So it works for
every family, and for a user's networks of these layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.models.batchnorm import BatchNorm, over_last_axis
from kdaug_jax.models.layers import FULL, Conv, Linear
from kdaug_jax.models.model import DTYPES, Model
from kdaug_jax.models.variables import flatten, folded_norms, unflatten

_MARK = "fold:"


def fold_batchnorm(
    model: Model,
    variables: Mapping[str, Any],
    dtype: str = "float32",
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Returns variables with BatchNorm folded into the kernels before it, for inference.

    A kernel takes over the scale, and one shift per channel remains. BatchNorm
    that follows anything else, or a quantised kernel, stays as it is.

    Args:
      model: a network with one BatchNorm branch; see `variables.take_branch`.
      variables: its variables.
      dtype: "float32", or "bfloat16" to keep kernels in half the memory; those of a `model` of
        that type were rounded to it in the computation anyway, but for the classifier's.
        Quantised kernels stay float32: rounded before, many would go to another level.
      size: (height, width) of the images, for a network that keeps to one size; its native size
        unless given.

    Returns:
      Variables for `model.apply(..., train=False)`.

    Raises:
      ConfigError: the network has several branches, the variables are folded already, or the
        type is unknown.
    """
    if model.num_branches != 1:
        raise ConfigError(
            "model", f"has {model.num_branches} BatchNorm branches", "take one of them first"
        )
    if dtype not in DTYPES:
        raise ConfigError("dtype", f"unknown type '{dtype}'", suggest(str(dtype), DTYPES))
    leaves = flatten(variables)
    if folded_norms(leaves):
        raise ConfigError("variables", "are folded already")
    side = model.native_size
    pairs, quantised = _pairs(model, variables, size or (side, side))
    for layer, norm, epsilon in pairs:
        scale, bias = (leaves.pop(f"params/{norm}/{leaf}")[0] for leaf in ("scale", "bias"))
        mean, variance = (leaves.pop(f"batch_stats/{norm}/{leaf}")[0] for leaf in ("mean", "var"))
        factor = scale * lax.rsqrt(variance + epsilon)
        for path in (f"params/{layer}/kernel", f"params/{layer}/bias"):
            if path in leaves:
                leaves[path] = leaves[path] * over_last_axis(factor, leaves[path].ndim)
        leaves[f"params/{norm}/shift"] = bias - mean * factor
    return unflatten(
        {
            path: leaf.astype(dtype) if path.endswith("/kernel") and path not in quantised else leaf
            for path, leaf in leaves.items()
        }
    )


def _pairs(
    model: Model, variables: Mapping[str, Any], size: tuple[int, int]
) -> tuple[list[tuple[str, str, float]], set[str]]:
    """Returns (path of a layer, path of the BatchNorm that alone reads it, its epsilon).

    Also the paths of the kernels that are quantised.
    """
    epsilons, quantised = {}, set()

    def mark(call, args, kwargs, context):
        module = context.module
        path = "/".join(module.path)
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, BatchNorm):
            epsilons[path] = module.epsilon
            return call(checkpoint_name(args[0], _MARK + path), *args[1:], **kwargs)
        if not isinstance(module, (Conv, Linear)):
            return call(*args, **kwargs)
        if module.bits == FULL:
            return checkpoint_name(call(*args, **kwargs), _MARK + path)
        quantised.add(f"params/{path}/kernel")
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.float32)
    with nn.intercept_methods(mark):
        traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, image)
    pairs = [(layer, norm, epsilons[norm]) for layer, norm in _only_reads(traced.jaxpr)]
    return pairs, quantised


def _only_reads(jaxpr: Any) -> Iterator[tuple[str, str]]:
    """Yields pairs of marks where only the second reads the output of the first."""
    reads = Counter(id(atom) for eqn in jaxpr.eqns for atom in eqn.invars)
    reads.update(id(atom) for atom in jaxpr.outvars)
    marked = {}
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_has_equations):
            if _has_equations(inner):
                yield from _only_reads(getattr(inner, "jaxpr", inner))
        mark = eqn.params.get("name", "")
        if not isinstance(mark, str) or not mark.startswith(_MARK):
            continue
        source = marked.get(id(eqn.invars[0]))
        if source and reads[id(eqn.invars[0])] == 1:
            yield source, mark.removeprefix(_MARK)
        marked[id(eqn.outvars[0])] = mark.removeprefix(_MARK)


def _has_equations(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")
