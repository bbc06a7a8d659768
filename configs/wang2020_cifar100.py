"""Distillation on mixed and picked views of CIFAR-100 and Tiny ImageNet (paper 001).

Wang et al. 2020, "Knowledge Distillation Thrives on Data Augmentation": student accuracies in %,
mean and deviation of 3 runs, last epoch. Pairs of networks, `pair=`, by their students: wrn
wrn_40_2-wrn_16_2, resnet20 resnet56-resnet20, resnet8x4 resnet32x4-resnet8x4, vgg8 vgg13-vgg8,
mobile vgg13-mobilenetv2, vgg8r resnet50-vgg8, shuffle resnet32x4-shufflev2.

| Table 1: options | wrn | resnet20 | vgg8 |
|---|---|---|---|
| teacher: `stage=teacher` | 75.61 | 72.34 | 74.64 |
| student alone: `loss=ce` | 73.26 | 69.06 | 70.36 |
| KD: `da=standard` | 74.92 ± 0.28 | 70.66 ± 0.24 | 72.98 ± 0.19 |
| KD, mixup: `da=mixup` | 75.33 ± 0.07 | 71.00 ± 0.16 | 73.79 ± 0.18 |
| KD+CutMix: `da=cutmix` | 75.34 ± 0.19 | 70.77 ± 0.17 | 74.16 ± 0.18 |

| Table 2: options | wrn | resnet20 | vgg8 |
|---|---|---|---|
| teacher: `stage=teacher` | 75.61 | 72.34 | 74.64 |
| student alone: `loss=ce` | 73.26 | 69.06 | 70.36 |
| CutMix: `da=cutmix` | 75.34 ± 0.19 | 70.77 ± 0.17 | 74.16 ± 0.18 |
| pick by teacher's entropy: `by=teacher_entropy` | 75.46 ± 0.07 | 70.88 ± 0.10 | ? |
| by student's entropy: `by=student_entropy` | 75.52 ± 0.06 | 70.84 ± 0.12 | ? |
| by KL: the default | 75.59 ± 0.22 | 70.99 ± 0.20 | 74.43 ± 0.20 |

| Table 3 | wrn | resnet20 | resnet8x4 | vgg8 |
|---|---|---|---|---|
| teacher: `stage=teacher` | 75.61 | 72.34 | 79.42 | 74.64 |
| student alone: `loss=ce` | 73.26 | 69.06 | 72.50 | 70.36 |
| KD: `da=standard` | 74.92 ± 0.28 | 70.66 ± 0.24 | 73.33 ± 0.25 | 72.98 ± 0.19 |
| KD 960: `da=standard,epoch_factor=4` | 75.68 ± 0.12 | 71.79 ± 0.29 | 73.14 ± 0.06 | 74.00 ± 0.34 |
| KD+CutMix: `da=cutmix` | 75.34 ± 0.19 | 70.77 ± 0.17 | 74.91 ± 0.20 | 74.16 ± 0.18 |
| KD+CutMix-pick: default | 75.59 ± 0.22 | 70.99 ± 0.20 | 74.78 ± 0.35 | 74.43 ± 0.20 |
| KD+CutMix-pick 960: `epoch_factor=4` | 76.41 ± 0.10 | 71.66 | ? | 75.00 ± 0.17 |
| CRD: `loss=crd,da=standard` | 75.64 ± 0.21 | 71.63 ± 0.15 | 75.46 ± 0.25 | 74.29 ± 0.12 |
| CRD+CutMix-pick: `loss=crd` | 75.96 ± 0.27 | 71.41 ± 0.26 | 76.11 ± 0.53 | 74.65 ± 0.12 |
| 960: `loss=crd,epoch_factor=4` | 76.61 ± 0.01 | 72.40 ± 0.20 | 75.96 ± 0.29 | 75.41 ± 0.10 |

| Table 3 | mobile | vgg8r | shuffle |
|---|---|---|---|
| teacher: `stage=teacher` | 74.64 | 79.34 | 79.42 |
| student alone: `loss=ce` | 64.60 | 70.36 | 71.82 |
| KD: `da=standard` | 67.37 ± 0.32 | 73.81 ± 0.13 | 74.45 ± 0.27 |
| KD 960: `da=standard,epoch_factor=4` | 68.77 ± 0.05 | 74.04 ± 0.25 | 74.64 ± 0.30 |
| KD+CutMix: `da=cutmix` | 68.79 ± 0.35 | 74.85 ± 0.23 | 76.61 ± 0.18 |
| KD+CutMix-pick: default | 69.49 ± 0.32 | 74.95 ± 0.18 | 76.90 ± 0.25 |
| KD+CutMix-pick 960: `epoch_factor=4` | 70.47 ± 0.12 | 76.13 ± 0.16 | 77.90 |
| CRD: `loss=crd,da=standard` | 69.94 ± 0.05 | 74.58 ± 0.27 | 76.05 ± 0.09 |
| CRD+CutMix-pick: `loss=crd` | 69.95 ± 0.22 | 75.35 ± 0.22 | 76.93 ± 0.11 |
| 960: `loss=crd,epoch_factor=4` | 70.84 ± 0.05 | 76.20 ± 0.22 | 78.51 ± 0.27 |

"?" is not legible in our copy. In Table 3 two of three cells of resnet8x4 are 75.46 (0.25) and
76.11 (0.53); by the tables of CRD's authors the first is its row CRD. Their deviations of 71.66 and
77.90 are not legible either.

| Table 4, `dataset=tiny` | wrn | resnet20 | resnet8x4 | vgg8 |
|---|---|---|---|---|
| teacher: `stage=teacher` | 61.28 | 58.37 | 64.41 | 62.59 |
| student alone: `loss=ce` | 58.23 | 52.53 | 55.41 | 56.67 |
| KD: `da=standard` | 58.65 ± 0.09 | 53.58 ± 0.18 | 55.67 ± 0.09 | 61.48 ± 0.36 |
| KD 480: `da=standard,epoch_factor=2` | 59.20 ± 0.30 | 54.23 ± 0.24 | 55.49 ± 0.11 | 61.72 ± 0.10 |
| KD+CutMix: `da=cutmix` | 59.06 ± 0.18 | 53.77 ± 0.33 | 56.41 ± 0.04 | 62.17 ± 0.11 |
| KD+CutMix-pick: default | 59.22 ± 0.05 | 53.66 ± 0.05 | 56.82 ± 0.23 | 62.32 ± 0.18 |
| KD+CutMix-pick 480: `epoch_factor=2` | 60.07 ± 0.04 | 54.25 ± 0.07 | 57.54 ± 0.23 | 62.60 ± 0.25 |
| CRD: `loss=crd,da=standard` | 60.79 ± 0.24 | 55.34 ± 0.02 | 59.28 ± 0.13 | 62.92 ± 0.31 |
| CRD+CutMix-pick: `loss=crd` | 60.72 ± 0.09 | 54.99 ± 0.16 | 59.65 ± 0.24 | 63.39 ± 0.10 |
| 480: `loss=crd,epoch_factor=2` | 60.99 ± 0.33 | 55.68 ± 0.22 | 60.13 ± 0.13 | 63.60 ± 0.20 |

| Table 4, `dataset=tiny` | mobile | vgg8r | shuffle |
|---|---|---|---|
| teacher: `stage=teacher` | 62.59 | 68.20 | 64.41 |
| student alone: `loss=ce` | 58.20 | 56.67 | 62.07 |
| KD: `da=standard` | 59.28 ± 0.13 | 60.39 ± 0.16 | 66.34 ± 0.11 |
| KD 480: `da=standard,epoch_factor=2` | 59.27 ± 0.08 | 60.10 ± 0.30 | 65.81 ± 0.11 |
| KD+CutMix: `da=cutmix` | 60.48 ± 0.30 | 61.12 ± 0.18 | 67.01 ± 0.30 |
| KD+CutMix-pick: default | 60.53 ± 0.18 | 61.40 ± 0.26 | 67.08 ± 0.13 |
| KD+CutMix-pick 480: `epoch_factor=2` | 60.66 ± 0.15 | 61.95 ± 0.14 | 67.35 ± 0.21 |
| CRD: `loss=crd,da=standard` | 62.38 ± 0.19 | 62.03 ± 0.16 | 67.33 ± 0.13 |
| CRD+CutMix-pick: `loss=crd` | 62.54 ± 0.22 | 62.85 ± 0.18 | 67.64 ± 0.18 |
| 480: `loss=crd,epoch_factor=2` | 62.79 ± 0.03 | 62.60 ± 0.17 | 67.70 ± 0.35 |

    python main.py --config=configs/wang2020_cifar100.py:runs=3 --workdir=runs/wang_wrn \
      --config.data.source=cifar100:/data

Figures 1 and 3, errors over the length of the training with and without augmentation, by KD and
cross entropy, are the experiment `figures-1-3` of several runs: `epoch_factor` of 0.5, 1, 2, 3, 4
with `runs=3`, panels of resnet20 and of wrn and vgg8, with (`da=standard`) and without (`da=none`).
The paper prints curves, and not the lengths of all runs. Figure 4, by how much the picked images
are harder, is a metric of the view that is picked, which every such run logs.

Options: `dataset`, `pair`; `stage`, `student`, or `teacher` to train the pair's teacher by itself
as the run would; `loss`: `kd`, `crd`, `ce` (no distillation); `kd=False`, CRD alone: the rows CRD
are CRD+KD of public tables, 75.48 would be CRD's own of wrn; `da`, what x' is: `cutmix-pick`,
`cutmix`, `mixup`, `standard` (no x'), `none` (x as stored, Figures 1 and 3); `by`; `pool`, 2 (two
CutMix draws of the batch, of which as many as the batch has are kept, the later code) or 1 (one
draw, half kept, the text); `epoch_factor`, milestones scale with it; `runs`, seeds through one
compiled step; `holdout`, to keep 2 % of the training split for choices; `smoke`.

In the paper: batch 64, 240 epochs, rate 0.05, x 0.1 at 150, 180, 210, α = 0.9, τ = 4. From
RepDistiller, whose settings the paper takes: plain momentum 0.9, decay 5e-4 on everything, rate
0.01 for the mobile students, crop 32 with 4 and flip; CRD with 128 dimensions, 16,384 negatives,
temperature 0.07, momentum 0.5, weight 0.8, beside it KL(x) at τ = 4 with weight 1. From the later
code: KL of x' has the weight of KL of x, a mixed image never meets itself, crop 64 with 8 on Tiny
ImageNet. Our reading of CRD+CutMix-pick, whose weights are not printed: CE + 0.8 CRD(x) + KL(x) +
KL(x'). Tiny ImageNet's test labels are not public; its validation split is reported, of the folder
as it is unpacked.

The teacher is trained first, for 240 epochs on x, into <workdir>/teacher, unless
--config.networks.teacher.checkpoint names its directory. The paper took RepDistiller's for
CIFAR-100 and trained its own for Tiny ImageNet.

Cost of wrn_40_2-wrn_16_2: 0.33 billion multiply-adds an image for the teacher, 3 x 0.10 for the
student, on x, on the pool of two (forward only) and on x' (with the teacher's outputs of the pool):
about 2.2e16 a run. It has not been run here.
"""

from __future__ import annotations

from typing import Any

from configs.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check,
    check_runs,
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
    repeat,
    teacher_alone,
)
from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, optimizer, term

PAIRS = {
    "wrn_40_2-wrn_16_2": ("wrn_40_2", "wrn_16_2"),
    "resnet56-resnet20": ("resnet56", "resnet20"),
    "resnet32x4-resnet8x4": ("resnet32x4", "resnet8x4"),
    "vgg13-vgg8": ("vgg13", "vgg8"),
    "vgg13-mobilenetv2": ("vgg13", "mobilenetv2"),
    "resnet50-vgg8": ("resnet50_cifar", "vgg8"),
    "resnet32x4-shufflev2": ("resnet32x4", "shufflev2"),
}
MOBILE = ("mobilenetv2", "shufflev1", "shufflev2")
EPOCHS, MILESTONES = 240.0, (150.0, 180.0, 210.0)
ALPHA, TEMPERATURE = 0.9, 4.0
CRD_WEIGHT = 0.8
NORMAL = {
    "cifar100": dict(
        mean=tuple(255 * share for share in (0.5071, 0.4867, 0.4408)),
        std=tuple(255 * share for share in (0.2675, 0.2565, 0.2761)),
    ),
    "tiny": dict(mean=IMAGENET_MEAN, std=IMAGENET_STD),
}
SOURCES = {
    "cifar100": ("cifar100:data", "test", 100),
    "tiny": ("tinyimagenet:data/tiny-imagenet-200", "validation", 200),
}
SIDES = {"cifar100": 32, "tiny": 64}
SMALL = {
    "wrn_40_2": "wrn_10_2", "wrn_16_2": "wrn_10_1", "resnet56": "resnet14", "resnet20": "resnet8",
    "resnet32x4": "resnet8x4", "vgg13": "vgg8",
    "resnet50_cifar": ("resnet50_cifar", dict(width=0.125)),
}

# By table, then by row: its options, and mean and deviation for each pair of the table.
TEACHER, STUDENT = "stage=teacher", "loss=ce"
KD, CUTMIX, PICK = "da=standard", "da=cutmix", ""
CRD = "loss=crd,da=standard"
CRD_PICK = "loss=crd"
THREE = ("wrn_40_2-wrn_16_2", "resnet56-resnet20", "vgg13-vgg8")
LONG, TWICE = "epoch_factor=4", "epoch_factor=2"
TABLES: dict[str, tuple[str, tuple[str, ...], dict]] = {
    "Table 1": ("", THREE, {
        "teacher": (TEACHER, (75.61, 72.34, 74.64)),
        "student": (STUDENT, (73.26, 69.06, 70.36)),
        "kd": (KD, ((74.92, 0.28), (70.66, 0.24), (72.98, 0.19))),
        "kd-mixup": ("da=mixup", ((75.33, 0.07), (71.00, 0.16), (73.79, 0.18))),
        "kd-cutmix": (CUTMIX, ((75.34, 0.19), (70.77, 0.17), (74.16, 0.18))),
    }),
    "Table 2": ("", THREE, {
        "teacher": (TEACHER, (75.61, 72.34, 74.64)),
        "student": (STUDENT, (73.26, 69.06, 70.36)),
        "cutmix": (CUTMIX, ((75.34, 0.19), (70.77, 0.17), (74.16, 0.18))),
        "teacher-entropy": ("by=teacher_entropy", ((75.46, 0.07), (70.88, 0.10), None)),
        "student-entropy": ("by=student_entropy", ((75.52, 0.06), (70.84, 0.12), None)),
        "kl": (PICK, ((75.59, 0.22), (70.99, 0.20), (74.43, 0.20))),
    }),
    "Table 3": ("", tuple(PAIRS), {
        "teacher": (TEACHER, (75.61, 72.34, 79.42, 74.64, 74.64, 79.34, 79.42)),
        "student": (STUDENT, (73.26, 69.06, 72.50, 70.36, 64.60, 70.36, 71.82)),
        "kd": (KD, ((74.92, 0.28), (70.66, 0.24), (73.33, 0.25), (72.98, 0.19), (67.37, 0.32),
                    (73.81, 0.13), (74.45, 0.27))),
        "kd-960": (f"{KD},{LONG}", (
            (75.68, 0.12), (71.79, 0.29), (73.14, 0.06), (74.00, 0.34), (68.77, 0.05),
            (74.04, 0.25), (74.64, 0.30))),
        "kd-cutmix": (CUTMIX, (
            (75.34, 0.19), (70.77, 0.17), (74.91, 0.20), (74.16, 0.18), (68.79, 0.35),
            (74.85, 0.23), (76.61, 0.18))),
        "kd-pick": (PICK, (
            (75.59, 0.22), (70.99, 0.20), (74.78, 0.35), (74.43, 0.20), (69.49, 0.32),
            (74.95, 0.18), (76.90, 0.25))),
        "kd-pick-960": (LONG, (
            (76.41, 0.10), 71.66, None, (75.00, 0.17), (70.47, 0.12), (76.13, 0.16), 77.90)),
        "crd": (CRD, (
            (75.64, 0.21), (71.63, 0.15), (75.46, 0.25), (74.29, 0.12), (69.94, 0.05),
            (74.58, 0.27), (76.05, 0.09))),
        "crd-pick": (CRD_PICK, (
            (75.96, 0.27), (71.41, 0.26), (76.11, 0.53), (74.65, 0.12), (69.95, 0.22),
            (75.35, 0.22), (76.93, 0.11))),
        "crd-pick-960": (f"{CRD_PICK},{LONG}", (
            (76.61, 0.01), (72.40, 0.20), (75.96, 0.29), (75.41, 0.10), (70.84, 0.05),
            (76.20, 0.22), (78.51, 0.27))),
    }),
    "Table 4": ("dataset=tiny", tuple(PAIRS), {
        "teacher": (TEACHER, (61.28, 58.37, 64.41, 62.59, 62.59, 68.20, 64.41)),
        "student": (STUDENT, (58.23, 52.53, 55.41, 56.67, 58.20, 56.67, 62.07)),
        "kd": (KD, ((58.65, 0.09), (53.58, 0.18), (55.67, 0.09), (61.48, 0.36), (59.28, 0.13),
                    (60.39, 0.16), (66.34, 0.11))),
        "kd-480": (f"{KD},{TWICE}", (
            (59.20, 0.30), (54.23, 0.24), (55.49, 0.11), (61.72, 0.10), (59.27, 0.08),
            (60.10, 0.30), (65.81, 0.11))),
        "kd-cutmix": (CUTMIX, (
            (59.06, 0.18), (53.77, 0.33), (56.41, 0.04), (62.17, 0.11), (60.48, 0.30),
            (61.12, 0.18), (67.01, 0.30))),
        "kd-pick": (PICK, (
            (59.22, 0.05), (53.66, 0.05), (56.82, 0.23), (62.32, 0.18), (60.53, 0.18),
            (61.40, 0.26), (67.08, 0.13))),
        "kd-pick-480": (TWICE, (
            (60.07, 0.04), (54.25, 0.07), (57.54, 0.23), (62.60, 0.25), (60.66, 0.15),
            (61.95, 0.14), (67.35, 0.21))),
        "crd": (CRD, (
            (60.79, 0.24), (55.34, 0.02), (59.28, 0.13), (62.92, 0.31), (62.38, 0.19),
            (62.03, 0.16), (67.33, 0.13))),
        "crd-pick": (CRD_PICK, (
            (60.72, 0.09), (54.99, 0.16), (59.65, 0.24), (63.39, 0.10), (62.54, 0.22),
            (62.85, 0.18), (67.64, 0.18))),
        "crd-pick-480": (f"{CRD_PICK},{TWICE}", (
            (60.99, 0.33), (55.68, 0.22), (60.13, 0.13), (63.60, 0.20), (62.79, 0.03),
            (62.60, 0.17), (67.70, 0.35))),
    }),
}
NOTES = {
    "teacher": "the paper took RepDistiller's for CIFAR-100 and trained its own for Tiny ImageNet",
    "student": "quoted for CIFAR-100",
    "crd": "CRD+KD, as in the public tables that the figures are from",
}


def _row(table: str, always: str, name: str, options: str, pair: str, figure: Any) -> Row:
    mean, deviation = figure if isinstance(figure, tuple) else (figure, None)
    note = NOTES.get(name, "mean of 3 runs, last epoch")
    return Row(
        table, f"{table.lower().replace(' ', '')}-{name}-{pair}",
        ",".join(filter(None, (always, f"pair={pair}", options))),
        {} if mean is None else {"accuracy": mean},
        {} if deviation is None else {"accuracy": deviation},
        note if mean is not None else "not legible in our copy",
    )


PAPER = "001"
ROWS = (
    *(_row(table, always, name, options, pair, figure)
      for table, (always, pairs, rows) in TABLES.items()
      for name, (options, figures) in rows.items()
      for pair, figure in zip(pairs, figures, strict=True)),
    *(Row("Figure 4", f"figure4-{dataset}-{pair}", f"dataset={dataset},pair={pair}", {},
          note="the paper prints a curve of the ratio that pick logs")
      for dataset in SOURCES for pair in THREE),
)
FACTORS = (0.5, 1.0, 2.0, 3.0, 4.0)


def _panel(pair: str, da: str) -> tuple[Cell, ...]:
    """Returns the runs of a panel of Figures 1 and 3, of a pair with or without augmentation."""
    student, short = PAIRS[pair][1], {"standard": "da", "none": "no-da"}[da]
    return tuple(
        Cell(
            f"{student}-{short}-{loss}-{round(factor * EPOCHS)}",
            f"pair={pair},loss={loss},da={da},epoch_factor={factor},runs=3",
            {"networks.teacher.checkpoint": f"cell:teacher-{pair}"} if loss == "kd" else {},
        )
        for loss in ("kd", "ce") for factor in FACTORS
    )


CELLS = {
    "figures-1-3": (
        *(Cell(f"teacher-{pair}", f"pair={pair},{TEACHER}") for pair in THREE),
        *(cell for pair in THREE for da in ("standard", "none") for cell in _panel(pair, da)),
    ),
}
FIGURES = {"Figure 1": "figures-1-3", "Figure 3": "figures-1-3"}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of(*SOURCES), pair=one_of(*PAIRS), stage=one_of("student", "teacher"),
        loss=one_of("kd", "crd", "ce"), kd=True,
        da=one_of("cutmix-pick", "cutmix", "mixup", "standard", "none"),
        by=one_of("kl", "teacher_entropy", "student_entropy"), pool=one_of(2, 1),
        epoch_factor=1.0, runs=1, holdout=False,
    )
    _check(options)
    if options.stage == "teacher":
        options.da = "standard"
    side = 16 if options.smoke else SIDES[options.dataset]
    teacher, student = PAIRS[options.pair]
    normal = NORMAL[options.dataset]
    plain = f"pad_crop({side // 8})|flip"
    config = default()
    with config.unlocked():
        source, test, classes = SOURCES[options.dataset]
        read_splits(config, source, test, options.holdout, classes)
        config.data.batch_size = 64
        config.views.x = "" if options.da == "none" else plain
        config.networks.student = network(student, trainable=True, **normal)
        if options.loss != "ce":
            config.networks.teacher = network(teacher, **normal, recipe=(
                ("views.x", plain), ("train.epochs", EPOCHS), ("optim", _sgd(teacher, 1.0)),
            ))
        mixed = _mixed(options)
        if mixed and options.loss != "ce":
            config.views.mixed = mixed
        _put_terms(config, options)
        config.optim = _sgd(student, options.epoch_factor)
        config.train.epochs = EPOCHS * options.epoch_factor
        repeat(config, options.runs)
        config.eval.metrics = ("accuracy", "top5", "nll")
        if options.smoke and options.loss == "crd":
            config.terms.crd.negatives = 32
        finish_cifar(config, options, SMALL, side)
    return teacher_alone(config) if options.stage == "teacher" else config


def _check(options: ConfigDict) -> None:
    check(options.epoch_factor > 0, f"option epoch_factor={options.epoch_factor}", "more than 0")
    check_runs(options)
    refuse_idle(
        options, options.stage == "teacher",
        ("loss", "kd", "da", "by", "pool", "epoch_factor", "runs"), "with stage=teacher",
    )
    check(options.kd or options.loss == "crd", f"option kd=False with loss={options.loss}",
          "loss=ce is without distillation, loss=crd,kd=False is CRD alone")
    check(options.kd or options.da in ("standard", "none"),
          f"option da={options.da} makes images for the KL, which kd=False leaves out",
          "add da=standard")
    picks = options.da == "cutmix-pick" and options.loss != "ce"
    refuse_idle(options, not picks, ("by", "pool"),
                "without da=cutmix-pick and loss=kd or crd")
    check(options.loss != "ce" or options.da not in ("cutmix", "mixup"),
          f"option da={options.da} is for distillation", "drop loss=ce, or use da=standard")


def _mixed(options: ConfigDict) -> str:
    """Returns the view x', on which there is no cross entropy."""
    cutmix = 'cutmix(1.0, partner="derangement")'
    return {
        "cutmix-pick": f'view("x")|repeat({options.pool})|{cutmix}|pick("{options.by}")',
        "cutmix": f'view("x")|{cutmix}',
        "mixup": 'view("x")|mixup(1.0, partner="derangement")',
        "standard": "", "none": "",
    }[options.da]


def _put_terms(config: ConfigDict, options: ConfigDict) -> None:
    ce_weight, kd_weight = {
        "kd": (1.0 - ALPHA, ALPHA), "crd": (1.0, 1.0), "ce": (1.0, 0.0)
    }[options.loss]
    config.terms.ce = term("cross_entropy", on=("x",), weight=ce_weight, gradient_group="task")
    if options.loss == "crd":
        config.terms.crd = term(
            "crd", on=("x",), teacher="teacher", features=("pooled",), weight=CRD_WEIGHT, dim=128,
            negatives=16384, temperature=0.07, momentum=0.5, gradient_group="distill",
        )
    if options.loss != "ce" and options.kd:
        config.terms.kd = term(
            "kl", on=("x", "mixed") if "mixed" in config.views else ("x",), teacher="teacher",
            temperature=TEMPERATURE, weight=kd_weight, gradient_group="distill",
        )


def _sgd(name: str, factor: float) -> dict[str, Any]:
    schedule = dict(
        name="milestones", base=0.01 if name in MOBILE else 0.05, unit="epoch", warmup=0.0,
        at=tuple(factor * epoch for epoch in MILESTONES), factor=0.1,
    )
    return optimizer("sgd", schedule, momentum=0.9, nesterov=False, weight_decay=5e-4)
