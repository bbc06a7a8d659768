"""A2-Aug: the ensemble of a network's views is the teacher of each of them.

Of the paper's loss, sum_i CE(Q_i) + CE(ensemble) + sum_i KL(ensemble || i), the first sum is a
plain cross entropy on all views; the term `a2aug` is the rest.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdaug_jax.errors import ArgumentError
from kdaug_jax.losses.arrays import masked_mean, need_logits, need_number
from kdaug_jax.losses.response import cross_entropy, kl
from kdaug_jax.losses.term import Context, Term, TermInput

FORMS = ("joint_ce", "l2_norm", "kl", "kl_norm")
SCALES = ("sqrt_classes", "mean_norm")


def l2_normalized(logits: jax.Array, scale: Any = 1.0) -> jax.Array:
    """Scales rows to length s: s z / sqrt(|z|^2 + 1e-12).

    Args:
      logits: `[B,C]`.
      scale: `f32[]`, s > 0. The paper prints 1, at which the softmax over many classes is almost
        uniform and the KL has almost no gradient.

    Returns:
      `f32[B,C]`.

    Source: Li et al. 2021 (A2-Aug), eq. 8.
    """
    need_number("scale", scale, 0.0, over=True)
    logits = logits.astype(jnp.float32)
    square = jnp.sum(logits * logits, axis=-1, keepdims=True)
    return jnp.asarray(scale, jnp.float32) * logits * jax.lax.rsqrt(square + 1e-12)


def ensemble_logits(logits: jax.Array, mu: jax.Array) -> jax.Array:
    """Weighs the views' logits by softmax(mu); only mu receives a gradient.

    Eq. 4 of the paper has mu itself; its Table 6, whose rows sum to 1, decides for the softmax.

    Args:
      logits: `[N,B,C]`, of N views.
      mu: `f32[N]`.

    Returns:
      `f32[B,C]`.

    Raises:
      ArgumentError: there is not one weight for each view.

    Source: Li et al. 2021 (A2-Aug), eq. 7.
    """
    if logits.ndim != 3 or mu.shape != logits.shape[:1]:
        raise ArgumentError(
            f"got logits {list(logits.shape)} and weights {list(mu.shape)}",
            "must be [N,B,C] and [N], a weight for each view",
        )
    detached = jax.lax.stop_gradient(logits).astype(jnp.float32)
    return jnp.sum(jax.nn.softmax(mu)[:, None, None] * detached, axis=0)


def ensemble_distance(
    student: jax.Array, teacher: jax.Array, *, form: str = "kl_norm", scale: Any = 1.0
) -> jax.Array:
    """Distance of a view's logits from the ensemble's.

    Args:
      student: `[B,C]`, logits of a view.
      teacher: `[B,C]`, logits of the ensemble; no gradient flows to them.
      form: "kl", divergence of the logits as they are; "kl_norm", of normalised logits; "l2_norm",
        mean squared difference of normalised logits. These are rows of Table 8; its row with
        normalisation but without KL is taken to be "l2_norm".
      scale: length of normalised logits, see `l2_normalized`.

    Returns:
      `f32[B]`.

    Source: Li et al. 2021 (A2-Aug), eq. 5 and 8.
    """
    need_logits(student, teacher)
    if form not in FORMS[1:]:
        raise ArgumentError(f"got form={form!r}", "must be one of " + ", ".join(FORMS[1:]))
    teacher = jax.lax.stop_gradient(teacher)
    if form == "kl":
        return kl(student, teacher)
    student, teacher = l2_normalized(student, scale), l2_normalized(teacher, scale)
    if form == "kl_norm":
        return kl(student, teacher)
    return jnp.mean(jnp.square(student - teacher), axis=-1)


def scale_of(scale: Any, teacher: jax.Array) -> jax.Array:
    """Returns the length of normalised logits.

    Args:
      scale: a number, "sqrt_classes" (rows of unit mean square) or "mean_norm" (the ensemble's mean
        length, which keeps its confidence).
      teacher: `[B,C]`, logits of the ensemble.

    Returns:
      `f32[]`.
    """
    if scale == "sqrt_classes":
        return jnp.sqrt(jnp.float32(teacher.shape[-1]))
    if scale == "mean_norm":
        square = jnp.sum(jnp.square(teacher.astype(jnp.float32)), axis=-1)
        return jax.lax.stop_gradient(jnp.mean(jnp.sqrt(square)))
    return jnp.float32(scale)


def _check(inputs: tuple[TermInput, ...], form: str, logit_scale: Any) -> None:
    if form not in FORMS:
        raise ArgumentError(f"got form={form!r}", "must be one of " + ", ".join(FORMS))
    number = isinstance(logit_scale, int | float) and not isinstance(logit_scale, bool)
    if logit_scale not in SCALES and not (number and logit_scale > 0):
        known = ", ".join(SCALES)
        raise ArgumentError(
            f"got logit_scale={logit_scale!r}", f"must be a number more than 0, or {known}"
        )
    if len(inputs) < 2:
        raise ArgumentError(f"is put on {len(inputs)} view", "an ensemble needs at least 2 in `on`")


def _mu(params, adaptive: bool) -> jax.Array:
    return params["mu"] if adaptive else jnp.zeros_like(params["mu"])


def _weights(mu: jax.Array) -> dict[str, jax.Array]:
    weights = jax.nn.softmax(mu)
    return {f"weight_{i}": weights[i] for i in range(len(weights))}


def _init(key, inputs, info, *, form, logit_scale, **options):
    _check(inputs, form, logit_scale)
    return {"mu": jnp.zeros(len(inputs), jnp.float32)}, {}


def _apply(
    params,
    state,
    inputs: tuple[TermInput, ...],
    context: Context,
    *,
    form: str = "kl_norm",
    logit_scale: Any = "sqrt_classes",
    branch_mean: bool = False,
    adaptive: bool = True,
):
    """CE(ensemble) + sum over views of `ensemble_distance`; mu starts at 0, without weight decay.

    The cross entropy of the ensemble is with the labels of the first view. Its members are views of
    one network, with a BatchNorm branch each or with one branch for all, or one network a view
    (`student=("n0", "n1", ...)`). Table 8's rows are: no such term; and `form` "joint_ce",
    "l2_norm", "kl", "kl_norm".

    Args:
      params: `{"mu": f32[N]}`.
      state: empty.
      inputs: one for each of the N views.
      context: not used.
      form: "joint_ce" for the first part only, or see `ensemble_distance`.
      logit_scale: length of normalised logits, see `scale_of`.
      branch_mean: average over the views instead of the sum that the paper prints.
      adaptive: whether mu is trained; otherwise all views have equal weights.

    Returns:
      Value, state, and the weights softmax(mu) as metrics.
    """
    logits = jnp.stack([item.student.logits for item in inputs])
    mu = _mu(params, adaptive)
    ensemble, mask = ensemble_logits(logits, mu), inputs[0].view.mask
    value = masked_mean(cross_entropy(ensemble, inputs[0].view.target), mask)
    if form != "joint_ce":
        scale = scale_of(logit_scale, ensemble)
        parts = [
            masked_mean(ensemble_distance(view_logits, ensemble, form=form, scale=scale), mask)
            for view_logits in logits
        ]
        value += sum(parts) / len(parts) if branch_mean else sum(parts)
    metrics = {name: (weight, jnp.float32(1)) for name, weight in _weights(mu).items()}
    return value, state, metrics


def _predict_ensemble(params, logits: jax.Array, *, adaptive: bool = True, **options):
    mu = _mu(params, adaptive)
    return ensemble_logits(logits, mu), _weights(mu)


a2aug = Term(
    _init, _apply, roles=("student", "labels"), no_decay=("mu",), joint=True,
    predict_ensemble=_predict_ensemble,
)
