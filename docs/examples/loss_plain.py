"""A plain loss: a function whose argument names are roles.

A config names it as `term("loss_plain:confident_kl", on=("x",), teacher="teacher", threshold=0.5)`.
"""

import jax
import jax.numpy as jnp

from kdaug_jax.losses import kl
from kdaug_jax.types import Fraction, Positive


def confident_kl(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, *,
    threshold: Fraction = 0.5, temperature: Positive = 4.0,
) -> jax.Array:
    """Divergence from the teacher where it gives the label's class a probability above a threshold.

    Args:
      student: `f32[B,C]`, logits.
      teacher: `f32[B,C]`, logits.
      labels: `f32[B,C]`, class probabilities.
      threshold: `f32[]`, 0..1; may be swept, because its annotation makes it traced.
      temperature: `f32[]`, T > 0; likewise.

    Returns:
      `f32[B]`, one value an example; the step averages it over the batch.
    """
    confidence = jnp.sum(labels * jax.nn.softmax(teacher), axis=-1)
    return jnp.where(confidence > threshold, kl(student, teacher, temperature=temperature), 0.0)
