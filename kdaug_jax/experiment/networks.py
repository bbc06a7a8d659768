"""Builds the networks of an experiment and runs `network@view` pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.context import StepContext
from kdaug_jax.experiment.frozen import stored, tables
from kdaug_jax.experiment.network import Network, create
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Info, Outputs, View

__all__ = ["Network", "build_network", "check_init", "run", "start"]


def build_network(
    name: str, config: Mapping[str, Any], info: Info, branches: int, replica_batch_size: int, dtype: str
) -> Network:
    """Builds one network from its config.

    Args:
      name: its name in the experiment.
      config: a complete section, see `experiment.config.network`.
      info: facts of the training split; its mean and std hold where the config gives none.
      branches: how many BatchNorm branches the views of this network use.
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
        return stored.build_frozen(where, config, info, dtype)
    facts = {
        "name": config["name"],
        "mean": tuple(config["mean"]) or info.mean,
        "std": tuple(config["std"]) or info.std,
        "num_classes": info.num_classes,
        "options": dict(config["options"]),
        "size": info.size,
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
    return Network(model, config["trainable"], config["checkpoint"], facts, config["init"])


def check_init(networks: Mapping[str, Network], size: tuple[int, int]) -> None:
    """Refuses a network that is to start from the weights of one which it does not resemble.

    Args:
      networks: by name.
      size: height and width of the stored images in pixels.

    Raises:
      ConfigError: their variables have other names or shapes.
    """
    for name, one in networks.items():
        if not one.init:
            continue
        wanted, found = (
            flatten(jax.eval_shape(lambda key, its=its: its.model.init(key, size),
                                   jax.random.key(0)))
            for its in (one, networks[one.init])
        )
        if wrong := mismatches(found, wanted):
            raise ConfigError(
                f"networks.{name}.init", f"the variables of '{one.init}' do not fit: {wrong}",
                "use networks of the same architecture and as many BatchNorm branches",
            )


def start(
    network: Network, key: jax.Array, size: tuple[int, int], frozen: Mapping[str, Any]
) -> dict[str, Any]:
    """Gives the variables that a trained network starts from.

    Args:
      network: the trained network.
      key: for random ones.
      size: height and width of the stored images in pixels.
      frozen: variables of the frozen networks by name; only that of `network.init` is used.

    Returns:
      `{"params", "batch_stats"}`.
    """
    if not network.init:
        return network.model.init(key, size)
    # Copied: the state is given away step by step, the frozen network stays.
    return jax.tree.map(jnp.copy, dict(frozen[network.init]))


def run(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    variables: Mapping[str, Any],
    given: Mapping[str, Outputs],
    context: StepContext,
) -> tuple[dict[str, Outputs], dict[str, Any]]:
    """Runs each network on its views, those of one size in one joint pass.

    Args:
      networks: by name.
      pairs: the (network, view) pairs that are needed, in order.
      variables: `{network: {"params", "batch_stats"}}`.
      given: `{"network@view": Outputs}`; these pairs are not run, nor are those of tables of
        logits, which are looked up.
      context: the views and the position in the run.

    Returns:
      `{"network@view": Outputs}` and `{network: batch_stats}` of the trained networks. In
      training mode each view has its own statistics, as in separate passes.
    """
    views, branches, clock = context.views, context.branches, context.clock
    outputs = {**_looked_up(networks, pairs, variables, views), **given}
    batch_stats = {}
    # Mixed views and frozen networks come first: trained ones depend on them only in the loss.
    order = Ordering(clock.step, (view.target for view in views.values()))
    for name, network in sorted(networks.items(), key=lambda item: item[1].trainable):
        wanted = [view for one, view in pairs if one == name and f"{name}@{view}" not in outputs]
        current = dict(variables[name])
        for together in _joint(wanted, views):
            image = _stack([views[view].image for view in together])
            image = order.after(image) if network.trainable else image
            key = rng.batch_key(clock, f"network/{name}/" + "+".join(together))
            result, current["batch_stats"] = network.model.apply(
                current,
                image,
                train=network.trainable,
                branches=tuple(branches[view] if network.trainable else 0 for view in together),
                key=key,
                groups=context.groups if network.trainable else 0,
            )
            if not network.trainable:
                order.done(result.logits)
            for position, view in enumerate(together):
                outputs[f"{name}@{view}"] = _unstack(result, position, len(together))
        if network.trainable:
            batch_stats[name] = current["batch_stats"]
    return outputs, batch_stats


def _looked_up(
    networks: Mapping[str, Network],
    pairs: Sequence[tuple[str, str]],
    variables: Mapping[str, Any],
    views: Mapping[str, View],
) -> dict[str, Outputs]:
    """Gives what is stored of the pairs whose network is a table of logits."""
    return {
        f"{name}@{view}": tables.look_up(variables[name], views[view].index)
        for name, view in pairs
        if name in networks and networks[name].looked_up
    }


def _joint(wanted: Sequence[str], views: Mapping[str, View]) -> list[list[str]]:
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for view in wanted:
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
