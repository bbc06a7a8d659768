"""A loss with parameters and state: a `Term`, which is a pair of functions and a few facts.

A config names it as
`term("loss_with_parameters:centred_hint", on=("x",), teacher="teacher", features=("pooled",))`.
"""

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses import Term
from kdaug_jax.losses.arrays import flat, masked_mean
from kdaug_jax.types import Fraction


def _init(key, inputs, info, *, momentum):
    """Makes a dense layer from the student's feature to the teacher's, and the teacher's mean."""
    del info, momentum
    student, teacher = inputs[0].chosen_student, inputs[0].chosen_teacher
    if len(student) != 1:
        raise ArgumentError(f"works on one feature and got {len(student)}", "name one")
    rows, columns = (maps[0].size // maps[0].shape[0] for maps in (student, teacher))
    kernel = jax.random.normal(key, (rows, columns), jnp.float32) / jnp.sqrt(float(rows))
    return {"kernel": kernel}, {"mean": jnp.zeros(columns, jnp.float32)}


def _apply(params, state, inputs, context, *, momentum: Fraction = 0.9):
    """Squared distance of the student's mapped feature from the teacher's, less its running mean.

    Args:
      params: "kernel" `f32[D,D']`, trained with the student.
      state: "mean" `f32[D']`, kept in checkpoints.
      inputs: a `TermInput` for each view that the term is on.
      context: position in the run, PRNG key, facts of the data, number of groups.
      momentum: `f32[]`, 0..1, share of the old mean.

    Returns:
      The value `f32[]`, the new state, and metrics as (sum, count).
    """
    del context
    value = jnp.zeros((), jnp.float32)
    for item in inputs:
        student, teacher = flat(item.chosen_student[0]), flat(item.chosen_teacher[0])
        mean = momentum * state["mean"] + (1.0 - momentum) * jnp.mean(teacher, axis=0)
        state = {"mean": mean}
        distance = jnp.square(student @ params["kernel"] - (teacher - mean[None, :]))
        value += masked_mean(jnp.mean(distance, axis=-1), item.view.mask)
    return value, state, {"mean_length": (jnp.linalg.norm(state["mean"]), jnp.float32(1))}


centred_hint = Term(_init, _apply, roles=("student", "teacher"), features=True)
