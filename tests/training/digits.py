"""A small tapped network on handwritten digits: fifty steps of a method in the real step."""

import functools

import jax
import numpy as np

from kdaug_jax import data
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.losses import LOSSES
from kdaug_jax.runtime import sharding
from kdaug_jax.training.state import make_init
from kdaug_jax.training.step import make_train_step
from tests.losses_through_step import EQUAL, config

STEPS, BATCH = 50, 60
DATASET = data.load("digits", {split: split for split in ("train", "validation", "test")})
INFO = data.describe(DATASET)
FEED = data.resident(DATASET.splits["train"], 0, BATCH)


def run(made, frozen, steps=STEPS):
    """Trains on one device; gives the first and the last state, and each metric's values."""
    (program,) = build_programs(made, INFO)
    mesh = sharding.make_mesh(1, BATCH)
    whole = sharding.replicated(mesh)
    frozen = {name: frozen[network.model.name] for name, network in program.networks.items()
              if not network.trainable}
    first = state = make_init(program, frozen, whole)(program.hparams)
    step = jax.jit(make_train_step(program), out_shardings=whole)
    rows = []
    for number in range(steps):
        batch = sharding.put_batch(mesh, FEED.batch(FEED.constants, FEED.item(number)))
        state, metrics = step(state, frozen, batch, program.hparams)
        rows.append({name: float(total) for name, (total, _) in metrics.items()})
    return first, state, {name: np.asarray([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def teacher(name):
    """Variables of a teacher of that architecture, trained on the digits."""
    made = config(("cross_entropy",), networks={
        "student": configs.network(name, trainable=True)
    }, terms={"ce": configs.term("cross_entropy", ("x",))}, **settings(10.0))
    _, state, values = run(made, {}, 150)
    assert values["train/ce"][-10:].mean() < 0.5 * values["train/ce"][:10].mean()
    return {"params": state.params["student"], "batch_stats": state.network_state["student"]}


def settings(epochs=3.0):
    return dict(data=dict(source="digits", batch_size=BATCH), train=dict(epochs=epochs))


def method(names, **sections):
    """An experiment with the terms of these losses, and the frozen networks that it needs."""
    architecture = "tapped" if set(names) & set(EQUAL) else "tapped_wide"
    if "a2aug" in names:  # its ensemble learns from the labels through its views alone
        names = (*names, "cross_entropy")
    made = config(names, teacher=architecture, **{**settings(), **sections})
    made.networks.student.name = "tapped"
    return made, {architecture: teacher(architecture)}


def falls(name, values):
    """Whether a loss is less at the end of the run than at its beginning."""
    losses = values[f"train/{name}"]
    start = 20 if name == "ft" else 0  # it has another loss in its first epoch
    begin, end = losses[start : start + 10].mean(), losses[-10:].mean()
    assert np.isfinite(losses).all() and not values["fault"].any()
    return end < begin - 0.01 * abs(begin)


ALL = tuple(LOSSES)
