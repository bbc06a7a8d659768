"""Teachers trained with augmentation, students without: LeNet and AlexNet on CIFAR-10, MNIST.

Das et al. 2020, "An Empirical Analysis of the Impact of Data Augmentation on Knowledge
Distillation" (paper 004). One run each, no spread. Accuracies of CIFAR-10 and MNIST are in %.

    python main.py --config=configs/das2020_cifar10.py:teacher_aug=cutmix \
      --workdir=runs/das_cutmix --config.data.source=cifar10:/data

| Table 1: `teacher_aug=` | none | augment | cutout | mixup | cutmix |
|---|---|---|---|---|---|
| `stage=teacher`, accuracy | 85.2 | 94.0 | 88.0 | 86.8 | 95.4 |
| `stage=teacher`, KLD | 0.656 | 0.466 | 0.220 | 0.641 | 0.524 |
| `stage=teacher`, ECE | 0.205 | 0.255 | 0.237 | 0.170 | 0.252 |
| `student=lenet`, accuracy | 65.2 | 63.1 | 64.4 | 63.3 | 62.1 |
| `student=lenet`, KLD | 1.002 | 0.951 | 0.987 | 0.991 | 0.987 |
| `student=lenet`, ECE | 0.150 | 0.070 | 0.109 | 0.033 | 0.280 |
| `student=alexnet`, accuracy | 76.9 | 77.7 | 78.5 | 71.4 | 72.0 |
| `student=alexnet`, KLD | 0.710 | 0.735 | 0.726 | 0.836 | 0.776 |
| `student=alexnet`, ECE | 0.149 | 0.210 | 0.249 | 0.130 | 0.062 |

| Teachers of Table 1, stored with the code | none | augment | cutout | mixup | cutmix |
|---|---|---|---|---|---|
| class-mean KLD | 0.081 | 0.014 | 0.051 | 0.224 | 0.016 |
| ECE | 0.096 | 0.040 | 0.073 | 0.021 | 0.016 |
| MCE | 0.146 | 0.070 | 0.108 | 0.033 | 0.028 |

KLD is to people's answers, CIFAR-10H (`human=FILE`). The printed ECEs of the teachers cannot come
from such accuracies; those stored beside the code can. The teacher of 95.4 was probably trained
with crop and flip as well (`teacher_aug=cutmix+augment`): CutMix alone does not bring a ResNet-18
there. `mixup+augment` is there for comparison. Never average the two forms.

| Table 2: CINIC-10, `cinic=DIR` | none | augment | cutout | mixup | cutmix |
|---|---|---|---|---|---|
| `stage=teacher` | 0.600 | 0.687 | 0.630 | 0.614 | 0.716 |
| `student=lenet` | 0.457 | 0.439 | 0.451 | 0.444 | 0.439 |
| `student=alexnet` | 0.544 | 0.549 | 0.555 | 0.498 | 0.499 |

| Table 3: `dataset=mnist`, `teacher_aug=` | teacher | loss | student | loss |
|---|---|---|---|---|
| none | 99.58 | 0.020 | 98.68 | 0.039 |
| mixup | 99.60 | 0.010 | 98.86 | 0.074 |
| cutmix | 99.38 | 0.104 | 98.61 | 0.107 |

| Table 4, separability | none | augment | cutout | mixup | cutmix |
|---|---|---|---|---|---|
| teacher | 3.73 | 5.19 | 4.30 | 5.32 | 5.33 |
| lenet | 3.21 | 3.14 | 3.14 | 2.92 | 2.89 |
| alexnet | 3.07 | 3.23 | 3.41 | 2.17 | 2.27 |

| Table 5, teachers | none | augment | cutout | mixup | cutmix |
|---|---|---|---|---|---|
| cohesion | 0.739 | 0.886 | 0.783 | 0.793 | 0.917 |
| adhesion | -0.041 | -0.049 | -0.043 | -0.042 | -0.050 |
| discrimination | 0.246 | 0.296 | 0.261 | 0.255 | 0.306 |

| Table 6: `teacher_aug=` | accuracy | precision | recall | F1 | CINIC acc. | prec. | recall | F1 |
|---|---|---|---|---|---|---|---|---|
| none, lenet | 65.2 | 0.648 | 0.652 | 0.650 | 0.456 | 0.452 | 0.457 | 0.449 |
| none, alexnet | 76.8 | 0.767 | 0.769 | 0.768 | 0.544 | 0.550 | 0.544 | 0.529 |
| augment, lenet | 63.1 | 0.632 | 0.631 | 0.474 | 0.439 | 0.434 | 0.435 | 0.435 |
| augment, alexnet | 77.7 | 0.776 | 0.777 | 0.766 | 0.549 | 0.557 | 0.549 | 0.535 |
| cutout, lenet | 64.4 | 0.643 | 0.644 | 0.643 | 0.451 | 0.447 | 0.451 | 0.445 |
| cutout, alexnet | 78.5 | 0.783 | 0.785 | 0.784 | 0.554 | 0.562 | 0.554 | 0.540 |
| mixup, lenet | 63.3 | 0.631 | 0.633 | 0.632 | 0.444 | 0.435 | 0.443 | 0.433 |
| mixup, alexnet | 71.4 | 0.712 | 0.714 | 0.712 | 0.497 | 0.501 | 0.498 | 0.477 |
| cutmix, lenet | 62.1 | 0.617 | 0.621 | 0.619 | 0.439 | 0.434 | 0.439 | 0.435 |
| cutmix, alexnet | 72.0 | 0.717 | 0.720 | 0.718 | 0.498 | 0.502 | 0.498 | 0.478 |

| Table 7: `student_aug=` | accuracy | precision | recall | F1 | CINIC acc. | prec. | recall | F1 |
|---|---|---|---|---|---|---|---|---|
| none | 65.2 | 0.648 | 0.652 | 0.650 | 0.456 | 0.452 | 0.457 | 0.449 |
| augment | 64.1 | 0.639 | 0.641 | 0.639 | 0.451 | 0.446 | 0.451 | 0.444 |
| cutout | 63.5 | 0.630 | 0.635 | 0.632 | 0.446 | 0.446 | 0.439 | 0.441 |
| mixup | 64.7 | 0.645 | 0.647 | 0.647 | 0.457 | 0.455 | 0.457 | 0.452 |
| cutmix | 62.9 | 0.626 | 0.629 | 0.627 | 0.439 | 0.433 | 0.439 | 0.434 |

| Table 8: both alike | accuracy | precision | recall | F1 | CINIC acc. | prec. | recall | F1 |
|---|---|---|---|---|---|---|---|---|
| none | 65.2 | 0.648 | 0.652 | 0.650 | 0.456 | 0.452 | 0.457 | 0.449 |
| augment | 64.1 | 0.637 | 0.641 | 0.638 | 0.445 | 0.441 | 0.445 | 0.441 |
| cutout | 63.6 | 0.643 | 0.636 | 0.638 | 0.440 | 0.451 | 0.440 | 0.440 |
| mixup | 62.6 | 0.622 | 0.626 | 0.624 | 0.440 | 0.437 | 0.440 | 0.431 |
| cutmix | 63.5 | 0.631 | 0.635 | 0.633 | 0.446 | 0.443 | 0.446 | 0.441 |

| Table 9: `stage=teacher` | accuracy | precision | recall | F1 | CINIC acc. | prec. | recall | F1 |
|---|---|---|---|---|---|---|---|---|
| none | 85.2 | 0.851 | 0.852 | 0.851 | 0.600 | 0.602 | 0.600 | 0.593 |
| augment | 94.0 | 0.940 | 0.940 | 0.940 | 0.630 | 0.620 | 0.628 | 0.629 |
| cutout | 87.9 | 0.878 | 0.880 | 0.879 | 0.629 | 0.620 | 0.628 | 0.630 |
| mixup | 86.7 | 0.954 | 0.867 | 0.953 | 0.603 | 0.606 | 0.603 | 0.598 |
| cutmix | 95.4 | 0.869 | 0.954 | 0.868 | 0.710 | 0.707 | 0.720 | 0.710 |

In Table 6 the F1 of "augment, lenet" and in Table 9 precision and F1 of mixup and cutmix, which
stand in each other's rows, are misprints; the CINIC accuracies of Table 9 are not those of Table 2.
Table 7 has the plain teacher, Table 8 `teacher_aug=A,student_aug=A`. In Tables 7 and 8 both
networks see the student's images, and cross entropy their mixed labels; the code has no such
students.

Options: `dataset`, `student`; `stage`, `student`, or `teacher` to train the teacher by itself;
`teacher_aug`, `student_aug` (both networks then see those images, and cross entropy their mixed
labels); `reduction`, `batch` for the equation, `element` for the code, whose KL is also divided by
the classes; `cutmix_prob` 0.5, the text's; 1.0 is what the code did; `holes` in Cutout, 1 in the
code, 16 in the text, and `length`, their side in pixels, by default 16 of a single hole and 4 of
several (of 16 holes of 16 pixels 3 % of an image would stay visible); `student_lr` 1e-4, the code's
when CIFAR students were trained, or 0.1, its later default, which with momentum 0.99 may diverge;
`epochs` (250; 150 to 250 in the code's versions; MNIST 150); `size=32`, MNIST at 32 pixels, where
LeNet has the 62,006 parameters of the paper instead of 44,726; `select`, `last` checkpoint, or
`best_test_loss`, which is chosen on the test split, as the code did (`--mode=evaluate
--checkpoint=best` evaluates it); `human=cifar10h-counts.npy`, CIFAR-10H of its authors, for the KL
to people's answers on the test split; `cinic=DIR`, CINIC-10, whose 70,000 test images of ImageNet
are evaluated at the end as `cinic`; `holdout`, to keep 2 % of the training split for choices;
`smoke`.

Teacher and student are measured alike: top-1, loss, precision, recall, F1, ECE and MCE in 10 bins
as in the code, their reliability diagram, class separability, cohesion and discrimination of the
penultimate layer as Table 5 has them (half the adhesion, over the root of the number of classes).
Class means of people's answers and of the network's are among the arrays of `results.npz`
(`human_class_means`, `class_means`). For t-SNE the penultimate embeddings of each split and of
CINIC-10 are written to `<workdir>/evaluations/<step>-<split or cinic>.npz` by

    python main.py --mode=evaluate --config=configs/das2020_cifar10.py:teacher_aug=cutmix \
      --workdir=runs/das_cutmix --config.data.source=cifar10:/data \
      --config.eval.metrics="('accuracy', 'nll', 'embedding')"

In the paper: T = 20, both weights 0.5. From the code: batch 128 (MNIST students 16), teachers with
SGD 0.9, rate 0.1 (MNIST 1e-4), x 0.1 at epochs 60, 80, 120, decay 1e-4; students with momentum
0.99, no decay, no augmentation.

The teacher is trained first, into <workdir>/teacher, unless --config.networks.teacher.checkpoint
names its directory.

Cost: 0.56 billion multiply-adds an image for the teacher's forward pass: 2.1e16 to train it, and
0.7e16 for each student, of which LeNet is next to nothing. It has not been run here.
"""

from __future__ import annotations

from typing import Any

from configs.common import (
    check,
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
    teacher_alone,
)
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, optimizer, term

AUGMENTATIONS = (
    "none", "augment", "cutout", "mixup", "cutmix", "cutmix+augment", "mixup+augment"
)
ON_MNIST = ("none", "mixup", "cutmix")
# Of all data sets, as in the code.
MEAN = tuple(255 * share for share in (0.4914, 0.4822, 0.4465))
STD = tuple(255 * share for share in (0.247, 0.243, 0.261))
METRICS = (
    "accuracy", "nll", "macro", "ece", "mce", "reliability", "separability", "discrimination"
)
STUDENTS = {"lenet": "lenet_vrm", "alexnet": "alexnet_vrm"}
SMALL = {
    "resnet18_cifar": ("resnet18_cifar", dict(width=0.125)),
    "alexnet_vrm": ("alexnet_vrm", dict(width=0.125)),
}

# Figures of the tables, by augmentation in the order of PRINTED.
PRINTED = ("none", "augment", "cutout", "mixup", "cutmix")
NETWORKS = ("teacher", "lenet", "alexnet")
# By network: accuracy in %, KL to people's answers, ECE.
TABLE_1 = {
    "teacher": ((85.2, 0.656, 0.205), (94, 0.466, 0.255), (88, 0.22, 0.237),
                (86.8, 0.641, 0.17), (95.4, 0.524, 0.252)),
    "lenet": ((65.2, 1.002, 0.15), (63.1, 0.951, 0.07), (64.4, 0.987, 0.109),
              (63.3, 0.991, 0.033), (62.1, 0.987, 0.28)),
    "alexnet": ((76.9, 0.71, 0.149), (77.7, 0.735, 0.21), (78.5, 0.726, 0.249),
                (71.4, 0.836, 0.13), (72, 0.776, 0.062)),
}
# Of teachers: KL of class means to people's, ECE, MCE.
STORED = ((0.081, 0.096, 0.146), (0.014, 0.04, 0.07), (0.051, 0.073, 0.108),
          (0.224, 0.021, 0.033), (0.016, 0.016, 0.028))
# By augmentation: of teacher, LeNet and AlexNet.
TABLE_2 = ((0.6, 0.457, 0.544), (0.687, 0.439, 0.549), (0.63, 0.451, 0.555),
           (0.614, 0.444, 0.498), (0.716, 0.439, 0.499))
TABLE_3 = {"none": (99.58, 0.02, 98.68, 0.039), "mixup": (99.6, 0.01, 98.86, 0.074),
           "cutmix": (99.38, 0.104, 98.61, 0.107)}
TABLE_4 = ((3.73, 3.21, 3.07), (5.19, 3.14, 3.23), (4.3, 3.14, 3.41),
           (5.32, 2.92, 2.17), (5.33, 2.89, 2.27))
TABLE_5 = ((0.739, -0.041, 0.246), (0.886, -0.049, 0.296), (0.783, -0.043, 0.261),
           (0.793, -0.042, 0.255), (0.917, -0.05, 0.306))
# Accuracy in %, precision, recall, F1 on CIFAR-10; the four on CINIC-10 as fractions.
BOTH_SETS = ("accuracy", "precision", "recall", "f1",
             "cinic/accuracy", "cinic/precision", "cinic/recall", "cinic/f1")
TABLE_6_LENET = (
    (65.2, 0.648, 0.652, 0.65, 0.456, 0.452, 0.457, 0.449),
    (63.1, 0.632, 0.631, 0.474, 0.439, 0.434, 0.435, 0.435),
    (64.4, 0.643, 0.644, 0.643, 0.451, 0.447, 0.451, 0.445),
    (63.3, 0.631, 0.633, 0.632, 0.444, 0.435, 0.443, 0.433),
    (62.1, 0.617, 0.621, 0.619, 0.439, 0.434, 0.439, 0.435),
)
TABLE_6_ALEXNET = (
    (76.8, 0.767, 0.769, 0.768, 0.544, 0.55, 0.544, 0.529),
    (77.7, 0.776, 0.777, 0.766, 0.549, 0.557, 0.549, 0.535),
    (78.5, 0.783, 0.785, 0.784, 0.554, 0.562, 0.554, 0.54),
    (71.4, 0.712, 0.714, 0.712, 0.497, 0.501, 0.498, 0.477),
    (72, 0.717, 0.72, 0.718, 0.498, 0.502, 0.498, 0.478),
)
TABLE_7 = (
    (65.2, 0.648, 0.652, 0.65, 0.456, 0.452, 0.457, 0.449),
    (64.1, 0.639, 0.641, 0.639, 0.451, 0.446, 0.451, 0.444),
    (63.5, 0.63, 0.635, 0.632, 0.446, 0.446, 0.439, 0.441),
    (64.7, 0.645, 0.647, 0.647, 0.457, 0.455, 0.457, 0.452),
    (62.9, 0.626, 0.629, 0.627, 0.439, 0.433, 0.439, 0.434),
)
TABLE_8 = (
    (65.2, 0.648, 0.652, 0.65, 0.456, 0.452, 0.457, 0.449),
    (64.1, 0.637, 0.641, 0.638, 0.445, 0.441, 0.445, 0.441),
    (63.6, 0.643, 0.636, 0.638, 0.44, 0.451, 0.44, 0.44),
    (62.6, 0.622, 0.626, 0.624, 0.44, 0.437, 0.44, 0.431),
    (63.5, 0.631, 0.635, 0.633, 0.446, 0.443, 0.446, 0.441),
)
TABLE_9 = (
    (85.2, 0.851, 0.852, 0.851, 0.6, 0.602, 0.6, 0.593),
    (94, 0.94, 0.94, 0.94, 0.63, 0.62, 0.628, 0.629),
    (87.9, 0.878, 0.88, 0.879, 0.629, 0.62, 0.628, 0.63),
    (86.7, 0.954, 0.867, 0.953, 0.603, 0.606, 0.603, 0.598),
    (95.4, 0.869, 0.954, 0.868, 0.71, 0.707, 0.72, 0.71),
)
HUMAN, CINIC = "human=data/cifar10h-counts.npy", "cinic=data/CINIC-10"


def _rows(
    table: str, name: str, options: str, measures: tuple[str, ...], figures: Any, note: str = ""
) -> tuple[Row, ...]:
    """Returns a row of a table for each augmentation, which stands as AUG in its options."""
    start = table.lower().replace(" ", "")
    return tuple(
        Row(table, f"{start}-{name}-{augmentation}", options.replace("AUG", augmentation),
            dict(zip(measures, values, strict=True)), note=note)
        for augmentation, values in zip(PRINTED, figures, strict=True)
    )


def _of_network(name: str) -> str:
    """Returns the options of the network of a table's column."""
    return "stage=teacher,teacher_aug=AUG" if name == "teacher" else (
        f"student={name},teacher_aug=AUG"
    )


PAPER = "004"
ROWS = (
    *(row for name in NETWORKS for row in _rows(
        "Table 1", name, f"{_of_network(name)},{HUMAN}", ("accuracy", "human_kl", "ece"),
        TABLE_1[name])),
    *_rows("Table 1", "teacher-stored", f"{_of_network('teacher')},{HUMAN}",
           ("human_kl_class", "ece", "mce"), STORED, "stored with the authors' code"),
    *(row for column, name in enumerate(NETWORKS) for row in _rows(
        "Table 2", name, f"{_of_network(name)},{CINIC}", ("cinic/accuracy",),
        [figures[column:column + 1] for figures in TABLE_2])),
    *(row for augmentation, (accuracy, loss, taught, taught_loss) in TABLE_3.items() for row in (
        Row("Table 3", f"table3-teacher-{augmentation}",
            f"dataset=mnist,stage=teacher,teacher_aug={augmentation}",
            {"accuracy": accuracy, "nll": loss}),
        Row("Table 3", f"table3-student-{augmentation}",
            f"dataset=mnist,teacher_aug={augmentation}",
            {"accuracy": taught, "nll": taught_loss}))),
    *(row for column, name in enumerate(NETWORKS) for row in _rows(
        "Table 4", name, _of_network(name), ("class_separability",),
        [figures[column:column + 1] for figures in TABLE_4])),
    *_rows("Table 5", "teacher", _of_network("teacher"),
           ("cohesion", "adhesion", "discrimination"), TABLE_5),
    *_rows("Table 6", "lenet", f"{_of_network('lenet')},{CINIC}", BOTH_SETS, TABLE_6_LENET),
    *_rows("Table 6", "alexnet", f"{_of_network('alexnet')},{CINIC}", BOTH_SETS, TABLE_6_ALEXNET),
    *_rows("Table 7", "lenet", f"student_aug=AUG,{CINIC}", BOTH_SETS, TABLE_7),
    *_rows("Table 8", "lenet", f"teacher_aug=AUG,student_aug=AUG,{CINIC}", BOTH_SETS, TABLE_8),
    *_rows("Table 9", "teacher", f"{_of_network('teacher')},{CINIC}", BOTH_SETS, TABLE_9),
)
CELLS: dict = {}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of("cifar10", "mnist"), student=one_of(*STUDENTS),
        stage=one_of("student", "teacher"),
        teacher_aug=one_of(*AUGMENTATIONS), student_aug=one_of(*AUGMENTATIONS),
        reduction=one_of("batch", "element"), cutmix_prob=0.5, holes=1, length=0, student_lr=1e-4,
        epochs=0.0, size=one_of(0, 32), select=one_of("last", "best_test_loss"), human="",
        cinic="", holdout=False,
    )
    _check(options)
    mnist, side = options.dataset == "mnist", 16 if options.smoke else 32
    normal = dict(mean=MEAN, std=STD)
    config = default()
    with config.unlocked():
        source = "idx:data/mnist" if mnist else "cifar10:data"
        read_splits(config, source, "test", options.holdout, classes=10)
        config.data.batch_size = 16 if mnist else 128
        config.views.x = view(options.student_aug, options, side)
        config.networks.student = network(STUDENTS[options.student], trainable=True, **normal)
        config.networks.teacher = network(
            "alexnet_vrm" if mnist else "resnet18_cifar", **normal,
            recipe=(
                ("views.x", view(options.teacher_aug, options, side)),
                ("data.batch_size", 128),
                ("optim", sgd(1e-4 if mnist else 0.1, momentum=0.9, weight_decay=1e-4)),
            ),
        )
        config.terms.ce = term("cross_entropy", on=("x",), weight=0.5, gradient_group="task")
        config.terms.kd = term(
            "kl", on=("x",), teacher="teacher", temperature=20.0, weight=0.5,
            class_mean=options.reduction == "element", gradient_group="distill",
        )
        config.optim = sgd(options.student_lr, momentum=0.99, weight_decay=0.0)
        config.train.epochs = options.epochs or (150.0 if mnist else 250.0)
        config.eval.metrics = METRICS
        if options.human and not options.smoke:
            config.eval.metrics, config.eval.human = (*METRICS, "human"), options.human
        if options.cinic and not options.smoke:  # of each class's files CIFAR's come first
            config.eval.sets = (
                ("cinic", f"cinic10:{options.cinic},stratified(test[20000:])"),
            )
        if options.size:
            config.eval.view = _resized("", options, side)
        config.eval.bins = 10
        config.eval.table5 = True
        finish_cifar(config, options, SMALL, side)
    if options.stage == "teacher":
        config = teacher_alone(config)
    if not options.holdout:  # what is chosen would be chosen on the test split
        with config.unlocked():
            best = options.select == "best_test_loss"
            config.checkpoint.best = "eval/validation/nll" if best else ""
    return config


def view(name: str, options: ConfigDict, side: int) -> str:
    """Returns the view of an augmentation of the paper."""
    square = (options.length or (16 if options.holes == 1 else 4)) * side // 32
    stages = {
        "augment": f"pad_crop({side // 8})|flip",
        "cutout": f"cutout({square}, n_holes={options.holes})",
        "mixup": "mixup(1.0)",
        "cutmix": f"cutmix(1.0, probability={options.cutmix_prob})",
    }
    # Crop and flip come before the images are mixed.
    parts = (stages[part] for part in reversed(name.split("+")) if part != "none")
    return _resized("|".join(parts), options, side)


def _resized(text: str, options: ConfigDict, side: int) -> str:
    """Returns a view after images were brought to the size of option size, if there is one."""
    return "|".join(filter(None, (f"resize({side}, {side})" if options.size else "", text)))


def sgd(rate: float, **fields: Any) -> dict[str, Any]:
    """Returns the optimiser of the code with its milestones."""
    schedule = dict(
        name="milestones", base=rate, unit="epoch", warmup=0.0, at=(60.0, 80.0, 120.0), factor=0.1
    )
    return optimizer("sgd", schedule, nesterov=False, **fields)


def _check(options: ConfigDict) -> None:
    check(options.epochs >= 0.0, f"option epochs={options.epochs}", "0 for the usual, or more")
    check(not (options.human and options.dataset == "mnist"), "option human is of CIFAR-10",
          "drop it")
    augmentations = f"{options.teacher_aug}+{options.student_aug}".split("+")
    for name, needed in (("cutmix_prob", "cutmix"), ("holes", "cutout"), ("length", "cutout")):
        refuse_idle(options, needed not in augmentations, (name,), f"without {needed}")
    check(options.student_lr > 0.0, f"option student_lr={options.student_lr}", "more than 0")
    check(options.holes >= 1, f"option holes={options.holes}", "at least 1")
    check(0 <= options.length <= 32, f"option length={options.length}", "1 to 32, 0 for the usual")
    refuse_idle(options, options.stage == "teacher",
                ("student", "student_aug", "reduction", "student_lr"), "with stage=teacher")
    check(not options.size or options.dataset == "mnist", "option size is of MNIST", "drop it")
    check(not (options.cinic and options.dataset == "mnist"), "option cinic is of CIFAR-10",
          "drop it")
    check(not (options.holdout and options.select != "last"),
          "option select=best_test_loss chooses on the test split, which holdout keeps out",
          "drop one of them")
    check(0 <= options.cutmix_prob <= 1, f"option cutmix_prob={options.cutmix_prob}", "0 to 1")
    if options.dataset == "mnist":
        for name in ("teacher_aug", "student_aug"):
            check(options[name] in ON_MNIST, f"mnist has no row of {name}={options[name]}",
                  "use " + ", ".join(ON_MNIST))
        check(options.student == "lenet", "mnist has no row of student=alexnet", "use lenet")
