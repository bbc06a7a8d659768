"""Networks by name. A new family is one file in `families`, see there, and a row here."""

from __future__ import annotations

import inspect
import math
from numbers import Integral
from types import ModuleType
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.models.batchnorm import StatisticsError
from kdaug_jax.models.families import (
    alexnet,
    efficientnet,
    four_stage_resnet,
    lenet,
    mobilenet,
    preresnet,
    pyramidnet,
    resnet,
    rolekd,
    shake,
    shufflenet,
    vgg,
    wrn,
    wrn_variants,
)
from kdaug_jax.models.fold import fold_batchnorm
from kdaug_jax.models.layers import Mode
from kdaug_jax.models.model import DTYPES, Model, Variables
from kdaug_jax.models.variables import flatten, mismatches, take_branch
from kdaug_jax.types import Outputs

__all__ = ["Model", "create", "fold_batchnorm", "names", "take_branch"]

_FAMILIES: tuple[ModuleType, ...] = (
    lenet,
    alexnet,
    resnet,
    four_stage_resnet,
    preresnet,
    wrn,
    wrn_variants,
    vgg,
    mobilenet,
    shufflenet,
    shake,
    pyramidnet,
    rolekd,
    efficientnet,
)

# What Linen and BatchNorm raise for variables that do not fit a module.
_MISFITS = (
    StatisticsError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeCollectionNotFound,
)


def names() -> tuple[str, ...]:
    """Lists the networks that exist; families with free numbers list their usual members."""
    return tuple(name for family in _FAMILIES for name in family.NAMES)


def create(
    name: str,
    num_classes: int,
    *,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    num_branches: int = 1,
    replica_batch_size: int = 0,
    dtype: str = "float32",
    **options: Any,
) -> Model:
    """Gives a network as a pair of pure functions.

    Args:
      name: one of `names()`, or of a family with free numbers, such as `wrn_D_K`.
      num_classes: width of the logits, at least 1.
      mean: per-channel mean that is taken from the pixels, in their units 0..255.
      std: per-channel divisor of the pixels after that; its length is the number of channels.
      num_branches: BatchNorm branches, at least 1.
      replica_batch_size: examples whose statistics BatchNorm takes together in training, a divisor of
        the batch; 0 for the whole batch.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits are float32.
      **options: what the family's `build_module_module` offers besides, such as `dropout`, `bits` or `remat`.

    Returns:
      A `Model`; see there for `init` and `apply`.

    Raises:
      ConfigError: unknown name, impossible depth, or an argument out of range. `apply` raises it
        while being traced, for an image that is too small or has other channels, variables of
        another network or number of classes, a branch that does not exist, rows that are not
        whole examples, a `replica_batch_size` that does not divide the batch, and a missing key.
    """
    _check(name, num_classes, mean, std, num_branches, replica_batch_size, dtype)
    module, (min_size, native_size) = _build(
        name, num_classes, num_branches, jnp.dtype(dtype), options
    )

    def normalise(image: jax.Array) -> jax.Array:
        shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
        scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
        return ((image.astype(jnp.float32) - shift) / scale).astype(dtype)

    def init(key: jax.Array, size: tuple[int, int]) -> Variables:
        _check_size(name, size, min_size)
        image = jnp.zeros((1, *size, len(mean)), dtype)
        variables = module.init({"params": key}, image, Mode(train=False))
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def apply(
        variables: Variables,
        image: jax.Array,
        *,
        train: bool,
        branches: tuple[int, ...] = (0,),
        key: jax.Array | None = None,
        groups: int = 0,
    ) -> tuple[Outputs, Variables]:
        _check_channels(name, image.shape, len(mean))
        _check_size(name, image.shape[1:3], min_size)
        _check_branches(branches, num_branches)
        examples = _examples(image.shape[0], len(branches))
        groups = _groups(examples, groups, replica_batch_size) if train else 1
        mode = Mode(train, tuple(branches), groups)
        mutable = ["batch_stats"] if train else False
        rngs = {} if key is None else {"dropout": key}
        try:
            result = module.apply(variables, normalise(image), mode, mutable=mutable, rngs=rngs)
        except _MISFITS:
            wanted = jax.eval_shape(lambda: init(jax.random.key(0), image.shape[1:3]))
            wrong = mismatches(flatten(variables), flatten(wanted))
            if not wrong:
                raise
            raise ConfigError(
                "variables",
                f"of {name} with {num_classes} classes for {image.shape[1]}×{image.shape[2]} "
                f"pixels: {wrong}",
                "use the network, classes and image size that they were made for",
            ) from None
        except flax.errors.InvalidRngError:
            raise ConfigError("key", f"{name} draws at random in training", "give a key") from None
        if not train:
            return result, variables.get("batch_stats", {})
        outputs, changed = result
        return outputs, changed.get("batch_stats", {})

    facts = (name, num_classes, min_size, num_branches, native_size, len(mean))
    return Model(init, apply, *facts)


def _build(
    name: str, num_classes: int, num_branches: int, dtype: Any, options: dict[str, Any]
) -> tuple[nn.Module, tuple[int, int]]:
    """Gives the module called `name`, and its smallest and native image side."""
    for family in _FAMILIES:
        known = list(inspect.signature(family.build_module).parameters)[4:]
        unknown = [option for option in options if option not in known]
        understood = {option: options[option] for option in options if option in known}
        module = family.build_module(name, num_classes, num_branches, dtype, **understood)
        if module is None:
            continue
        if unknown:
            raise ConfigError("options", f"{name} has no '{unknown[0]}'", suggest(unknown[0], known))
        return module, family.sizes(name)
    raise ConfigError("name", f"unknown network '{name}'", suggest(name, names()))


def _check(
    name: str,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_branches: int,
    replica_batch_size: int,
    dtype: str,
) -> None:
    """Raises ConfigError for an argument of `create` that is out of range."""
    if not isinstance(name, str):
        raise ConfigError("name", f"is {name!r}", "a word, such as 'resnet20'")
    if not _is_whole(num_classes) or num_classes < 1:
        raise ConfigError("num_classes", f"is {num_classes!r}", "a whole number, at least 1")
    if not mean or len(mean) != len(std):
        raise ConfigError("std", f"has {len(std)} values, mean {len(mean)}", "one per channel")
    if not all(math.isfinite(value) for value in mean):
        raise ConfigError("mean", f"is {mean}", "finite values")
    if not all(0.0 < value < math.inf for value in std):
        raise ConfigError("std", f"is {std}", "every value above 0 and finite")
    if not _is_whole(num_branches) or num_branches < 1:
        raise ConfigError("num_branches", f"is {num_branches!r}", "a whole number, at least 1")
    if not _is_whole(replica_batch_size) or replica_batch_size < 0:
        raise ConfigError("replica_batch_size", f"is {replica_batch_size!r}", "0 for the whole batch, or more")
    if dtype not in DTYPES:
        raise ConfigError("dtype", f"unknown type '{dtype}'", suggest(str(dtype), DTYPES))


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_channels(name: str, shape: tuple[int, ...], channels: int) -> None:
    # One channel would be broadcast to all of the mean without a word.
    if len(shape) != 4 or shape[3] != channels:
        raise ConfigError(
            "image",
            f"has shape {tuple(shape)}, but {name} has the mean of {channels} channels",
            f"[rows, height, width, {channels}]",
        )


def _check_size(name: str, size: tuple[int, ...], min_size: int) -> None:
    if min(size) < min_size:
        raise ConfigError(
            "image",
            f"{name} needs at least {min_size} pixels a side, not {size[0]}×{size[1]}",
            "use larger images or another network",
        )


def _check_branches(branches: tuple[int, ...], num_branches: int) -> None:
    exist = (_is_whole(branch) and 0 <= branch < num_branches for branch in branches)
    if not branches or not all(exist):
        raise ConfigError(
            "branches",
            f"{tuple(branches)} of a network with {num_branches} BatchNorm branches",
            f"one number in 0..{num_branches - 1} per view",
        )


def _examples(rows: int, views: int) -> int:
    """Gives how many examples of so many views the rows are."""
    if not rows or rows % views:
        raise ConfigError("image", f"{rows} rows are not whole examples of {views} views")
    return rows // views


def _groups(examples: int, groups: int, replica_batch_size: int) -> int:
    """Gives the number of groups of the examples, from it or from their size."""
    if groups:
        if groups < 0 or examples % groups:
            raise ConfigError("groups", f"{groups} do not divide {examples} examples", "a divisor")
        return groups
    if examples % (replica_batch_size or examples):
        raise ConfigError(
            "replica_batch_size", f"{replica_batch_size} does not divide the batch of {examples}", "use a divisor"
        )
    return examples // (replica_batch_size or examples)
