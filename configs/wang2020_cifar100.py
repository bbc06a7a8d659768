"""Distillation on mixed and picked views of CIFAR-100 and Tiny ImageNet (paper 001).

Wang et al. 2020, "Knowledge Distillation Thrives on Data Augmentation": student accuracies in %,
mean (standard deviation) of 3 runs, last epoch.

| CIFAR-100, Tables 1-3: `pair=` | wrn_40_2-wrn_16_2 | resnet56-resnet20 | resnet32x4-resnet8x4 |
|---|---|---|---|
| teacher; student without: `loss=ce` | 75.61; 73.26 | 72.34; 69.06 | 79.42; 72.50 |
| KD: `da=standard` | 74.92 (0.28) | 70.66 (0.24) | 73.33 (0.25) |
| KD 960: `da=standard,epoch_factor=4` | 75.68 (0.12) | 71.79 (0.29) | 73.14 (0.06) |
| KD (mixup): `da=mixup` | 75.33 (0.07) | 71.00 (0.16) | |
| KD+CutMix: `da=cutmix` | 75.34 (0.19) | 70.77 (0.17) | 74.91 (0.20) |
| pick by teacher's entropy: `by=teacher_entropy` | 75.46 (0.07) | 70.88 (0.10) | |
| pick by student's entropy: `by=student_entropy` | 75.52 (0.06) | 70.84 (0.12) | |
| KD+CutMix-pick: the default | 75.59 (0.22) | 70.99 (0.20) | 74.78 (0.35) |
| KD+CutMix-pick 960: `epoch_factor=4` | 76.41 (0.10) | 71.66 | ? |
| CRD: `loss=crd,da=standard` | 75.64 (0.21) | 71.63 (0.15) | ? |
| CRD+CutMix-pick: `loss=crd` | 75.96 (0.27) | 71.41 (0.26) | ? |
| CRD+CutMix-pick 960 | 76.61 (0.01) | 72.40 (0.20) | 75.96 (0.29) |

| `pair=` | vgg13-vgg8 | vgg13-mobilenetv2 | resnet50-vgg8 | resnet32x4-shufflev2 |
|---|---|---|---|---|
| teacher; student without | 74.64; 70.36 | 74.64; 64.60 | 79.34; 70.36 | 79.42; 71.82 |
| KD | 72.98 (0.19) | 67.37 (0.32) | 73.81 (0.13) | 74.45 (0.27) |
| KD 960 | 74.00 (0.34) | 68.77 (0.05) | 74.04 (0.25) | 74.64 (0.30) |
| KD+CutMix | 74.16 (0.18) | 68.79 (0.35) | 74.85 (0.23) | 76.61 (0.18) |
| KD+CutMix-pick | 74.43 (0.20) | 69.49 (0.32) | 74.95 (0.18) | 76.90 (0.25) |
| CRD | 74.29 (0.12) | 69.94 (0.05) | 74.58 (0.27) | 76.05 (0.09) |
| CRD+CutMix-pick | 74.65 (0.12) | 69.95 (0.22) | 75.35 (0.22) | 76.93 (0.11) |

Of the three marked ? two are 75.46 (0.25) and 76.11 (0.53), which we could not tell apart.

Tiny ImageNet, Table 4, `dataset=tiny`, the pairs in the same order:

| | wrn | resnet20 | resnet8x4 | vgg8 | mobile | resnet50 | shuffle |
|---|---|---|---|---|---|---|---|
| teacher | 61.28 | 58.37 | 64.41 | 62.59 | 62.59 | 68.20 | 64.41 |
| KD | 58.65 | 53.58 | 55.67 | 61.48 | 59.28 | 60.39 | 66.34 |
| KD+CutMix-pick | 59.22 | 53.66 | 56.82 | 62.32 | 60.53 | 61.40 | 67.08 |
| KD+CutMix-pick 480: `epoch_factor=2` | 60.07 | 54.25 | 57.54 | 62.60 | 60.66 | 61.95 | 67.35 |

    python main.py --config=configs/wang2020_cifar100.py:runs=3 --workdir=runs/wang_wrn \
      --config.data.source=cifar100:/data

Options: `dataset`, `pair`; `loss`: `kd`, `crd`, `ce` (no distillation); `da`, what x' is:
`cutmix-pick`, `cutmix`, `mixup`, `standard` (no x'), `none` (x as stored, Figures 1 and 3); `by`;
`pool`, 2 (two CutMix draws of the batch, of which as many as the batch has are kept, the later
code) or 1 (one draw, half kept, the text); `epoch_factor`, milestones scale with it; `runs`, seeds
through one compiled step; `holdout`, to keep 2 % of the training split for choices; `smoke`.

In the paper: batch 64, 240 epochs, rate 0.05, x 0.1 at 150, 180, 210, α = 0.9, τ = 4. From
RepDistiller, whose settings the paper takes: plain momentum 0.9, decay 5e-4 on everything, rate
0.01 for the mobile students, crop 32 with 4 and flip; CRD with 128 dimensions, 16,384 negatives,
temperature 0.07, momentum 0.5, weight 0.8. From the later code: KL of x' has the weight of KL of x,
a mixed image never meets itself, crop 64 with 8 on Tiny ImageNet. Our reading of CRD+CutMix-pick,
whose weights are not printed: CE + 0.8 CRD(x) + KL(x) + KL(x'). Tiny ImageNet's test labels are not
public; its validation split is reported, of the folder as it is unpacked.

The teacher is trained first, for 240 epochs on x, into <workdir>/teacher, unless
--config.networks.teacher.checkpoint names its directory. The paper took RepDistiller's.

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
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
)
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
    "cifar100": ("cifar100:data", "test"),
    "tiny": ("tinyimagenet:data/tiny-imagenet-200", "validation"),
}
SIDES = {"cifar100": 32, "tiny": 64}
SMALL = {
    "wrn_40_2": "wrn_10_2", "wrn_16_2": "wrn_10_1", "resnet56": "resnet14", "resnet20": "resnet8",
    "resnet32x4": "resnet8x4", "vgg13": "vgg8",
    "resnet50_cifar": ("resnet50_cifar", dict(width=0.125)),
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of(*SOURCES), pair=one_of(*PAIRS), loss=one_of("kd", "crd", "ce"),
        da=one_of("cutmix-pick", "cutmix", "mixup", "standard", "none"),
        by=one_of("kl", "teacher_entropy", "student_entropy"), pool=one_of(2, 1),
        epoch_factor=1.0, runs=1, holdout=False,
    )
    check(options.epoch_factor > 0, f"option epoch_factor={options.epoch_factor}", "more than 0")
    check(options.runs >= 1, f"option runs={options.runs}", "at least 1")
    picks = options.da == "cutmix-pick" and options.loss != "ce"
    refuse_idle(options, not picks, ("by", "pool"),
                "without da=cutmix-pick and loss=kd or crd")
    check(options.loss != "ce" or options.da not in ("cutmix", "mixup"),
          f"option da={options.da} is for distillation", "drop loss=ce, or use da=standard")
    side = 16 if options.smoke else SIDES[options.dataset]
    teacher, student = PAIRS[options.pair]
    normal = NORMAL[options.dataset]
    plain = f"pad_crop({side // 8})|flip"
    config = default()
    with config.unlocked():
        read_splits(config, *SOURCES[options.dataset], options.holdout)
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
        if options.runs > 1:
            config.population = (("seed", tuple(range(options.runs))),)
        config.eval.metrics = ("accuracy", "top5", "nll")
        if options.smoke and options.loss == "crd":
            config.terms.crd.negatives = 32
        return finish_cifar(config, options, SMALL, side)


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
    # CRD's own row has no KL.
    if options.loss == "kd" or (options.loss == "crd" and "mixed" in config.views):
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
