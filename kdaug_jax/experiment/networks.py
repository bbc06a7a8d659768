"""Builds the networks of an experiment and runs `network@view` pairs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.context import StepContext
from kdaug_jax.experiment.frozen import stored, tables
from kdaug_jax.experiment.network import Network, create
from kdaug_jax.models.batchnorm import Recorded
from kdaug_jax.models.foreign.layouts import variants_of
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.runtime import weight_cuts
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Info, Outputs, View

__all__ = ["Network", "build_network", "check_init", "run", "start"]


def build_network(
    name: str,
    config: Mapping[str, Any],
    info: Info,
    branches: int,
    replica_batch_size: int,
    dtype: str,
) -> Network:
    """Returns the network of a config.

    Args:
      name: its name in the experiment.
      config: a complete section, see `experiment.sections.network`.
      info: facts of the training split; its mean and std hold where the config gives none.
      branches: number of BatchNorm branches that the views of this network use.
      replica_batch_size: see `train.replica_batch_size`.
      dtype: "float32" or "bfloat16", of the computation.

    Returns:
      The network. A frozen one takes normalisation and architecture from its checkpoint, see
      `experiment.frozen.stored`; without one it is built as its config says, to be trained first.

    Raises:
      ConfigError: unknown architecture, images too small, or a checkpoint of another data set.
    """
    where = f"networks.{name}"
    if not config["trainable"] and config["checkpoint"]:
        return _cut(where, config, stored.build_frozen(where, config, info, dtype))
    facts = {
        "name": config["name"],
        "mean": tuple(config["mean"]) or info.mean,
        "std": tuple(config["std"]) or info.std,
        "num_classes": info.num_classes,
        "options": dict(config["options"]),
        "size": info.size,
        "data_mean": info.mean,
    }
    for field in ("mean", "std"):
        if len(facts[field]) != len(info.mean):
            raise ConfigError(
                f"{where}.{field}", f"has {len(facts[field])} values",
                f"one for each of the {len(info.mean)} channels",
            )
    model = create(
        where, config, facts, info.size, num_branches=branches,
        replica_batch_size=replica_batch_size if config["trainable"] else 0, dtype=dtype,
    )
    return _cut(where, config, Network(
        model, config["trainable"], config["checkpoint"], facts, config["init"]
    ))


def _cut(where: str, config: Mapping[str, Any], network: Network) -> Network:
    """Returns a network that gathers its cut weights before it computes with them."""
    shard, model = config["shard"], network.model
    if not shard:
        return network
    if network.facts.get("kind") in ("function", "table"):
        raise ConfigError(
            f"{where}.shard", f"is '{shard}', but a {network.facts['kind']} has no weights to cut",
            "leave it empty",
        )

    @functools.wraps(model.apply)
    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        return model.apply(weight_cuts.gathered(shard, variables), *args, **kwargs)

    return network._replace(model=model._replace(apply=apply), shard=shard)


def variable_shapes(network: Network, size: tuple[int, int]) -> dict[str, Any]:
    """Returns `{"params", "batch_stats"}` of shapes and dtypes.

    Args:
      network: whose variables.
      size: height and width of its input images in pixels.
    """
    return jax.eval_shape(lambda key: network.model.init(key, size), jax.random.key(0))


def check_init(networks: Mapping[str, Network], size: tuple[int, int]) -> None:
    """Validates that networks which start from another's weights have variables like its.

    Args:
      networks: by name.
      size: height and width of the stored images in pixels.

    Raises:
      ConfigError: their variables have other names or shapes, or would answer otherwise in the
        other network: for pixels that are normalised otherwise, in another variant of the
        architecture, or for classes in another order.
    """
    for name, network in networks.items():
        if not network.init:
            continue
        expected = flatten(variable_shapes(network, size))
        if wrong := mismatches(flatten(variable_shapes(networks[network.init], size)), expected):
            raise ConfigError(
                f"networks.{name}.init", f"the variables of '{network.init}' do not fit: {wrong}",
                "use networks of the same architecture and as many BatchNorm branches",
            )
        _check_same_arithmetic(f"networks.{name}", network, networks[network.init])


def _check_same_arithmetic(where: str, network: Network, origin: Network) -> None:
    """Raises ConfigError if equal variables answer otherwise in two networks of equal shapes."""
    facts, start = network.facts, origin.facts
    for field in ("mean", "std"):
        if not np.allclose(facts[field], start[field], atol=0.01):
            shown = ",".join(f"{value:g}" for value in start[field])
            raise ConfigError(
                f"{where}.init", f"'{network.init}' normalises with the {field} "
                f"{_rounded(start[field])}, this network with {_rounded(facts[field])}",
                f"set {where}.{field} to ({shown},)",
            )
    variants = [
        (of["options"] or {}).get("variant", next(iter(variants_of(of["name"])), ""))
        for of in (facts, start)
    ]
    if variants[0] != variants[1]:
        raise ConfigError(
            f"{where}.init", f"'{network.init}' is of variant '{variants[1]}', this network of "
            f"'{variants[0]}'", f"set {where}.options.variant to '{variants[1]}'",
        )
    if start.get("class_order"):
        raise ConfigError(
            f"{where}.init", f"the classes of '{network.init}' are in another order, and its "
            "weights would name the wrong ones", "leave init out, or start from another network",
        )


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in values) + ")"


def start(
    network: Network, key: jax.Array, size: tuple[int, int], frozen: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the variables that a trained network starts from.

    Args:
      network: the trained network.
      key: for random variables.
      size: height and width of the stored images in pixels.
      frozen: variables of the frozen networks by name; only those of `network.init` are used.

    Returns:
      `{"params", "batch_stats"}`.
    """
    if not network.init:
        return network.model.init(key, size)
    # Copied: each step donates the state, but the frozen network stays.
    return jax.tree.map(jnp.copy, dict(frozen[network.init]))


def run(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    variables: Mapping[str, Any],
    given: Mapping[str, Outputs],
    context: StepContext,
) -> tuple[dict[str, Outputs], dict[str, Any]]:
    """Runs each network on its views, those of equal size in one joint pass.

    Args:
      networks: by name.
      pairs: the (network, view) pairs that are needed, in order.
      variables: `{network: {"params", "batch_stats"}}`.
      given: `{"network@view": Outputs}`; these pairs are not run, nor are those of tables of
        logits, which are looked up.
      context: the views and the position in the run.

    Returns:
      `{"network@view": Outputs}` and `{network: batch_stats}` of the trained networks, or
      `{network: Recorded}` where this is one of several micro-batches. In training mode each view
      has its own statistics, as in separate passes.
    """
    views, branches, clock = context.views, context.branches, context.clock
    outputs = {**_table_outputs(networks, pairs, variables, views), **given}
    batch_stats = {}
    # Mixed views and frozen networks come first: trained ones depend on them only in the loss.
    order = Ordering(clock.step, (view.target for view in views.values()))
    for name, network in sorted(networks.items(), key=lambda item: item[1].trainable):
        pending = [
            view for network_name, view in pairs
            if network_name == name and f"{name}@{view}" not in outputs
        ]
        current, passes = dict(variables[name]), ()
        record = context.parts > 1 and network.trainable
        for together in _by_shape(pending, views):
            image = _stack([views[view].image for view in together])
            image = order.after(image) if network.trainable else image
            key = rng.batch_key(clock, f"network/{name}/" + "+".join(together))
            result, changed = network.model.apply(
                current,
                image,
                train=network.trainable,
                branches=tuple(branches[view] if network.trainable else 0 for view in together),
                key=key,
                groups=context.groups if network.trainable else 0,
                record=record,
            )
            current["batch_stats"] = changed.statistics if record else changed
            passes += changed.passes if record else ()
            if not network.trainable:
                order.done(result.logits)
            for position, view in enumerate(together):
                outputs[f"{name}@{view}"] = _unstack(result, position, len(together))
        if network.trainable:
            statistics = current["batch_stats"]
            batch_stats[name] = Recorded(statistics, passes) if record else statistics
    return outputs, batch_stats


def _table_outputs(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    variables: Mapping[str, Any],
    views: Mapping[str, View],
) -> dict[str, Outputs]:
    """Returns the stored logits of the pairs whose network is a table of logits."""
    return {
        f"{name}@{view}": tables.look_up(variables[name], views[view].index)
        for name, view in pairs
        if name in networks and networks[name].is_table
    }


def _by_shape(names: Sequence[str], views: Mapping[str, View]) -> list[list[str]]:
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for view in names:
        by_shape.setdefault(views[view].image.shape, []).append(view)
    return list(by_shape.values())


def _stack(images: Sequence[jax.Array]) -> jax.Array:
    if len(images) == 1:
        return images[0]
    if len({image.dtype for image in images}) > 1:
        images = [image.astype(jnp.float32) for image in images]
    # On axis 1 every device keeps its own examples; on axis 0 the data would move.
    return rearrange(jnp.stack(images, axis=1), "b v ... -> (b v) ...")


def _unstack(outputs: Outputs, position: int, count: int) -> Outputs:
    if count == 1:
        return outputs
    return jax.tree.map(
        lambda array: rearrange(array, "(b v) ... -> b v ...", v=count)[:, position], outputs
    )
