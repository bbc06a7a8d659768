"""Structs that every part of the package shares, features by name, and class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import flax.struct
import jax
import numpy as np
from jax.typing import ArrayLike

from kdaug_jax.errors import ArgumentError

# The feature that every network has.
LOGITS = "logits"


@flax.struct.dataclass
class Batch:
    """One batch of stored examples, as a data source returns it.

    Attributes:
      image: `u8[B,H,W,C]`, RGB pixels 0..255; None where no view starts from whole images.
      label: `i32[B]`, class numbers.
      index: `i32[B]`, position of each example in its base split.
      mask: `bool[B]`, False on rows that only fill the batch up.
      crops: `[B*draws,H,W,C]` by view, for views whose first stages are carried out on the host;
        draw d of example b is row b*draws+d.
    """

    image: jax.Array | None
    label: jax.Array
    index: jax.Array
    mask: jax.Array
    crops: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class View:
    """One augmented view of a batch; every network that is run on it sees the same pixels.

    Attributes:
      image: `[B,H,W,C]` in pixel units 0..255; uint8 until a stage mixes images.
      target: `f32[B,C]`, class probabilities (one-hot until a stage mixes labels).
      label: `i32[B]`, the class of the image that the view was made from.
      index: `i32[B]`, position of that image in its base split.
      mask: `bool[B]`, False on rows that only fill the batch up.
    """

    image: jax.Array
    target: jax.Array
    label: jax.Array
    index: jax.Array
    mask: jax.Array


@flax.struct.dataclass
class Outputs:
    """Outputs of a network on a view.

    Attributes:
      logits: `f32[B,C]`.
      features: activations by name, as listed in each network's docstring.
    """

    logits: jax.Array
    features: dict[str, jax.Array]


def need_class_numbers(label: ArrayLike, classes: int, mask: ArrayLike | None = None) -> None:
    """Validates class numbers where their values are known, outside of traced code.

    Traced ones cannot be looked at; who takes them says what others than 0..C-1 count as.

    Args:
      label: `i32[...]`, class numbers.
      classes: C.
      mask: `bool[...]`, False on rows that do not count; all count by default.

    Raises:
      ArgumentError: one that counts is not 0..C-1.
    """
    if not (is_known(label) and is_known(mask)):
        return
    values = np.asarray(label)
    wrong = ((values < 0) | (values >= classes)) & (True if mask is None else np.asarray(mask))
    if wrong.any():
        raise ArgumentError(
            f"got class number {values[wrong][0]} with {classes} classes",
            f"must be 0..{classes - 1}",
        )


def is_known(array: Any) -> bool:
    """Returns whether the values of an array can be looked at: neither traced nor elsewhere."""
    return not isinstance(array, jax.core.Tracer) and getattr(array, "is_fully_addressable", True)


def features_of(outputs: Outputs) -> dict[str, jax.Array]:
    """Returns a network's logits, as "logits", and its activations by name."""
    return {LOGITS: outputs.logits, **outputs.features}


def select_features(
    outputs: Outputs, names: Sequence[str], networks: Sequence[str]
) -> tuple[jax.Array, ...]:
    """Selects activations by name.

    Args:
      outputs: outputs of one network, or the average of several.
      names: of the activations, or "logits".
      networks: who computed the outputs, for messages.

    Returns:
      The activations in the order of `names`.

    Raises:
      ArgumentError: there is no such feature.
    """
    features = features_of(outputs)
    it, has = ("it", "has") if len(networks) == 1 else ("they", "have")
    for name in names:
        if name not in features:
            raise ArgumentError(
                f"{' and '.join(networks)} {has} no feature '{name}'",
                f"{it} {has} " + ", ".join(features),
            )
    return tuple(features[name] for name in names)


@flax.struct.dataclass
class Clock:
    """The position in a run, on which randomness and schedules depend (all traced).

    Attributes:
      seed: `u32[]`, seed of the views and of dropout.
      epoch: `i32[]`, whole passes over the training split so far.
      step: `i32[]`, optimiser steps so far.
      part: `i32[]`, which micro-batch of the step, where gradients are accumulated.
    """

    seed: jax.Array
    epoch: jax.Array
    step: jax.Array
    part: jax.Array | int = 0


class Info(NamedTuple):
    """Facts of the training split that are known before anything is traced.

    Attributes:
      num_classes: number of classes, C.
      size: (height, width) of the stored images in pixels; of a data set of mixed sizes, what the
        leading crop of the first view makes of them, and None before the views are known.
      labels: `i32[N]`, the labels of the training split.
      mean: per-channel mean in pixel units 0..255.
      std: per-channel standard deviation in pixel units.
      index: `i32[N]`, the position of each training example in its base split, or None for 0..N-1.
      mixed: which sizes stored images have, for messages; empty where they have one.
      host_crops: whether the leading crops of views are cut on the host while images are decoded,
        as those of mixed sizes must be.
      class_names: in the order of the labels; empty where there are none.
    """

    num_classes: int
    size: tuple[int, int] | None
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    index: np.ndarray | None = None
    mixed: str = ""
    host_crops: bool = False
    class_names: tuple[str, ...] = ()


@flax.struct.dataclass
class TrainState:
    """The state that a training step updates and a checkpoint stores.

    Attributes:
      step: `i32[]`, optimiser steps taken; the position in the data follows from it.
      params: `{network: tree, ..., "terms": {term: tree}}`, the trained parameters.
      network_state: `{network: tree}`, BatchNorm statistics of the trained networks.
      term_state: `{term: tree}`, state of the loss terms, such as memory banks.
      opt_state: the state of the optax chain.
      ema: `{"params": tree, "network_state": tree}`, averaged weights, or `{}` when off.
    """

    step: jax.Array
    params: dict[str, Any]
    network_state: dict[str, Any]
    term_state: dict[str, Any]
    opt_state: Any
    ema: dict[str, Any]


class Range(NamedTuple):
    """The legal values of a traced argument, kept in its annotation.

    Attributes:
      dtype: numpy dtype of the traced array.
      low: smallest legal value.
      high: largest legal value: a number, or the name of a field of `Info`.
      open: True when `low` itself is not legal.
      hint: remedy for a value that is too low, for messages.
    """

    dtype: Any
    low: float = -np.inf
    high: float | str = np.inf
    open: bool = False
    hint: str = ""


# Annotations of keyword arguments that a program traces: they may be swept without a new
# compilation. Every other argument sets a shape, a loop count or a table and is part of the
# compiled program.
NonNegative = Annotated[ArrayLike, Range(np.float32, low=0.0)]
Positive = Annotated[ArrayLike, Range(np.float32, low=0.0, open=True)]
Fraction = Annotated[ArrayLike, Range(np.float32, low=0.0, high=1.0)]
Level = Annotated[ArrayLike, Range(np.int32, low=0)]
ClassCount = Annotated[ArrayLike, Range(np.int32, low=1, high="num_classes")]

# A named colour: "mean" (of the training split), "black", or one grey level 0..255.
Fill = Annotated[str | int | tuple[int, ...], "fill"]

Hparams = Mapping[str, jax.Array]
