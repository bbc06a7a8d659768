"""ResNet-34 teaches ResNet-18 on ImageNet, with CutMix and picked views (paper 001).

Wang et al. 2020, "Knowledge Distillation Thrives on Data Augmentation", Table 5: accuracies in %,
one run each, no spread.

| row of Table 5 | options | top-1 | top-5 |
|---|---|---|---|
| teacher, torchvision's | `stage=teacher` | 73.31 | 91.42 |
| student, torchvision's | `method=ce` | 69.75 | 89.07 |
| KD | (none) | 70.66 | 89.88 |
| KD+CutMix 200 | `da=cutmix,epoch_factor=2` | 71.22 | 90.43 |
| KD+CutMix-pick 200 | `da=cutmix-pick,epoch_factor=2` | 71.20 | 90.45 |
| SP | `method=sp` | 70.62 | 89.80 |
| AT | `method=at` | 70.70 | 90.00 |
| CRD | `method=crd` | 71.38 | 90.49 |

    python main.py --config=configs/wang2020_imagenet.py --workdir=runs/wang_imagenet \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16

KD, SP, AT and CRD are quoted, from the tables of CRD's authors it seems, where 71.38 and 90.49 are
CRD with KD (71.17 and 90.13 alone); so `method=crd` is, unless `kd=False`.

Options: `stage`, `student`, or `teacher` to train the teacher by itself; `method`: `kd`, `at`,
`sp`, `crd`, `ce` (no distillation); `kd=False`, CRD alone; `da`, what x' is: `standard` (no x'),
`cutmix`, `cutmix-pick`; `pool`, 2 or 1, see wang2020_cifar100.py; `epoch_factor`, milestones scale
with it; `runs`, seeds through one compiled step;
`replica_batch`, images whose statistics BatchNorm takes together, 0 for the whole batch; `holdout`,
to keep 2 % of the training split for choices; `smoke`.

In the paper: batch 256, 100 epochs (200), rate 0.1, x 0.1 at 30, 60, 90, α = 0.9, τ = 4. From the
recipe of PyTorch's examples, which CRD's authors take: momentum 0.9, decay 1e-4 on everything,
torchvision's crops. From RepDistiller: AT 1,000 on the four stages, SP 3,000 on the last, CRD 0.8
with 16,384 negatives and, beside it, KL at τ = 4 with weight 1; what ran for the quoted rows of AT
and SP is not told. Our reading: one BatchNorm over the batch; on eight devices of 32 images each
PyTorch has groups of 32 (`replica_batch=32`).

The teacher of the paper is torchvision's: import its file with
--config.networks.teacher.checkpoint; else it is trained first, by the same recipe for 100 epochs,
into <workdir>/teacher.

Cost: 1 x 3.7 billion multiply-adds an image for the teacher, 3 x 1.8 for the student: 1.2e18 a run
of KD. It has not been run here.
"""

from __future__ import annotations

from typing import Any

from configs.common import (
    SMOKE_SIDE,
    check,
    check_runs,
    imagenet_network,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
    repeat,
    shrink_imagenet,
    teacher_alone,
)
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, optimizer, term

PAPER = "001"
RESULTS = {
    "teacher": ("stage=teacher", 73.31, 91.42),
    "student": ("method=ce", 69.75, 89.07),
    "kd": ("", 70.66, 89.88),
    "kd-cutmix-200": ("da=cutmix,epoch_factor=2", 71.22, 90.43),
    "kd-pick-200": ("da=cutmix-pick,epoch_factor=2", 71.20, 90.45),
    "sp": ("method=sp", 70.62, 89.80),
    "at": ("method=at", 70.70, 90.00),
    "crd": ("method=crd", 71.38, 90.49),
}
QUOTED = {"teacher", "student", "kd", "sp", "at", "crd"}
ROWS = tuple(
    Row("Table 5", f"table5-{name}", options, {"accuracy": top1, "top5": top5},
        note="quoted by the paper" if name in QUOTED else "one run")
    for name, (options, top1, top5) in RESULTS.items()
)
CELLS: dict = {}

TEACHER, STUDENT = "tv_resnet34", "tv_resnet18"
SMALL = {
    TEACHER: (TEACHER, dict(width=0.125)), STUDENT: (STUDENT, dict(width=0.125)),
}
EPOCHS, MILESTONES = 100.0, (30.0, 60.0, 90.0)
ALPHA, TEMPERATURE = 0.9, 4.0
# Weights of cross entropy and KL by method.
WEIGHTS = {"kd": (1.0 - ALPHA, ALPHA), "crd": (1.0, 1.0), "at": (1.0, 0.0), "sp": (1.0, 0.0),
           "ce": (1.0, 0.0)}
FEATURE_TERMS = {
    "at": dict(features=("layer1", "layer2", "layer3", "layer4"), weight=1000.0),
    "sp": dict(features=("layer4",), weight=3000.0),
    "crd": dict(features=("pooled",), weight=0.8, dim=128, negatives=16384, temperature=0.07,
                momentum=0.5),
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, stage=one_of("student", "teacher"), method=one_of(*WEIGHTS), kd=True,
        da=one_of("standard", "cutmix", "cutmix-pick"), pool=one_of(2, 1), epoch_factor=1.0,
        runs=1, replica_batch=0, holdout=False,
    )
    _check(options)
    side = SMOKE_SIDE if options.smoke else 224
    plain = f"random_resized_crop({side})|flip"
    config = default()
    with config.unlocked():
        read_splits(config, "folder:data/imagenet", "validation", options.holdout)
        config.data.batch_size = 256
        config.views.x = plain
        config.eval.view = f"resize_shorter({side * 8 // 7})|crop_center({side})"
        config.networks.student = imagenet_network(STUDENT, trainable=True)
        if options.method != "ce":
            config.networks.teacher = imagenet_network(TEACHER, recipe=(
                ("views.x", plain), ("train.epochs", EPOCHS), ("optim", _sgd(1.0)),
            ))
        _put_terms(config, options)
        config.optim = _sgd(options.epoch_factor)
        config.train.epochs = EPOCHS * options.epoch_factor
        config.train.replica_batch_size = options.replica_batch
        repeat(config, options.runs)
        config.eval.metrics = ("accuracy", "top5", "nll")
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
        config.log.every_steps = 100
        if options.smoke:
            shrink_imagenet(config, SMALL)
            if options.method == "crd":
                config.terms.crd.negatives = 32
    return teacher_alone(config) if options.stage == "teacher" else config.lock()


def _put_terms(config: ConfigDict, options: ConfigDict) -> None:
    ce_weight, kd_weight = WEIGHTS[options.method]
    config.terms.ce = term("cross_entropy", on=("x",), weight=ce_weight, gradient_group="task")
    if options.method in FEATURE_TERMS:
        config.terms[options.method] = term(
            options.method, on=("x",), teacher="teacher", gradient_group="distill",
            **FEATURE_TERMS[options.method],
        )
    if options.da != "standard":
        config.views.mixed = {
            "cutmix": 'view("x")|cutmix(1.0, partner="derangement")',
            "cutmix-pick": f'view("x")|repeat({options.pool})|'
                           'cutmix(1.0, partner="derangement")|pick("kl")',
        }[options.da]
    if kd_weight and options.kd:
        config.terms.kd = term(
            "kl", on=tuple(config.views), teacher="teacher", temperature=TEMPERATURE,
            weight=kd_weight, gradient_group="distill",
        )


def _sgd(factor: float) -> dict[str, Any]:
    schedule = dict(
        name="milestones", base=0.1, unit="epoch", warmup=0.0,
        at=tuple(factor * epoch for epoch in MILESTONES), factor=0.1,
    )
    return optimizer("sgd", schedule, momentum=0.9, nesterov=False, weight_decay=1e-4)


def _check(options: ConfigDict) -> None:
    check(options.epoch_factor > 0, f"option epoch_factor={options.epoch_factor}", "more than 0")
    check_runs(options)
    check(options.replica_batch >= 0 and not 256 % (options.replica_batch or 1),
          f"option replica_batch={options.replica_batch}", "0, or a divisor of the batch of 256")
    refuse_idle(options, options.stage == "teacher",
                ("method", "kd", "da", "pool", "epoch_factor", "runs"), "with stage=teacher")
    refuse_idle(options, options.da != "cutmix-pick", ("pool",), "without da=cutmix-pick")
    check(options.kd or options.method == "crd", f"option kd=False with method={options.method}",
          "method=ce is without distillation, method=crd,kd=False is CRD alone")
    check(options.da == "standard" or WEIGHTS[options.method][1] and options.kd,
          f"option da={options.da} makes images for a KL that this run has not",
          "use method=kd, or crd with kd")
