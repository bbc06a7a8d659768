"""Stages, schedules, optimisers and combinations that are wrong in one way each."""

import jax.numpy as jnp
import optax

from kdaug_jax.augment import Stage
from kdaug_jax.errors import ArgumentError

number = 3


def flip(key, image):
    return image[:, ::-1]


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
bytes_of_all = Stage(lambda keys, images: 255 - images, form="batch")


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
