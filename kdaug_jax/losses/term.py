"""What a loss term is: the row type of the loss table `kdaug_jax.losses.LOSSES`, beside functions.

A plain loss is a function whose positional parameters are roles:

    f(student, [teacher,] [labels,] [student_features,] [teacher_features,] *, options) -> f32[B] or f32[]

`student` and `teacher` are logits `f32[B,C]`, `labels` are class probabilities `f32[B,C]`, features
are dicts of activations. A plain loss on chosen activations, or one that compares examples, is put
into a `Loss`. A loss with parameters or state of its own is a `Term`.

Losses refuse shapes that do not fit with `ValueError(what is wrong, what would be right)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax.types import Clock, Info, Outputs, View


class TermInput(NamedTuple):
    """What a term is given of one of the views it is put on.

    Attributes:
      student: outputs of the network that learns from the term.
      teacher: outputs of the teacher on its view, detached unless asked otherwise, or None.
      view: the view itself, with its labels and indices.
      student_features, teacher_features: the activations that the config chose, in its order.
    """

    student: Outputs
    teacher: Outputs | None
    view: View
    student_features: tuple[jax.Array, ...] = ()
    teacher_features: tuple[jax.Array, ...] = ()


class Context(NamedTuple):
    """What a term may depend on beside its inputs.

    Attributes:
      clock: position in the run.
      key: a key of the term's own for this step.
      info: facts of the training split.
      groups: into how many groups the batch is split (see `train.replica_batch_size`).
    """

    clock: Clock
    key: jax.Array
    info: Info
    groups: int


class Loss(NamedTuple):
    """A plain loss on activations, or one that compares the examples of a group.

    Attributes:
      function: `f(student, [teacher,] [labels,] *, options) -> f32[B] or f32[]`.
      features: what student and teacher are: "" logits; "each" one activation, and the loss is summed
        over those that the config chooses; "all" tuples of all that the config chooses.
      least: the fewest examples a group may hold.
    """

    function: Callable[..., jax.Array]
    features: str = ""
    min_group: int = 1


class RowUpdate(NamedTuple):
    """New rows of an array in a term's state, not yet written into it.

    The step writes them when it knows that it keeps them: choosing between a large old and a large
    new array would read and write all of both.

    Attributes:
      array: `[N,...]`, as it was.
      rows: `i32[B]`, which to replace; those out of range are left out.
      values: `[B,...]`.
    """

    array: jax.Array
    rows: jax.Array
    values: jax.Array


def is_update(leaf: Any) -> bool:
    """Says whether a leaf of a term's state is a `RowUpdate`."""
    return isinstance(leaf, RowUpdate)


def written(tree: Any, keep: ArrayLike = True) -> Any:
    """Writes the rows that wait in a tree of states, where `keep` `bool[]`; gives plain arrays."""

    def write(leaf):
        if not is_update(leaf):
            return leaf
        rows = jnp.where(keep, leaf.rows, leaf.array.shape[0])
        return leaf.array.at[rows].set(leaf.values.astype(leaf.array.dtype), mode="drop")

    return jax.tree.map(write, tree, is_leaf=is_update)


class Term(NamedTuple):
    """A loss with parameters or state.

    Attributes:
      init: `init(key, inputs, info, **options) -> (params, state)`, nested dicts, from inputs of
        which only shapes may be used.
      apply: `apply(params, state, inputs, context, **options) -> (value f32[], state,
        metrics)`; `inputs` is a tuple of one `TermInput` a view, `metrics` maps names to
        `(sum, count)`; arrays of the state may come back as `RowUpdate`.
      roles: the roles it needs, from "student", "teacher", "labels".
      no_decay: the top-level names in `params` that weight decay leaves alone.
      features: whether it works on activations that the config chooses.
      least: the fewest examples a group may hold.
      plain: whether it is a function of logits and labels that fits any experiment.
      joint: whether it looks at its views together, so that they must hold the same examples.
      once: whether each example may come only once, as where something is kept for it.
      predict_ensemble: `predict_ensemble(params, logits f32[N,B,C], **options) -> (f32[B,C], {name: f32[]})`: what the
        members of a joint term say together of a view, and facts worth telling with it; evaluated
        beside the networks. None for a term that says nothing of its own.
    """

    init: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    apply: Callable[..., tuple[jax.Array, dict[str, Any], dict[str, Any]]]
    roles: tuple[str, ...] = ("student", "teacher")
    no_decay: tuple[str, ...] = ()
    features: bool = False
    min_group: int = 1
    plain: bool = False
    joint: bool = False
    unique_examples: bool = False
    predict_ensemble: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] | None = None
