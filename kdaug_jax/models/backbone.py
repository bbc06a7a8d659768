"""Brings every kind of network to one form: variables, and a function of normalised images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.models.batchnorm import OBSERVED, Recorded
from kdaug_jax.models.layers import Mode
from kdaug_jax.models.model import Variables
from kdaug_jax.models.variables import flatten, mismatches
from kdaug_jax.types import Outputs

# Arguments of `models.create` that are handed to a user's factory where it names them.
_OPTIONAL = ("num_branches", "dtype")
_NATIVE_SIZE = 32


class Backbone(NamedTuple):
    """A network on images that are normalised already.

    Attributes:
      init: `init(key, (height, width)) -> {"params", "batch_stats"}`.
      apply: `apply(variables, image[B*V,H,W,C], mode, key) -> (Outputs, batch_stats)`; with
        `mode.record` the latter is a `batchnorm.Recorded`.
      min_size: the smallest legal image side in pixels.
      native_size: the image side in pixels that the network was made for.
    """

    init: Callable[..., Variables]
    apply: Callable[..., Any]
    min_size: int
    native_size: int


def from_linen(
    module: nn.Module,
    call: Callable[[Mode], tuple[tuple, dict]],
    channels: int,
    dtype: str,
    sizes: tuple[int, int],
) -> Backbone:
    """Returns the backbone that a Linen module is.

    Args:
      module: maps normalised images and what `call` returns to its result.
      call: `call(mode) -> (args, kwargs)` of the module's `__call__` after the image.
      channels: of the images.
      dtype: type of the images.
      sizes: the smallest and the native image side in pixels.

    Returns:
      A `Backbone` whose `apply` returns what the module does for `Outputs`.
    """

    def init(key: jax.Array, size: tuple[int, int]) -> Variables:
        args, kwargs = call(Mode(train=False))
        image = jnp.zeros((1, *size, channels), dtype)
        variables = module.init({"params": key}, image, *args, **kwargs)
        return {"params": {}, "batch_stats": {}, **variables}

    def apply(variables: Variables, image: jax.Array, mode: Mode, key: jax.Array | None) -> Any:
        args, kwargs = call(mode)
        collections = ["batch_stats", OBSERVED] if mode.record else ["batch_stats"]
        kwargs["mutable"] = collections if mode.train else False
        kwargs["rngs"] = {} if key is None else {"dropout": key}
        result = module.apply(variables, image, *args, **kwargs)
        if not mode.train:
            return result, variables.get("batch_stats", {})
        outputs, changed = result
        statistics = changed.get("batch_stats", {})
        if mode.record:
            return outputs, Recorded(statistics, (changed.get(OBSERVED, {}),))
        return outputs, statistics

    return Backbone(init, apply, *sizes)


def from_factory(
    name: str,
    factory: Any,
    num_classes: int,
    *,
    num_branches: int,
    replica_batch_size: int,
    dtype: str,
    channels: int,
    options: Mapping[str, Any],
) -> Backbone:
    """Returns the backbone that a user's factory or module class makes.

    Args:
      name: of the network, for messages.
      factory: see `kdaug_jax.models`, "Networks of your own".
      num_classes: width of the logits, C.
      num_branches: BatchNorm branches.
      replica_batch_size: see `models.create`.
      dtype: type of the computation.
      channels: of the images.
      options: arguments of the factory besides.

    Returns:
      A `Backbone` that checks what the network returns whenever it is traced.

    Raises:
      ConfigError: the factory does not take these arguments, or makes no network.
    """
    known = _parameters(name, factory)
    settings = {"num_branches": num_branches, "dtype": jnp.dtype(dtype)}
    arguments = {key: settings[key] for key in _OPTIONAL if key in known}
    _check_options(name, known, options, {"num_classes", *arguments})
    if dtype != "float32" and "dtype" not in known:
        raise ConfigError(
            "dtype", f"{name} takes no argument 'dtype', so it cannot compute in {dtype}",
            "add the argument, or use float32",
        )
    network = factory(num_classes=num_classes, **arguments, **options)
    sizes = _sizes(name, network)
    if isinstance(network, nn.Module):
        takes_mode, call = _convention(name, network)
        backbone = from_linen(network, call, channels, dtype, sizes)
    elif callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None)):
        takes_mode, backbone = False, _from_functions(network, sizes)
    else:
        raise ConfigError(
            "name", f"{name} makes a {type(network).__name__}, which is no network",
            "return a Linen module, or an object with init and apply; see kdaug_jax.models",
        )
    if num_branches > 1 and not (takes_mode and "num_branches" in known):
        raise ConfigError(
            "num_branches", f"{name} has one set of BatchNorm statistics, not {num_branches}",
            "use one branch for all views, or take 'num_branches' and 'mode'; see kdaug_jax.models",
        )
    if replica_batch_size and not takes_mode:
        raise ConfigError(
            "replica_batch_size", f"{name} cannot split the batch for its BatchNorm statistics",
            "use 0, or take 'mode' instead of 'train'; see kdaug_jax.models",
        )
    return _checked(name, num_classes, backbone if takes_mode else _view_by_view(backbone))


def _parameters(name: str, factory: Any) -> Mapping[str, inspect.Parameter]:
    remedy = "name a function or a Linen module class that takes 'num_classes'"
    if not callable(factory):
        raise ConfigError("name", f"{name} is a {type(factory).__name__}", remedy)
    parameters = inspect.signature(factory).parameters
    if not _takes(parameters, "num_classes"):
        raise ConfigError("name", f"{name} takes no argument 'num_classes'", remedy)
    return parameters


def _takes(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_options(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    given: set[str],
) -> None:
    hidden = {*given, *_OPTIONAL, "parent", "name"}  # the last two are Linen's
    public = [key for key, p in parameters.items()
              if key not in hidden and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for key in options:
        if key in hidden or not _takes(parameters, key):
            remedy = suggest(key, public) if public else "it has no options"
            raise ConfigError("options", f"{name} has no '{key}'", remedy)
    for key in public:
        if parameters[key].default is inspect.Parameter.empty and key not in options:
            raise ConfigError("options", f"{name} needs '{key}'", f"options={{'{key}': ...}}")


def _sizes(name: str, network: Any) -> tuple[int, int]:
    smallest = getattr(network, "min_size", 1)
    native = getattr(network, "native_size", max(_NATIVE_SIZE, smallest))
    for field, size in (("min_size", smallest), ("native_size", native)):
        if not isinstance(size, int) or size < 1:
            raise ConfigError("name", f"{name} has {field} {size!r}", "pixels, at least 1")
    return smallest, native


def _convention(name: str, module: nn.Module) -> tuple[bool, Callable[[Mode], tuple[tuple, dict]]]:
    """Returns whether a module takes the whole `Mode`, and how it is called."""
    parameters = inspect.signature(type(module).__call__).parameters
    if "mode" in parameters:
        return True, lambda mode: ((), {"mode": mode})
    if "train" in parameters:
        return False, lambda mode: ((), {"train": mode.train})
    raise ConfigError(
        "name", f"{name}: {type(module).__name__}.__call__ takes no argument 'train'",
        "write __call__(self, x, train)",
    )


def _from_functions(network: Any, sizes: tuple[int, int]) -> Backbone:
    def apply(variables: Variables, image: jax.Array, mode: Mode, key: jax.Array | None) -> Any:
        result = network.apply(variables, image, train=mode.train, key=key)
        if isinstance(result, tuple) and len(result) == 3:
            return result[:2], result[2]
        return result, variables["batch_stats"]

    return Backbone(network.init, apply, *sizes)


def _view_by_view(backbone: Backbone) -> Backbone:
    """Trains on the views of a batch one after the other, so that each has its own statistics."""

    def apply(variables: Variables, image: jax.Array, mode: Mode, key: jax.Array | None) -> Any:
        views = len(mode.branches)
        if not mode.train or views == 1 and not mode.record:
            return backbone.apply(variables, image, mode, key)
        split = image.reshape(-1, views, *image.shape[1:])
        results, statistics = [], variables["batch_stats"]
        for view in range(views):
            view_key = key if key is None or views == 1 else jax.random.fold_in(key, view)
            result, statistics = backbone.apply(
                {**variables, "batch_stats": statistics}, split[:, view], Mode(train=True), view_key
            )
            results.append(result)
        statistics = Recorded(statistics, ()) if mode.record else statistics
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays, axis=1), *results)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked), statistics

    return backbone._replace(apply=apply)


def _checked(name: str, num_classes: int, backbone: Backbone) -> Backbone:
    """Checks variables and outputs of a user's network by their shapes and types."""

    def refuse(what: str, remedy: str) -> ConfigError:
        return ConfigError("name", f"{name} {what}", remedy)

    def init(key: jax.Array, size: tuple[int, int]) -> Variables:
        variables = backbone.init(key, size)
        if not _is_tree(variables) or set(variables) != {"params", "batch_stats"}:
            kind = sorted(map(str, variables)) if _is_tree(variables) else "another structure"
            raise refuse(
                f"has variables with {kind}",
                'return {"params": ..., "batch_stats": ...} of nested dicts with texts as keys',
            )
        for path, leaf in flatten(variables).items():
            if leaf.dtype != np.float32:
                raise refuse(f"keeps {path} as {leaf.dtype}", "keep variables as float32")
        return variables

    def apply(variables: Variables, image: jax.Array, mode: Mode, key: jax.Array | None) -> Any:
        result, statistics = backbone.apply(variables, image, mode, key)
        outputs = _as_outputs(result)
        if outputs is None:
            raise refuse(
                f"returns {type(result).__name__}", "return logits or (logits, dict of features)"
            )
        rows, logits = image.shape[0], outputs.logits
        if logits.shape != (rows, num_classes) or logits.dtype != np.float32:
            raise refuse(
                f"returns logits {logits.dtype}{list(logits.shape)} for {rows} images",
                f"return float32{[rows, num_classes]}",
            )
        for feature, value in outputs.features.items():
            if getattr(value, "shape", ())[:1] != (rows,):
                raise refuse(
                    f"returns the feature '{feature}' of shape {list(np.shape(value))} "
                    f"for {rows} images", "return arrays [B,...]",
                )
        changed = statistics.statistics if mode.record else statistics
        before, after = (flatten({"batch_stats": tree})
                         for tree in (variables.get("batch_stats", {}), changed))
        if wrong := mismatches(after, before):
            raise refuse(f"changes its batch_stats: {wrong}", "return them as init does")
        return outputs, statistics

    return backbone._replace(init=init, apply=apply)


def _as_outputs(result: Any) -> Outputs | None:
    if isinstance(result, Outputs):
        return result
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return Outputs(*result)
    return Outputs(result, {}) if isinstance(result, jax.Array) else None


def _is_tree(tree: Any) -> bool:
    """Returns whether `tree` is nested dicts of arrays, with keys that may stand in a path."""
    return isinstance(tree, dict) and all(
        isinstance(key, str) and "/" not in key and (_is_tree(value) or hasattr(value, "dtype"))
        for key, value in tree.items()
    )
