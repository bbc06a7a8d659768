"""One distillation step against its parts: a step without teacher, and a teacher's forward pass.

The networks, losses, optimiser and batch are those of `kd_step.py`. `joint` is our step with the
teacher inside; `separate` is our step with cross entropy alone, and the teacher's logits for the
same view of the same batch from a jitted function of their own. Both in one process, in turn; one
JSON line, whose `ratio` is the median over the rounds of joint to separate seconds. Above 1, the
step costs more than the work it holds.

    python benchmarks/kd_overhead.py
"""

from __future__ import annotations

import functools
import sys

import common
import jax

from kdaug_jax.runtime import compile_cache, sharding

TARGET = 1.02
WARM_UP = 3


def make_forward(ours: common.Ours):
    """Makes the jitted function that gives the teacher's logits for the items of a step."""
    program, teacher = ours.program, ours.program.networks["teacher"].model

    @jax.jit
    def forward(position, frozen, constants, items, hparams):
        batch = ours.feed.batch(constants, items[0])
        clock = program.clock(position, hparams)
        views, *_ = program.make_views(clock, batch, hparams, {}, {})
        return teacher.apply(frozen["teacher"], views["x"].image, train=False)[0].logits

    return forward


def main() -> int:
    """Compares the two and returns the exit status, which does not depend on the ratio."""
    options = common.parse(__doc__)
    compile_cache.use()
    sharding.use_host_cores(options.batch)
    joint, plain = common.Ours(options.batch), common.Ours(options.batch, distill=False)
    forward = make_forward(joint)

    def separate(steps: int) -> None:
        for _ in range(steps):
            items = plain.items()
            logits = forward(
                plain.state.step, joint.frozen, joint.constants, items, joint.hparams
            )
            plain.advance(items)
        jax.block_until_ready((logits, plain.state))

    sides = {}
    for name, run in {"joint": joint, "separate": separate}.items():
        run(WARM_UP)
        sides[name] = functools.partial(common.timed, run)
    result, _ = common.compare("kd_overhead", sides, options, ("jax", "flax"))
    common.report(result, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
