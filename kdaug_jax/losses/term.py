"""The forms of a loss: a plain function, a `Loss` and a `Term`.

A config names a loss by its row in `kdaug_jax.losses.LOSSES`, or as `package.module:attribute` of
your own (see `kdaug_jax.registry`); both may be of any of three forms.

A **plain function** is a loss whose argument names are roles:

    f(student, [teacher,] [labels,] [student_features,] [teacher_features,] *, options)
      -> f32[B] or f32[]

- `student`, `teacher`: logits `f32[B,C]`,
- `labels`: class probabilities `f32[B,C]`,
- `student_features`, `teacher_features`: dicts of all activations by name, see `Outputs.features`.

It takes at least one role. All its other arguments are options that the config may set; those with
an annotation of `kdaug_jax.types`, such as `Positive`, are traced and may be swept or scheduled. A
result `f32[B]` is averaged over the examples that count, a result `f32[]` over the groups of the
batch. docs/examples/loss_plain.py is a complete one.

A **`Loss`** is such a function on activations that the config chooses (`features=`), or one that
compares the examples of a group.

A **`Term`** is a loss with parameters or state, or one that looks at several views together.
docs/examples/loss_with_parameters.py is a complete one.

Arguments and shapes that do not fit are refused with `kdaug_jax.errors.ArgumentError(what is wrong,
what would be right)`, which becomes one line with the config path. Any other exception is a
programming error and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdaug_jax.types import Clock, Info, Outputs, View


class TermInput(NamedTuple):
    """The inputs of a term on one of its views.

    Attributes:
      student: outputs of the trained network.
      teacher: outputs of the teacher on its view, or None; constants unless `detach=False`.
      view: the view itself, with its labels and indices.
      chosen_student, chosen_teacher: the activations that the config chose, in its order.
      teacher_norms: for a term that reads them, in `init`: the frozen teacher's BatchNorm before
        each of them, `{"scale", "bias"}` of `f32[C]`, or None where it is not known.
    """

    student: Outputs
    teacher: Outputs | None
    view: View
    chosen_student: tuple[jax.Array, ...] = ()
    chosen_teacher: tuple[jax.Array, ...] = ()
    teacher_norms: tuple[dict[str, jax.Array] | None, ...] = ()


class Context(NamedTuple):
    """What a term may depend on beside its inputs.

    Attributes:
      clock: position in the run.
      key: the term's PRNG key of this step.
      info: facts of the training split.
      groups: number of groups in the batch, see `train.replica_batch_size`.
    """

    clock: Clock
    key: jax.Array
    info: Info
    groups: int


class Loss(NamedTuple):
    """A plain loss on activations, or one that compares the examples of a group.

    Attributes:
      function: `f(student, [teacher,] [labels,] *, options) -> f32[B] or f32[]`.
      features: what `student` and `teacher` are: "" logits; "each" one activation, and the loss is
        summed over those that the config chooses; "all" tuples of all that the config chooses.
      min_group: smallest number of examples in a group.
    """

    function: Callable[..., jax.Array]
    features: str = ""
    min_group: int = 1


class RowUpdate(NamedTuple):
    """New rows of an array in a term's state, not yet written into it.

    The step writes them once it is known that the update is kept: selecting between a large old and
    a large new array would read and write all of both.

    Attributes:
      array: `[N,...]`, as it was given to `Term.apply`.
      rows: `i32[B]`, which rows to replace; those out of range are skipped.
      values: `[B,...]`, the new rows.
    """

    array: jax.Array
    rows: jax.Array
    values: jax.Array


def merged(first: RowUpdate, second: RowUpdate) -> RowUpdate:
    """Returns two updates as one of the array before both.

    Args:
      first: an update.
      second: one of the array that `first` writes; its rows win.
    """
    again = jnp.any(first.rows[:, None] == second.rows[None, :], axis=1)
    rows = jnp.where(again, first.array.shape[0], first.rows)
    return RowUpdate(
        first.array, jnp.concatenate([rows, second.rows]),
        jnp.concatenate([first.values, second.values]),
    )


def is_update(leaf: Any) -> bool:
    """Returns whether a leaf of a term's state is a `RowUpdate`."""
    return isinstance(leaf, RowUpdate)


def written(tree: Any, keep: ArrayLike = True) -> Any:
    """Applies the `RowUpdate`s of a tree of states.

    Args:
      tree: states of terms.
      keep: `bool[]`, whether the rows are written.

    Returns:
      The tree with plain arrays.
    """

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
        `(sum, count)`; arrays of the state may be returned as `RowUpdate`.
      roles: the roles it needs, from "student", "teacher", "labels".
      no_decay: top-level names in `params` that are exempt from weight decay.
      features: whether it works on activations that the config chooses.
      min_group: smallest number of examples in a group.
      plain: whether it is a function of logits and labels that fits any experiment.
      joint: whether it looks at its views together, so that they must hold the same examples.
      unique_examples: requires unique examples (indexes a memory bank).
      reads_norms: whether `init` is given values of the teacher's BatchNorm, see `TermInput`.
      predict_ensemble: `predict_ensemble(params, logits f32[N,B,C], **options) -> (f32[B,C],
        {name: f32[]})`, the ensemble's logits on a view, from those of the members of a joint term,
        and metrics; evaluated beside the networks. None for a term that is no ensemble.
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
    reads_norms: bool = False
    predict_ensemble: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] | None = None
