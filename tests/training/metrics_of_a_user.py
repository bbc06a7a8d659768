"""Metrics as a user may bring them, right and wrong."""

import jax.numpy as jnp

from kdaug_jax.evaluation import Metric, mean_metric


def second_guess(inputs):
    second = jnp.argsort(-inputs.logits, axis=-1)[:, 1]
    right = inputs.mask & (second == inputs.label)
    return jnp.sum(right, dtype=jnp.float32), jnp.sum(inputs.mask, dtype=jnp.float32)


def _differ(inputs):
    differ = inputs.mask & (jnp.argmax(inputs.logits, -1) != jnp.argmax(inputs.teacher, -1))
    return jnp.sum(differ, dtype=jnp.float32), jnp.sum(inputs.mask, dtype=jnp.float32)


disagreement = mean_metric("disagreement", _differ, needs="teacher")
wrong_guess = mean_metric("wrong_guess", second_guess, better="lower")
# Sums of any shape, here how often each class is predicted.
predicted = Metric(
    lambda inputs, settings, before: jnp.zeros(settings.classes).at[
        jnp.argmax(inputs.logits, -1)
    ].add(inputs.mask),
    lambda sums, settings: {"most_predicted": float(sums.max()), "predicted": sums},
    {"most_predicted": ""},
)
unreduced = Metric(lambda inputs, settings, before: inputs.logits, lambda sums, settings: {}, {})
again = mean_metric("accuracy", second_guess)
number = 3


def per_example(inputs):
    return inputs.logits[:, 0], inputs.mask


def half(inputs):
    total, count = second_guess(inputs)
    return total.astype(jnp.bfloat16), count


def truths(inputs):
    return jnp.any(inputs.mask), jnp.sum(inputs.mask, dtype=jnp.float32)


def no_pair(inputs):
    return jnp.sum(inputs.logits)


def two_arguments(logits, label):
    return second_guess(logits)


def value_error(inputs):
    raise ValueError("planted")


def type_error(inputs):
    return len(3)


def index_error(inputs):
    return [][len("planted")]


# Rows that are written and nothing else.
answers = Metric(
    lambda inputs, settings, before: (), lambda sums, settings: {}, {},
    rows={"logits": lambda inputs: inputs.logits},
)
