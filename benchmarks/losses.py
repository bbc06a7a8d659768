"""What losses cost, held against one plain distillation step in the same run.

Networks, batch and optimiser are those of `kd_step.py`. One JSON line for each of:

- `losses/NAME`: a loss of the table by itself, forward and backward to its parameters and to the
  student's logits and activations, on the real networks' outputs; `ratio` is its time to that of
  the whole plain step, so that 0.1 means that it would make the step a tenth longer.
- `losses/crd_step`: the plain step with CRD at 16,384 negatives and banks of 50,000 rows, to the
  plain step.
- `losses/crd_memory`: what the compiled loss holds beside its arguments, by `chunk`, at banks of
  1,281,167 rows (ImageNet's); `ratio` is that at the usual chunk of 1,024 to fetching all rows at
  once. Compiled, not run.
- `losses/clip`: convolutions in the traced step with `clip_per_variable()`, which keeps task and
  distillation apart, as passes: one forward pass of the student and how many backward passes;
  `ratio` is backward passes to 2. Traced, not run.
- `losses/a2aug`: A2-Aug's step on three views of one network with three BatchNorm branches in a
  joint pass, to that of three networks with a view each (1.8 times as long in the paper).

    python benchmarks/losses.py
    python benchmarks/losses.py --only terms --loss at --loss rkd
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from kdaug_jax import data
from kdaug_jax.experiment import terms
from kdaug_jax.experiment.context import StepContext
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.experiment.sections import ConfigDict, network, optimizer, term
from kdaug_jax.losses import LOSSES
from kdaug_jax.losses.contrastive import crd_loss
from kdaug_jax.losses.term import Term
from kdaug_jax.runtime import compile_cache, sharding
from kdaug_jax.training.step import make_train_step
from kdaug_jax.types import Batch, Clock

PARTS = ("terms", "crd_step", "crd_memory", "clip", "a2aug")
CRD_TARGET, CLIP_TARGET, A2AUG_TARGET = 1.5, 1.0, 1 / 1.8
ROWS, NEGATIVES, DIM, CHUNK = 50_000, 16_384, 128, 1024
IMAGENET_ROWS = 1_281_167
WARM_UP = 2
VERSIONS = ("jax", "flax")
MAPS, PRE = ("f1", "f2", "f3"), ("f1_pre", "f2_pre", "f3_pre")
# What losses need beside their defaults; activations as RepDistiller takes them.
OPTIONS: dict[str, dict[str, Any]] = {
    "topk_kl": dict(k=5),
    "fitnet": dict(features=("f2",)),
    **{name: dict(features=MAPS) for name in ("at", "nst", "vid", "kd_svd", "mhgd", "ii_kd")},
    "fsp": dict(features=("f0", *MAPS)),
    **{name: dict(features=PRE) for name in ("ab", "ofd")},
    **{name: dict(features=("f3",)) for name in ("ft", "sp")},
    **{name: dict(features=("pooled",)) for name in
       ("pkt", "cc", "rkd", "rkd_distance", "rkd_angle", "crd", "info_nce")},
    "rkd_role": dict(features=("logits",)),
    "reviewkd": dict(features=(*MAPS, "pooled")),
}


def like_cifar() -> str:
    """Registers made-up images, as many as CIFAR has, and names their source."""
    draw = np.random.default_rng(0)
    splits = {}
    for name, count in {"train": ROWS, "validation": 100, "test": 100}.items():
        image = draw.integers(0, 256, (count, common.SIZE, common.SIZE, 3), np.uint8)
        splits[name] = (image, np.arange(count) % common.CLASSES)
    return data.register("like cifar", data.from_arrays(splits))


def config_of(batch: int, source: str, change: Callable[[ConfigDict], None]) -> ConfigDict:
    """Returns the plain step's experiment on that source, changed."""
    config = common.get_config(batch, distill=True)
    with config.unlocked():
        config.data.source = source
        change(config)
    return config


def plain(config: ConfigDict) -> None:
    """Leaves the experiment as it is."""


def with_crd(config: ConfigDict) -> None:
    """Adds CRD."""
    config.terms.crd = term(
        "crd", on=("x",), teacher="teacher", features=("pooled",), weight=0.8, negatives=NEGATIVES,
        dim=DIM, chunk=CHUNK, gradient_group="distill",
    )


def with_ensemble(config: ConfigDict, joint: bool) -> None:
    """Makes it A2-Aug on three views: of one network, or of three."""
    views = ("a0", "a1", "a2")
    config.views = {
        name: dict(ops="pad_crop(4)|flip", branch=number if joint else 0)
        for number, name in enumerate(views)
    }
    names = ("student",) if joint else ("n0", "n1", "n2")
    config.networks = {name: network(common.STUDENT, trainable=True) for name in names}
    student = names[0] if joint else names
    config.terms = {
        "ce": term("cross_entropy", on=views, student=student, gradient_group="task"),
        "ensemble": term("a2aug", on=views, student=student, gradient_group="distill"),
    }


class Alone:
    """One loss by itself, with gradients, on the outputs of a step's networks."""

    def __init__(self, ours: common.Ours, name: str, outputs: dict, views: dict):
        """Builds and compiles."""
        info, mesh = ours.program.info, ours.mesh
        row = LOSSES[name]
        roles = row.roles if isinstance(row, Term) else getattr(
            row, "function", row).__code__.co_varnames
        on = ("x", "y") if name == "a2aug" else ("x",)
        teacher = "teacher" if "teacher" in roles or "teacher_features" in roles else ""
        section = term(name, on=on, teacher=teacher, **OPTIONS.get(name, {}))
        specs = (terms.build_term(
            "own", section, ("x", "y"), ("student", "teacher"), ours.program.steps_per_epoch,
            ours.program.total_steps, info,
        ),)
        values, _ = terms.hparams(specs)
        params, state = terms.init(specs, jnp.uint32(0), outputs, views, values, info)

        def cost(params, student, state, outputs, views, step):
            clock = Clock(jnp.uint32(0), step // 100, step)
            outputs = {**outputs, "student@x": student}
            context = StepContext(views, {}, clock, values, info, 1)
            sums, _, state, _ = terms.apply(specs, params, state, outputs, context)
            return sum(sums.values()), state

        whole = sharding.replicated(mesh)
        self.call = jax.jit(
            sharding.within(mesh, jax.value_and_grad(cost, argnums=(0, 1), has_aux=True)),
            donate_argnums=2,
        )
        # Copied: the state is given away, and one array of zeros may be in it twice.
        self.params, self.state = jax.device_put(jax.tree.map(jnp.copy, (params, state)), whole)
        self.outputs, self.views, self.step = outputs, views, 0

    def __call__(self, steps: int) -> None:
        """Computes it some times and waits."""
        for _ in range(steps):
            (_, self.state), grads = self.call(
                self.params, self.outputs["student@x"], self.state, self.outputs, self.views,
                np.int32(self.step),
            )
            self.step += 1
            jax.block_until_ready(grads)


def outputs_of(ours: common.Ours) -> tuple[dict, dict]:
    """Returns the outputs of a step's networks on its batch, and the views; "y" equals "x"."""
    program = ours.program

    def forward(state, frozen, constants, items, hparams):
        clock = program.clock(state.step, hparams)
        batch = ours.feed.batch(constants, items[0])
        variables = program.variables(state.params, state.network_state, frozen)
        made, given, _ = program.make_views(clock, batch, hparams, variables, {})
        outputs, _ = program.run_networks(
            state.params, state.network_state, frozen, given, program.context(made, clock, hparams)
        )
        return outputs, made

    call = jax.jit(sharding.within(ours.mesh, forward))
    outputs, made = call(ours.state, ours.frozen, ours.constants, ours.items(), ours.hparams)
    again = {name.replace("@x", "@y"): result for name, result in outputs.items()}
    return {**outputs, **again}, {**made, "y": made["x"]}


def race(name: str, sides: dict[str, Callable], options, target: float | None) -> None:
    """Lets two sides take turns and prints the line."""
    for run in sides.values():
        run(WARM_UP)
    timed = {side: functools.partial(common.timed, run) for side, run in sides.items()}
    result, _ = common.compare(f"losses/{name}", timed, options, VERSIONS)
    common.report(result, target)


def report_count(name: str, ratio: float, target: float | None, **facts: Any) -> None:
    """Prints the line of a benchmark that is counted, not timed."""
    result = {"benchmark": f"losses/{name}", "ratio": round(ratio, 4), **facts}
    common.report(result, target)


def crd_memory(batch: int) -> None:
    """Compiles CRD on banks of ImageNet's size and reports its memory by chunk."""
    shape = jax.ShapeDtypeStruct
    state = {
        **{side: shape((IMAGENET_ROWS, DIM), jnp.float32) for side in ("student", "teacher")},
        "z": shape((2,), jnp.float32),
    }
    rows = shape((batch, DIM), jnp.float32)
    contrast = shape((batch, 1 + NEGATIVES), jnp.int32)

    def held(chunk: int) -> int:
        def mean(student, teacher, state, contrast):
            return jnp.mean(crd_loss(state, student, teacher, contrast, 0.07, chunk)[0])

        call = jax.jit(jax.grad(mean, argnums=(0, 1)))
        memory = call.lower(rows, rows, state, contrast).compile().memory_analysis()
        return memory.temp_size_in_bytes

    by_chunk = {chunk: held(chunk) for chunk in (256, CHUNK, 4096, 1 + NEGATIVES)}
    report_count(
        "crd_memory", by_chunk[CHUNK] / by_chunk[1 + NEGATIVES], None,
        bytes_by_chunk=by_chunk, rows_bytes={chunk: 4 * batch * chunk * DIM for chunk in by_chunk},
        bank_bytes=4 * IMAGENET_ROWS * DIM, negatives=NEGATIVES, batch=batch,
    )


def convolutions(jaxpr: Any) -> int:
    """Counts the convolutions of a traced program, inner programs included."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "conv_general_dilated"
        count += sum(map(convolutions, jaxprs_in_params(equation.params)))
    return count


def clip(batch: int, source: str) -> None:
    """Counts the passes of steps with one and with two groups of gradients."""

    def count(combine: str) -> int:
        def change(config: ConfigDict) -> None:
            config.optim = optimizer("sgd", 0.1, momentum=0.9, combine=combine)
            config.terms.kd.teacher, config.terms.kd.student = "student@y", "student"
            config.views.y = "flip"
            config.networks = {"student": network(common.STUDENT, trainable=True)}

        made = config_of(batch, source, change)
        splits = {name: made.data[name] for name in ("train", "validation", "test")}
        info = data.describe(data.load(source, splits))
        (program,) = build_programs(made, info)
        images = jax.ShapeDtypeStruct((batch, *info.size, 3), jnp.uint8)
        numbers = [
            jax.ShapeDtypeStruct((batch,), kind) for kind in (jnp.int32, jnp.int32, jnp.bool_)
        ]
        traced = jax.make_jaxpr(make_train_step(program))(
            program.state_shapes(), {}, Batch(images, *numbers), program.hparams
        )
        return convolutions(traced.jaxpr)

    forward = 16  # of WRN-16-2, on both views at once
    once, twice = count("sum()"), count("clip_per_variable()")
    backward = once - forward
    passes = (twice - forward) / backward
    report_count(
        "clip", passes / 2, CLIP_TARGET, forward_passes=1, backward_passes=passes,
        convolutions={"forward": forward, "sum": once, "clip_per_variable": twice},
    )


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select benchmarks."""
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; all by default")
    parser.add_argument("--loss", action="append", choices=[*LOSSES], help="of the part terms")


def main() -> int:
    """Runs the selected benchmarks; the exit status does not depend on the ratios."""
    options = common.parse(__doc__, rounds=6, steps=2, add=add)
    parts, batch = options.only or PARTS, options.batch
    compile_cache.use()
    sharding.use_host_cores(batch)
    source = like_cifar()
    if "clip" in parts:
        clip(batch, source)
    if "crd_memory" in parts:
        crd_memory(batch)
    if {"terms", "crd_step"} & set(parts):
        step = common.Ours(batch, config=config_of(batch, source, plain))
        if "terms" in parts:
            outputs, views = outputs_of(step)
            for name in options.loss or LOSSES:
                alone = Alone(step, name, outputs, views)
                race(name, {"loss": alone, "plain step": step}, options, None)
        if "crd_step" in parts:
            crd = common.Ours(batch, config=config_of(batch, source, with_crd))
            race("crd_step", {"with crd": crd, "plain step": step}, options, CRD_TARGET)
    if "a2aug" in parts:
        sides = {
            name: common.Ours(batch, config=config_of(
                batch, source, functools.partial(with_ensemble, joint=name == "joint")))
            for name in ("joint", "separate")
        }
        race("a2aug", sides, options, A2AUG_TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
