"""Networks by name. A new family is one file in `families`, see there, and a row here.

Networks of your own: `create`, and `networks.X.name` in configs, also take
`package.module:attribute`. The attribute is a function or a class that is called as
`attribute(num_classes=C, **options)` and returns one of two things.

1. A Flax Linen module whose `__call__(self, x, train)` takes normalised images `f32[B,H,W,C]` and
   whether BatchNorm and dropout are in training mode, and returns logits `f32[B,num_classes]`, or
   (logits, `{name: feature[B,...]}`). Running statistics are in "batch_stats", and the key of
   dropout is called "dropout", as Flax's own layers have it.
2. An object with `init(key, (height, width)) -> {"params": tree, "batch_stats": tree}`, nested
   dicts of float32 arrays, and `apply(variables, x, *, train, key)`, which returns logits, (logits,
   features), or (logits, features, new batch_stats). NNX and every other library fit in this way.

`docs/examples/network_linen.py` and `network_nnx.py` are complete examples. Losses on features find
them by name; a network without features serves all others. Attributes `min_size` and `native_size`
state the smallest image side in pixels (by default 1) and the usual one (32). A factory that takes
`dtype` receives the type of the computation; without it, "bfloat16" is refused. A Linen module that
takes `mode` in place of `train` receives a `layers.Mode` and so can use `layers.BatchNorm` with
`num_branches`, which its factory must take as well, and `replica_batch_size`; for any other network
several branches and a `replica_batch_size` are refused. Shapes and types are checked whenever the
network is traced, and before anything is computed when an experiment is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral
from types import ModuleType
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import registry
from kdaug_jax.errors import ArgumentError, ConfigError, suggest
from kdaug_jax.models.backbone import Backbone, from_factory, from_linen
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
from kdaug_jax.models.normalization import statistics
from kdaug_jax.models.variables import flatten, folded_norms, mismatches, take_branch
from kdaug_jax.registry import is_import
from kdaug_jax.types import Outputs

__all__ = [
    "Model", "check", "create", "fold_batchnorm", "is_foreign", "names", "register", "take_branch",
]

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

# Factories that `register` was given, by name.
_REGISTERED: dict[str, Callable[..., Any]] = {}

# What Linen and BatchNorm raise for variables that do not fit a module.
_MISFITS = (
    StatisticsError,
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeCollectionNotFound,
)


def names() -> tuple[str, ...]:
    """Returns the networks that exist; families with free numbers list their usual members."""
    return (*_family_names(), *_REGISTERED)


def register(name: str, factory: Callable[..., Any]) -> str:
    """Registers a network of your own under a short name, in this process.

    Args:
      name: what `create` and configs may then call it.
      factory: what `package.module:attribute` would name, see the top of this module.

    Returns:
      The name.

    Raises:
      ArgumentError: a network of this package has that name.
    """
    if name in _family_names():
        raise ArgumentError(f"'{name}' is a network of this package", "use another name")
    _REGISTERED[name] = factory
    return name


def is_foreign(name: str) -> bool:
    """Returns whether a name means a network of a user's own, imported or registered."""
    return name in _REGISTERED or is_import(name)


def create(
    name: str,
    num_classes: int,
    *,
    normalize: str | Sequence[Sequence[float]],
    num_branches: int = 1,
    replica_batch_size: int = 0,
    dtype: str = "float32",
    **options: Any,
) -> Model:
    """Returns a network as a pair of pure functions.

    Args:
      name: one of `names()`, a member of a family with free numbers, such as `wrn_D_K`, or
        `package.module:attribute`, see the top of this module.
      num_classes: width of the logits, C, at least 1.
      normalize: (mean, std) of each channel in pixel units 0..255, from which images become
        (image - mean) / std; or the name of a data set, see `normalization.STATISTICS`. Their
        length is the number of channels.
      num_branches: BatchNorm branches, at least 1.
      replica_batch_size: examples whose statistics BatchNorm takes together in training, a divisor
        of the batch; 0 for the whole batch.
      dtype: "float32" or "bfloat16", of the computation; parameters and logits are float32.
      **options: of the architecture, such as `dropout`, `bits` or `remat`.

    Returns:
      A `Model`; see there for `init` and `apply`.

    Raises:
      ConfigError: unknown name, impossible depth, or an argument out of range. `apply` raises it
        while being traced, for an image that is too small or has other channels, variables of
        another network or number of classes, a branch that does not exist, rows that are not
        whole examples, a `replica_batch_size` that does not divide the batch, and a missing key.
    """
    mean, std = statistics(normalize)
    _check(name, num_classes, num_branches, replica_batch_size, dtype)
    backbone = _backbone(
        name, num_classes, num_branches, replica_batch_size, dtype, len(mean), options
    )

    def normalise(image: jax.Array) -> jax.Array:
        shift = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, -1)
        scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, -1)
        return ((image.astype(jnp.float32) - shift) / scale).astype(dtype)

    structures: set[Any] = set()  # of variables that fit

    def refuse_extra(variables: Variables, size: tuple[int, int]) -> None:
        """Raises ConfigError for variables beside those of the network, which Flax passes over."""
        structure = jax.tree.structure(variables)
        if structure not in structures:
            expected = flatten(jax.eval_shape(lambda: init(jax.random.key(0), size)))
            leaves = flatten(variables)
            shifts = folded_norms(leaves)
            wrong = mismatches({path: leaf for path, leaf in leaves.items() if path not in expected
                                and path.partition("/")[2].rpartition("/")[0] not in shifts}, {})
            if wrong:
                raise ConfigError(
                    "variables", f"of {name} with {num_classes} classes: {wrong}",
                    "use the network that they were made for",
                )
            structures.add(structure)

    def init(key: jax.Array, size: tuple[int, int]) -> Variables:
        """Returns random variables.

        Args:
          key: random key.
          size: (height, width) of the images in pixels.

        Returns:
          `{"params": tree, "batch_stats": tree}` of nested dicts of float32 arrays.

        Raises:
          ConfigError: the images are too small.
        """
        _check_size(name, size, backbone.min_size)
        variables = backbone.init(key, size)
        structures.add(jax.tree.structure(variables))
        return variables

    def apply(
        variables: Variables,
        image: jax.Array,
        *,
        train: bool,
        branches: tuple[int, ...] = (0,),
        key: jax.Array | None = None,
        groups: int = 0,
        record: bool = False,
    ) -> tuple[Outputs, Variables]:
        """Runs the network on a batch of images, which it normalises.

        Args:
          variables: `{"params", "batch_stats"}` as `init` returns them.
          image: `[B*V,H,W,C]` in pixel units 0..255, uint8 or float; view v of example b is row
            `b*V + v`, with V = len(branches).
          train: whether BatchNorm normalises with statistics of the batch, each view with its
            own, and updates the running ones, and dropout is on.
          branches: BatchNorm branch of each view.
          key: random key of dropout and the like; None for a network that draws nothing.
          groups: number of groups of examples that BatchNorm takes statistics of in training; 0
            for groups of `replica_batch_size` examples.
          record: whether running statistics stay as they are in training and what BatchNorm saw is
            returned beside them, so that several parts of a batch make one update.

        Returns:
          `Outputs` with logits `f32[B*V,C]` and features by name, and the new `batch_stats`; with
          `record` a `batchnorm.Recorded`.

        Raises:
          ConfigError: the arguments do not fit the network, or pixels, where they are known, lie
            within 0..1 or beyond 0..255 although the network normalises pixels 0..255.
        """
        _check_channels(name, image.shape, len(mean))
        _check_size(name, image.shape[1:3], backbone.min_size)
        _check_range(image, mean)
        _check_branches(branches, num_branches)
        examples = _examples(image.shape[0], len(branches))
        groups = _groups(examples, groups, replica_batch_size) if train else 1
        mode = Mode(train, tuple(branches), groups, record and train)
        try:
            outputs = backbone.apply(variables, normalise(image), mode, key)
        except _MISFITS:
            expected = jax.eval_shape(lambda: init(jax.random.key(0), image.shape[1:3]))
            wrong = mismatches(flatten(variables), flatten(expected))
            if not wrong:
                raise
            height, width = image.shape[1:3]
            raise ConfigError(
                "variables",
                f"of {name} with {num_classes} classes for images of {width}×{height} "
                f"pixels: {wrong}",
                "use the network, classes and image size that they were made for",
            ) from None
        except flax.errors.InvalidRngError:
            raise ConfigError("key", f"{name} draws at random in training", "give a key") from None
        refuse_extra(variables, image.shape[1:3])
        return outputs

    return Model(
        init, apply, name, num_classes, backbone.min_size, num_branches, backbone.native_size,
        len(mean),
    )


def check(model: Model, size: tuple[int, int], *, train: bool) -> None:
    """Traces a network on images of one size, without computing anything.

    Args:
      model: from `create`.
      size: (height, width) of the images in pixels.
      train: whether it is traced in training mode as well.

    Raises:
      ConfigError: a user's network has other variables, outputs, shapes or types than it must.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key: model.init(key, size), key)
    image = jax.ShapeDtypeStruct((2, *size, model.channels), jnp.uint8)
    for mode in (False, True) if train else (False,):
        jax.eval_shape(
            lambda v, x, key, mode=mode: model.apply(v, x, train=mode, key=key),
            variables, image, key,
        )


def _family_names() -> tuple[str, ...]:
    return tuple(name for family in _FAMILIES for name in family.NAMES)


def _backbone(
    name: str,
    num_classes: int,
    num_branches: int,
    replica_batch_size: int,
    dtype: str,
    channels: int,
    options: dict[str, Any],
) -> Backbone:
    """Returns the network called `name`, from a family, from `register` or from a module."""
    for family in _FAMILIES:
        known = list(inspect.signature(family.build_module).parameters)[4:]
        unknown = [option for option in options if option not in known]
        understood = {option: options[option] for option in options if option in known}
        module = family.build_module(
            name, num_classes, num_branches, jnp.dtype(dtype), **understood
        )
        if module is None:
            continue
        if unknown:
            remedy = suggest(unknown[0], known) if known else "it has no options"
            raise ConfigError("options", f"{name} has no '{unknown[0]}'", remedy)
        return from_linen(module, lambda mode: ((mode,), {}), channels, dtype, family.sizes(name))
    table = dict.fromkeys(_family_names()) | _REGISTERED
    return from_factory(
        name, registry.resolve("name", "network", name, table), num_classes,
        num_branches=num_branches, replica_batch_size=replica_batch_size, dtype=dtype,
        channels=channels, options=options,
    )


def _check(
    name: str, num_classes: int, num_branches: int, replica_batch_size: int, dtype: str
) -> None:
    """Raises ConfigError for an argument of `create` that is out of range."""
    if not isinstance(name, str):
        raise ConfigError("name", f"is {name!r}", "a text, such as 'resnet20'")
    if not _is_whole(num_classes) or num_classes < 1:
        raise ConfigError("num_classes", f"is {num_classes!r}", "a whole number, at least 1")
    if not _is_whole(num_branches) or num_branches < 1:
        raise ConfigError("num_branches", f"is {num_branches!r}", "a whole number, at least 1")
    if not _is_whole(replica_batch_size) or replica_batch_size < 0:
        what = f"is {replica_batch_size!r}"
        raise ConfigError("replica_batch_size", what, "0 for the whole batch, or more")
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
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ConfigError("size", f"is {size!r}", "give (height, width) in pixels")
    if min(size) < min_size:
        raise ConfigError(
            "image",
            f"{name} needs at least {min_size} pixels a side, not {size[1]}×{size[0]}",
            "use larger images or another network",
        )


def _check_range(image: Any, mean: tuple[float, ...]) -> None:
    # Traced values cannot be seen, nor those that other processes hold.
    visible = not isinstance(image, jax.core.Tracer) and getattr(
        image, "is_fully_addressable", True
    )
    if max(mean) <= 1.0 or not visible or image.dtype == jnp.uint8:
        return
    pixels = np.asarray(image)  # not JAX's operations, which a surrounding jit would trace
    if pixels.size and not _are_pixels(pixels.min(), pixels.max(), image.dtype):
        raise ConfigError(
            "image", f"is {image.dtype} with pixels {pixels.min()}..{pixels.max()}",
            "give pixels 0..255, which the network normalises itself",
        )
    if pixels.size and 0.0 <= pixels.min() < pixels.max() <= 1.0:
        raise ConfigError(
            "image", f"has float pixels within 0..1, but the mean is {mean} of pixels 0..255",
            "multiply it by 255",
        )


def _are_pixels(low: Any, high: Any, dtype: Any) -> bool:
    """Returns whether a range can be that of pixels 0..255, not of bits or normalised ones."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return dtype != jnp.bool_ and low >= 0 and high <= 255
    # Bicubic crops in floats go beyond at edges, by less than half of the range.
    return -128 <= low and high <= 383 and not (low < 0 and high <= 16)


def _check_branches(branches: tuple[int, ...], num_branches: int) -> None:
    exist = (_is_whole(branch) and 0 <= branch < num_branches for branch in branches)
    if not branches or not all(exist):
        raise ConfigError(
            "branches",
            f"{tuple(branches)} of a network with {num_branches} BatchNorm branches",
            f"one number in 0..{num_branches - 1} per view",
        )


def _examples(rows: int, views: int) -> int:
    """Returns the number of examples with so many views each."""
    if not rows or rows % views:
        raise ConfigError("image", f"{rows} rows are not whole examples of {views} views")
    return rows // views


def _groups(examples: int, groups: int, replica_batch_size: int) -> int:
    """Returns the number of groups of the examples, as given or from the group size."""
    if groups:
        if groups < 0 or examples % groups:
            raise ConfigError("groups", f"{groups} do not divide {examples} examples", "a divisor")
        return groups
    if examples % (replica_batch_size or examples):
        raise ConfigError(
            "replica_batch_size",
            f"{replica_batch_size} does not divide the batch of {examples}",
            "use a divisor",
        )
    return examples // (replica_batch_size or examples)
