"""Losses on the matrix of softened probabilities: by rows (examples), columns (classes), Grams.

They compare the examples of a group, so that each returns one value a group.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import centred, matmul, need_logits
from kdaug_jax.losses.response import kl, soften
from kdaug_jax.types import NonNegative, Positive


def dist(
    student: jax.Array,
    teacher: jax.Array,
    *,
    beta: NonNegative = 1.0,
    gamma: NonNegative = 1.0,
    temperature: Positive = 1.0,
    standardize: bool = False,
) -> jax.Array:
    """T^2 (beta (1 - correlation of rows) + gamma (1 - correlation of columns)), both averaged.

    Rows are an example's probabilities of all classes (inter-class), columns a class's
    probabilities over the examples of the group (intra-class); correlation is Pearson's. The paper
    takes beta = gamma = 2 on CIFAR-100 with T = 4, and 1 and 1 with T = 1 on ImageNet.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      beta: `f32[]`, at least 0.
      gamma: `f32[]`, at least 0.
      temperature: `f32[]`, T > 0.
      standardize: standardise each row of logits first, see `response.standardize`.

    Returns:
      `f32[]`.

    Source: Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher" (DIST).
    """
    temperature = jnp.asarray(temperature, jnp.float32)
    p, q = _probabilities(student, teacher, temperature, standardize)
    inter = 1.0 - jnp.mean(_pearson(p, q))
    intra = 1.0 - jnp.mean(_pearson(p.T, q.T))
    beta, gamma = jnp.asarray(beta, jnp.float32), jnp.asarray(gamma, jnp.float32)
    return temperature * temperature * (beta * inter + gamma * intra)


def _probabilities(
    student: jax.Array, teacher: jax.Array, temperature: Positive, standardize: bool
) -> tuple[jax.Array, jax.Array]:
    need_logits(student, teacher)
    return tuple(jnp.exp(soften(z, temperature, standardize)) for z in (student, teacher))


def _pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Correlates row i of a with row i of b, `[N,M]`; 0 where a row is constant."""
    a, b = (_unit(centred(rows)) for rows in (a, b))
    return jnp.sum(a * b, axis=-1)


def _unit(rows: jax.Array) -> jax.Array:
    """Scales rows to length 1; those shorter than 1e-8 become 0, without a gradient."""
    square = jnp.sum(rows * rows, axis=-1, keepdims=True)
    positive = square > 1e-16
    return jnp.where(positive, rows * jax.lax.rsqrt(jnp.where(positive, square, 1.0)), 0.0)


def gram_of_examples(
    student: jax.Array, teacher: jax.Array, *, temperature: Positive = 4.0,
    standardize: bool = False,
) -> jax.Array:
    """Squared differences of P P', the similarity of two examples' predictions, over B^2 / B.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.
      standardize: standardise each row of logits first.

    Returns:
      `f32[B]`, sums over a row; their mean is the loss of the group.

    Source: Jin et al. 2023, "Multi-Level Logit Distillation".
    """
    p, q = _probabilities(student, teacher, temperature, standardize)
    return jnp.sum(jnp.square(matmul(q, q.T) - matmul(p, p.T)), axis=-1)


def gram_of_classes(
    student: jax.Array, teacher: jax.Array, *, temperature: Positive = 4.0,
    standardize: bool = False,
) -> jax.Array:
    """Squared differences of P' P, the co-occurrence of classes in predictions, over C^2 / C.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperature: `f32[]`, T > 0.
      standardize: standardise each row of logits first.

    Returns:
      `f32[C]`, sums over a row; their mean is the loss of the group.

    Source: Jin et al. 2023, "Multi-Level Logit Distillation".
    """
    p, q = _probabilities(student, teacher, temperature, standardize)
    return jnp.sum(jnp.square(matmul(q.T, q) - matmul(p.T, p)), axis=-1)


def mlkd(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperatures: tuple = (2.0, 3.0, 4.0, 5.0, 6.0),
    masked: bool = False,
    standardize: bool = False,
    divergence: bool = True,
) -> jax.Array:
    """Multi-level logit distillation: KL and both Grams, summed over temperatures.

    The paper puts it on a weak and on a strong view; `masked` is for the weak one and keeps the
    examples and classes with at most the teacher's median confidence. The public code masks after
    averaging and uses the weak view twice; here is the formula of the paper.

    Args:
      student: `[B,C]`, logits.
      teacher: `[B,C]`, logits.
      temperatures: at which the three parts are computed and summed.
      masked: leave out examples and classes above the teacher's median confidence.
      standardize: standardise each row of logits first.
      divergence: whether KL is a part; else both Grams alone, beside `kl` terms of other weights,
        as the public code of multi-level distillation and of logit standardisation sums them.

    Returns:
      `f32[]`.

    Raises:
      ArgumentError: `temperatures` holds something other than numbers more than 0.

    Source: Jin et al. 2023, "Multi-Level Logit Distillation".
    """
    if not temperatures or any(isinstance(t, str) or not t > 0 for t in temperatures):
        raise ArgumentError(f"got temperatures={temperatures!r}", "must be numbers more than 0")
    need_logits(student, teacher)
    rows, columns = _unsure(teacher) if masked else (jnp.float32(1), jnp.float32(1))
    total = jnp.zeros((), jnp.float32)
    for temperature in temperatures:
        options = {"temperature": temperature, "standardize": standardize}
        if divergence:
            total += jnp.mean(rows * kl(student, teacher, **options))
        total += jnp.mean(rows * gram_of_examples(student, teacher, **options))
        total += jnp.mean(columns * gram_of_classes(student, teacher, **options))
    return total


def _unsure(teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Marks examples `f32[B]` and classes `f32[C]` at or below the median confidence with 1."""
    p = jnp.exp(soften(teacher, 1.0))
    keep = (
        confidence <= jnp.median(confidence)
        for confidence in (jnp.max(p, axis=-1), jnp.sum(p, axis=0))
    )
    return tuple(jax.lax.stop_gradient(kept.astype(jnp.float32)) for kept in keep)
