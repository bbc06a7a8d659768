"""WRN-28-10 on CIFAR-100 in a space of strong distortions, with and without distillation.

Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge Distillation" (paper 000),
Table 1: errors in %, one run each, no spread.

| M | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
|---|---|---|---|---|---|---|---|---|
| RA: `magnitude=M,kd=False` | 18.4 | 19.5 | 20.7 | 22.4 | 25.7 | 31.6 | 40.3 | 55.1 |
| RA+KD: `magnitude=M` | 18.0 | 17.6 | 18.5 | 19.9 | 21.9 | 27.0 | 34.9 | 48.0 |

    python main.py --config=configs/wei2020_table1.py:magnitude=3 --workdir=runs/table1_m3 \
      --config.data.source=cifar100:/data

Magnitude 0 is no policy, "no augmentation" beside the pipeline.

`table` trains the whole table, 16 runs in turn through one compiled step with one teacher:

    python main.py --config=configs/wei2020_table1.py:table --workdir=runs/table1
    python -m kdaug_jax.analysis.compare runs/table1 --vary=terms.kd.weight

A teacher that was trained at the student's own magnitude (`teacher_policy=same`) is another one in
each column, so `table` has none: the experiment `table1-same-teacher` of several runs trains each
magnitude without distillation and with that network as the teacher.

Options: `magnitude` (3); `kd`; `table`; `base_cutout` (16), side of the Cutout that ends the view,
0 for none: M = 0 has the error of Cutout alone (18.4), not that of crop and flip (18.8 in Table 2),
so the table was probably made inside AutoAugment's pipeline; `teacher_policy`, what the teacher was
trained on: `autoaugment` (the 17.1 % of section 3.4; not said for this table), `none`, `same` (at
the student's magnitude); `variant`, which of three published WRN-28-10: `plain`, or AutoAugment's
`aa`, Fast AutoAugment's `faa` (not said); `holdout`, to keep 2 % of the training split for choices;
`smoke`.

In the paper: K = 5, λ = 1, two ops an image. From AutoAugment's code: 200 epochs, batch 128, rate
0.1 and cosine to 0, Nesterov 0.9, decay 5e-4 on everything, gradients clipped to norm 5. Our
reading of the five ops at magnitude M is in kdaug_jax/augment/policies/wei2020.py.

The teacher is a WRN-28-10 trained in the same way, first, into <workdir>/teacher, unless
--config.networks.teacher.checkpoint names its directory.

Cost: 4 x 5.24 billion multiply-adds an image with the teacher, 2.1e17 a run. It has not been run
here.
"""

from __future__ import annotations

from configs.common import (
    autoaugment_recipe,
    autoaugment_view,
    check,
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
)
from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, term

MAGNITUDES = tuple(range(8))
ERRORS = {
    "ra": ("kd=False", (18.4, 19.5, 20.7, 22.4, 25.7, 31.6, 40.3, 55.1)),
    "ra-kd": ("", (18.0, 17.6, 18.5, 19.9, 21.9, 27.0, 34.9, 48.0)),
}
PAPER = "000"
ROWS = tuple(
    Row("Table 1", f"table1-{name}-m{m}", ",".join(filter(None, (f"magnitude={m}", options))),
        {"error": error})
    for name, (options, errors) in ERRORS.items()
    for m, error in zip(MAGNITUDES, errors, strict=True)
)
CELLS = {
    "table1-same-teacher": tuple(
        cell for m in MAGNITUDES for cell in (
            Cell(f"ra-m{m}", f"magnitude={m},kd=False"),
            Cell(f"kd-m{m}", f"magnitude={m},teacher_policy=same",
                 {"networks.teacher.checkpoint": f"cell:ra-m{m}"}),
        )
    ),
}
NETWORKS = {"plain": "wrn_28_10", "aa": "wrn_28_10_aa", "faa": "wrn_28_10_faa"}
SMALL = {"wrn_28_10": "wrn_10_1", "wrn_28_10_aa": "wrn_10_1_aa", "wrn_28_10_faa": "wrn_10_1_faa"}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, magnitude=one_of(3, 0, 1, 2, 4, 5, 6, 7), kd=True, table=False, base_cutout=16,
        teacher_policy=one_of("autoaugment", "none", "same"), variant=one_of(*NETWORKS),
        holdout=False,
    )
    check(options.kd or not options.table, "option table has both rows", "drop kd=False")
    refuse_idle(options, not options.kd, ("teacher_policy",), "with kd=False")
    check(not options.table or options.teacher_policy != "same",
          "option teacher_policy=same has a teacher a magnitude, option table has one for all",
          "run the experiment table1-same-teacher, or a magnitude at a time")
    refuse_idle(options, options.table, ("magnitude",), "with table")
    check(0 <= options.base_cutout <= 32, f"option base_cutout={options.base_cutout}", "0..32")
    name, side = NETWORKS[options.variant], 16 if options.smoke else 32
    sweeps = options.table or options.magnitude > 0  # a sweep needs the stage at 0 too
    policies = {
        "autoaugment": 'autoaugment("cifar10")', "none": "",
        "same": f"wei2020(2, {options.magnitude})" if sweeps else "",
    }
    config = default()
    with config.unlocked():
        read_splits(config, "cifar100:data", "test", options.holdout, 100)
        config.update_from_flattened_dict(autoaugment_recipe("wrn_28_10", 100))
        config.views.x = autoaugment_view(policies["same"], side, options.base_cutout)
        config.networks.student = network(name, trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
        if options.kd:
            taught = autoaugment_view(policies[options.teacher_policy], side, options.base_cutout)
            config.networks.teacher = network(name, recipe=(("views.x", taught),))
            config.terms.kd = term(
                "topk_kl", on=("x",), teacher="teacher", k=5, weight=1.0, gradient_group="distill"
            )
        if options.table:
            config.population = (
                ("views.x.wei2020.m", MAGNITUDES), ("terms.kd.weight", (0.0, 1.0))
            )
        return finish_cifar(config, options, SMALL, side)
