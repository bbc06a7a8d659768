"""The nouns that every room of the package shares: plain structs, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import flax.struct
import jax
import numpy as np
from jax.typing import ArrayLike


@flax.struct.dataclass
class Batch:
    """One batch of stored examples, as a data source gives it.

    Attributes:
      image: `u8[B,H,W,C]`, RGB pixels 0..255.
      label: `i32[B]`, class numbers.
      index: `i32[B]`, position of each example in its base split.
      mask: `bool[B]`, False on rows that only fill the batch up.
    """

    image: jax.Array
    label: jax.Array
    index: jax.Array
    mask: jax.Array


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
    """What a network says of a view.

    Attributes:
      logits: `f32[B,C]`.
      features: intermediate activations by name, as listed in each network's docstring.
    """

    logits: jax.Array
    features: dict[str, jax.Array]


@flax.struct.dataclass
class Clock:
    """The position in a run that randomness and schedules may depend on (all traced).

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
    """What is known of the training split before anything is traced.

    Attributes:
      num_classes: number of classes, C.
      size: (height, width) of the stored images in pixels.
      labels: `i32[N]`, the labels of the training split.
      mean: per-channel mean in pixel units 0..255.
      std: per-channel standard deviation in pixel units.
      index: `i32[N]`, the position of each training example in its base split, or None for 0..N-1.
    """

    num_classes: int
    size: tuple[int, int]
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    index: np.ndarray | None = None


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes, and all that a checkpoint holds.

    Attributes:
      step: `i32[]`, optimiser steps taken; the position in the data follows from it.
      params: `{network: tree, ..., "terms": {term: tree}}`, what gradients reach.
      network_state: `{network: tree}`, running statistics of the trained networks.
      term_state: `{term: tree}`, such as memory banks.
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
      hint: what to do instead of a value that is too low, for messages.
    """

    dtype: Any
    low: float = -np.inf
    high: float | str = np.inf
    open: bool = False
    hint: str = ""


# Annotations of keyword arguments that a program traces. An argument annotated with one of them
# may be swept without a new compilation; every other argument sets a shape, a loop count or a
# table, and is part of the compiled program.
NonNegative = Annotated[ArrayLike, Range(np.float32, low=0.0)]
Positive = Annotated[ArrayLike, Range(np.float32, low=0.0, open=True)]
Fraction = Annotated[ArrayLike, Range(np.float32, low=0.0, high=1.0)]
Level = Annotated[ArrayLike, Range(np.int32, low=0)]
ClassCount = Annotated[ArrayLike, Range(np.int32, low=1, high="num_classes")]

# A named colour: "mean" (of the training split), "black", or one grey level 0..255.
Fill = Annotated[str | int | tuple[int, ...], "fill"]

Hparams = Mapping[str, jax.Array]
