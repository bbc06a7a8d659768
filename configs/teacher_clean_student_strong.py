"""The teacher answers a clean image, the student a strongly augmented one of the same crop.

Two ways to teach on strong augmentation, which this config compares: the teacher sees the student's
distorted image and says what is still to be seen in it (paper 000, function matching), or it sees
the clean image and the student learns that the distortion changes nothing (as consistency training
has it). This is an experiment of our own, not a row of a table; what to expect is not known.

| options | teacher sees | student sees |
|---|---|---|
| (none) | crop, flip | the same crop and flip, then RandAugment and Cutout |
| `teacher_sees=strong` | what the student sees | crop, flip, RandAugment, Cutout |
| `kd=False` | nothing: the student alone | crop, flip, RandAugment, Cutout |

    python main.py --config=configs/teacher_clean_student_strong.py --workdir=runs/clean \
      --config.data.source=cifar100:/data

Options: `dataset`, cifar100 or cifar10; `teacher_sees`, clean or strong; `strong`, the policy:
randaugment, trivialaugment, autoaugment; `magnitude` of RandAugment (14, of 30); `cutout`, side of
the square (16), 0 for none; `kd=False`; `temperature` (4); `weight` of KL (0.9), that of cross
entropy is 1 less it; `runs`, seeds through one compiled step;
`holdout`, to keep 2 % of the training split for choices; `smoke`.

wrn_40_2 teaches wrn_16_2 by RepDistiller's recipe: batch 64, 240 epochs, rate 0.05, x 0.1 at 150,
180, 210, momentum 0.9, decay 5e-4. The teacher is trained first, on clean images, into
<workdir>/teacher, unless --config.networks.teacher.checkpoint names its directory; runs with
`teacher_sees` of either kind train the same one, so give the second the teacher of the first.

Cost: 0.33 billion multiply-adds an image for the teacher, 3 x 0.10 for the student: 7.6e15 a run.
It has not been run here.
"""

from __future__ import annotations

from configs.common import (
    check,
    check_runs,
    finish_cifar,
    one_of,
    parse_arg,
    put_cross_entropy,
    put_distillation,
    read_splits,
    refuse_idle,
    repeat,
)
from kdaug_jax.experiment.sections import ConfigDict, default, network, optimizer

CLASSES = {"cifar100": 100, "cifar10": 10}
TEACHER, STUDENT = "wrn_40_2", "wrn_16_2"
SMALL = {TEACHER: "wrn_10_2", STUDENT: "wrn_10_1"}
EPOCHS, MILESTONES = 240.0, (150.0, 180.0, 210.0)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of(*CLASSES), teacher_sees=one_of("clean", "strong"),
        strong=one_of("randaugment", "trivialaugment", "autoaugment"), magnitude=14, cutout=16,
        kd=True, temperature=4.0, weight=0.9, runs=1, holdout=False,
    )
    _check(options)
    side = 16 if options.smoke else 32
    policy = {
        "randaugment": f"randaugment(2, {options.magnitude})",
        "trivialaugment": "trivialaugment_wide()",
        "autoaugment": 'autoaugment("cifar10")',
    }[options.strong]
    distort = f"{policy}|cutout({options.cutout * side // 32})" if options.cutout else policy
    clean = f"pad_crop({side // 8})|flip"
    recipe = optimizer(
        "sgd", dict(name="milestones", base=0.05, unit="epoch", warmup=0.0, at=MILESTONES,
                    factor=0.1),
        momentum=0.9, nesterov=False, weight_decay=5e-4,
    )
    config = default()
    with config.unlocked():
        classes = CLASSES[options.dataset]
        read_splits(config, f"{options.dataset}:data", "test", options.holdout, classes)
        config.data.batch_size = 64
        config.networks.student = network(STUDENT, trainable=True)
        if options.kd and options.teacher_sees == "clean":
            config.views.clean = clean
            config.views.x = f'view("clean")|{distort}'
        else:
            config.views.x = f"{clean}|{distort}"
        put_cross_entropy(config, 1.0 - options.weight if options.kd else 1.0)
        if options.kd:
            config.networks.teacher = network(TEACHER, recipe=(
                ("views", {"x": clean}),
                ("terms.ce.on", ("x",)), ("train.epochs", EPOCHS), ("optim", recipe),
            ))
            put_distillation(
                config, "kd", "kl", options.weight, temperature=options.temperature,
                teacher="teacher@clean" if options.teacher_sees == "clean" else "teacher",
            )
        config.optim = recipe
        config.train.epochs = EPOCHS
        repeat(config, options.runs)
        return finish_cifar(config, options, SMALL, side)


def _check(options: ConfigDict) -> None:
    check_runs(options)
    check(0 < options.weight <= 1, f"option weight={options.weight}", "more than 0, at most 1")
    check(options.temperature > 0, f"option temperature={options.temperature}", "more than 0")
    check(0 <= options.magnitude <= 30, f"option magnitude={options.magnitude}", "0..30")
    check(0 <= options.cutout <= 32, f"option cutout={options.cutout}", "0..32")
    refuse_idle(options, not options.kd, ("teacher_sees", "temperature", "weight"),
                "with kd=False")
    refuse_idle(options, options.strong != "randaugment", ("magnitude",),
                f"with strong={options.strong}")
