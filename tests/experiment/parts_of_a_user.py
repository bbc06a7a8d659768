"""Stages that work, then stages, schedules, optimisers and combinations wrong in one way each."""

import jax
import jax.numpy as jnp
import optax

from kdaug_jax.augment import Stage
from kdaug_jax.augment.policies import IDENTITY, Op, Policy
from kdaug_jax.errors import ArgumentError

roll = Stage(
    lambda key, view: jax.tree.map(lambda array: jnp.roll(array, 1, axis=0), view), form="group"
)


def _draw(key):
    return jax.random.randint(key, (), 0, 9).astype("uint8")


def shift_one(key, image):
    return image + _draw(key)


shift = Stage(
    lambda keys, images: images + jax.vmap(_draw)(keys)[:, None, None, None], form="batch"
)


def halved(image):
    return image >> 1


halving = Stage(
    lambda: Policy(
        (IDENTITY, Op("tests.experiment.parts_of_a_user:halved")),
        lambda key, hparams: jax.random.bernoulli(key, shape=(1,)).astype("int32"), 1,
    ),
    form="policy",
)


def flip(key, image):
    return image[:, ::-1]


number = 3


def unit(key, image):
    return image.astype(jnp.float32) / 255.0


def cropped(key, image):
    return image[1:]


def pair(key, image):
    return image, image


def few(image):
    return image


def loose(key, image, **options):
    return image


rowwise = Stage(lambda key, view: view.replace(target=view.target[:, :-1]), form="group")
pooled = Stage(flip, form="repeat")
odd = Stage(lambda keys, images: images[..., :1], form="batch")
no_policy = Stage(lambda: 3, form="policy")


def refusing(key, image, level: int = 3):
    raise ArgumentError(f"got level={level}", "must be even")


def broken(kind):
    """Returns functions of every kind that fail as a mistake in a user's code would."""

    def stage(key, image):
        raise kind("planted")

    def policy():
        raise kind("planted")

    def schedule(span):
        raise kind("planted")

    return stage, Stage(policy, form="policy"), schedule


stage_ValueError, policy_ValueError, schedule_ValueError = broken(ValueError)
stage_TypeError, policy_TypeError, schedule_TypeError = broken(TypeError)
stage_IndexError, policy_IndexError, schedule_IndexError = broken(IndexError)


def vector(span):
    return lambda step: jnp.ones(3)


def height(span):
    return 1.0


def nothing(rate, decay):
    return None


def scalars(rate, decay):
    return optax.stateless(lambda grads, params: {"student": jnp.zeros(())})


def half_of(epoch):
    return lambda grads: {"student": grads["task"]["student"]}


def immediate(epoch):
    return epoch
