"""Function matching: the student imitates a patient teacher on the same mixed images, and no label.

Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent": the loss is
KL at temperature 1 alone; teacher and student see one and the same crop, mixed by mixup with
another one, and the training is very long. Top-1 accuracy in %, from the README of
google-research/big_vision @ 2f3f493, proj/distill.

| Table 1 | options | accuracy |
|---|---|---|
| BiT-R50x1 at 224 pixels | - | 82.8 |
| BiT-R50x1 at 160 pixels | - | 80.5 |
| BiT-R152x2 at 224 pixels, its teacher | - | 83.0 |
| BiT-R152x2 at 384 pixels, its teacher | - | 84.3 |

    python main.py --config=configs/function_matching.py --workdir=runs/matching \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16 \
      --config.networks.teacher.checkpoint=DIR

    python main.py --config=configs/function_matching.py:dataset=cifar100,epochs=600 \
      --workdir=runs/matching_cifar --config.data.source=cifar100:/data

Options: `dataset`, imagenet (tv_resnet152 teaches tv_resnet50) or cifar100 (resnet32x4 teaches
resnet8x4); `epochs` (1200); `temperature` (1); `mix=False`, without mixup; `consistent=False`, the
teacher sees the whole image at the student's size instead of the student's crop (and then nothing
is mixed), which the paper finds to be worse; `holdout`, to keep 2 % of the training split for
choices; `smoke`.

From big_vision's config: batch 4,096, 1,200 epochs, inception crops, flip, mixup of one Beta(1, 1)
a batch, Adam at rate 0.03 with a warm-up of 5,000 steps and cosine, gradients clipped to norm 1,
decay 3e-4 a step, which is 0.01 times the rate; 98 % of the training split there, all of it here
unless `holdout`. What differs: the networks of the rows are BiT ResNets with group normalisation
and weight standardisation, which are not here, so that no row can be run; with BatchNorm take a
rate of your own choice, such as --config.optim.schedule.base=0.003. The form for CIFAR-100 is ours
and has no published figure: rate 0.003, batch 512, RepDistiller's normalisation.

The teacher is trained first, by SGD on crops and flips, into <workdir>/teacher, unless
--config.networks.teacher.checkpoint names a directory or file.

Cost: 11.5 billion multiply-adds an image for the teacher, 3 x 4.1 for the student: 3.7e19 a run of
1,200 epochs. It has not been run here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from configs.common import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SMOKE_SIDE,
    check,
    one_of,
    parse_arg,
    put_distillation,
    read_splits,
    refuse_idle,
    shrink_imagenet,
)
from configs.wang2020_cifar100 import NORMAL
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, optimizer

PAPER = "function-matching"
BIT = "of BiT ResNets, which are not here"
ROWS = (
    Row("Table 1", "bit-r50x1-224", None, {"accuracy": 82.8}, note=f"{BIT}; epoch not told"),
    Row("Table 1", "bit-r50x1-160", None, {"accuracy": 80.5}, note=f"{BIT}; epoch not told"),
    Row("Table 1", "bit-r152x2-224", None, {"accuracy": 83.0}, note=f"{BIT}; the teacher"),
    Row("Table 1", "bit-r152x2-384", None, {"accuracy": 84.3}, note=f"{BIT}; the teacher"),
)
CELLS: dict = {}


class Setting(NamedTuple):
    """What depends on the data set: source and splits, networks, sizes, and Adam's rate."""

    source: str
    test: str
    classes: int
    teacher: str
    student: str
    normal: dict[str, Any]
    side: int
    batch_size: int
    rate: float
    warmup_epochs: float
    teacher_epochs: float
    teacher_decay: float


SETTINGS = {
    "imagenet": Setting(
        "folder:data/imagenet", "validation", 1000, "tv_resnet152", "tv_resnet50",
        dict(mean=IMAGENET_MEAN, std=IMAGENET_STD), 224, 4096, 0.03,
        5000 * 4096 / 1_281_167, 100.0, 1e-4,
    ),
    "cifar100": Setting(
        "cifar100:data", "test", 100, "resnet32x4", "resnet8x4", NORMAL["cifar100"], 32, 512,
        0.003, 10.0, 240.0, 5e-4,
    ),
}
SMALL = {
    "tv_resnet152": ("tv_resnet50", dict(width=0.125)),
    "tv_resnet50": ("tv_resnet50", dict(width=0.125)), "resnet32x4": "resnet8x4",
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of(*SETTINGS), epochs=1200.0, temperature=1.0, mix=True, consistent=True,
        holdout=False,
    )
    setting = SETTINGS[options.dataset]
    check(options.epochs > setting.warmup_epochs, f"option epochs={options.epochs}",
          f"more than the warm-up of {setting.warmup_epochs:.1f}")
    check(options.temperature > 0, f"option temperature={options.temperature}", "more than 0")
    refuse_idle(options, not options.consistent, ("mix",), "with consistent=False")
    side = SMOKE_SIDE if options.smoke else setting.side
    uncropped = (
        f"center_crop({side})" if options.dataset == "imagenet" else f"resize({side}, {side})"
    )
    crop = f"inception_crop({side})|flip"
    config = default()
    with config.unlocked():
        read_splits(
            config, setting.source, setting.test, options.holdout, classes=setting.classes
        )
        config.data.batch_size = setting.batch_size
        mixes = options.mix and options.consistent
        config.views.x = f"{crop}|mixup(1.0)" if mixes else crop
        if not options.consistent:
            config.views.x_uncropped = uncropped
        config.eval.view = uncropped
        config.networks.student = network(setting.student, trainable=True, **setting.normal)
        config.networks.teacher = network(setting.teacher, **setting.normal, recipe=(
            ("views", {"x": crop}), ("data.batch_size", 256),
            ("train.epochs", setting.teacher_epochs),
            ("optim", optimizer(
                "sgd", dict(name="cosine", base=0.1, unit="epoch", warmup=5.0, end=0.0),
                momentum=0.9, nesterov=True, weight_decay=setting.teacher_decay,
            )),
        ))
        put_distillation(
            config, "kd", "kl", 1.0, temperature=options.temperature,
            teacher="teacher" if options.consistent else "teacher@x_uncropped",
        )
        config.optim = optimizer(
            "adamw",
            dict(name="cosine", base=setting.rate, unit="epoch", warmup=setting.warmup_epochs,
                 end=0.0),
            b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, decay="kernels", clip_norm=1.0,
        )
        config.train.epochs = options.epochs
        config.eval.metrics = ("accuracy", "top5", "nll")
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
        config.log.every_steps = 100
        if options.smoke:
            shrink_imagenet(config, SMALL)
    return config.lock()
