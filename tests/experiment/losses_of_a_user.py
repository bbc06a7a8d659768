"""Losses that live outside the package, as a user's would."""

import jax.numpy as jnp

from kdaug_jax.losses.term import Term
from kdaug_jax.types import Positive


def squared(student, teacher, *, scale: Positive = 1.0):
    return scale * jnp.mean(jnp.square(student - teacher), axis=-1)


def _init(key, inputs, info, width: int = 3):
    features = inputs[0].student.features["pooled"].shape[-1]
    params = {"kernel": jnp.ones((features, width)), "spared": jnp.ones((width,))}
    return params, {"calls": jnp.zeros((), jnp.int32)}


def _apply(params, state, inputs, context, width: int = 3):
    embedded = inputs[0].student.features["pooled"] @ params["kernel"] * params["spared"][None]
    value = jnp.mean(jnp.square(embedded))
    calls = state["calls"] + 1
    return value, {"calls": calls}, {"calls": (calls.astype(jnp.float32), jnp.float32(1))}


# A term with parameters, of which one must not decay, and with state.
adapter = Term(_init, _apply, roles=("student",), no_decay=("spared",))


def infinite(student, labels, *, scale: Positive = 1.0):
    return student[:, 0] * jnp.inf


def spread(student):
    """A relational loss: how much logits differ within the batch it is given."""
    return jnp.sum(jnp.var(student, axis=0))


def unreduced(student):
    return jnp.square(student)


def with_more(student):
    return jnp.mean(student, axis=-1), {"more": student}
