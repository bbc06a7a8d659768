"""A program with its state and jitted step, for tests of what a step does."""

import jax

from kdaug_jax import data
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.runtime import sharding
from kdaug_jax.training.state import make_init
from kdaug_jax.training.step import make_train_step
from tests.conftest import tiny_config

DATASET = data.load("synthetic:8x8,4,40", {s: s for s in ("train", "validation", "test")})
INFO = data.describe(DATASET)
USER = "tests.experiment.losses_of_a_user"


class Bench:
    """A program with its state and jitted step, on one device or a mesh."""

    def __init__(self, config, devices=1, phase=0):
        self.programs = build_programs(config, INFO)
        self.program = self.programs[phase]
        self.mesh = sharding.make_mesh(devices, config.data.batch_size)
        self.frozen = sharding.put_whole(self.mesh, self.frozen_variables())
        whole = sharding.replicated(self.mesh)
        self.init = make_init(self.programs[0], self.frozen, whole)
        self.step = jax.jit(make_train_step(self.program), out_shardings=whole)
        self.feed = data.resident(DATASET.splits["train"], 0, config.data.batch_size)

    def frozen_variables(self):
        networks = self.programs[0].networks
        return {
            name: network.model.init(jax.random.key(5), INFO.size)
            for name, network in networks.items()
            if not network.trainable
        }

    def batch(self, number):
        made = self.feed.batch(self.feed.constants, self.feed.item(number))
        return sharding.put_batch(self.mesh, made)

    def run(self, steps, hparams=None, state=None):
        hparams = self.program.hparams if hparams is None else hparams
        state = self.init(hparams) if state is None else state
        rows = []
        for _ in range(steps):
            batch = self.batch(int(state.step))
            state, metrics = self.step(state, self.frozen, batch, hparams)
            rows.append({name: float(total) for name, (total, _) in metrics.items()})
        return state, rows


def distilled(**sections):
    settings = dict(
        views={"x": "pad_crop(1)|randaugment(2, 3)"},
        networks={
            "student": configs.network("tiny", trainable=True),
            "teacher": configs.network("tiny_wide"),
        },
        terms={
            "ce": configs.term("cross_entropy", ("x",)),
            "kd": configs.term("topk_kl", ("x",), teacher="teacher", k=2, gradient_group="distill"),
        },
    )
    return tiny_config(**{**settings, **sections})
