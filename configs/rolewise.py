"""Full-precision teachers and quantised students on learned schedules (paper 003, role-wise).

Fu et al. 2020, "Role-Wise Data Augmentation for Knowledge Distillation": Tables 1 to 4, accuracies
in %, one run each, no spread. S and T stand for files of learned schedules, see below.

| Table 1: CIFAR-100, ResNet-18 | soft | dml | rkd | mhgd | kd_svd | ii_kd |
|---|---|---|---|---|---|---|
| `bits=4,method=...,schedule=S` | 70.48 | 72.47 | 71.84 | 73.52 | 73.92 | 74.21 |
| `bits=2,method=...,schedule=S` | 70.09 | 69.72 | 70.71 | 71.80 | 72.97 | 73.35 |

| Table 2: options | AlexNet C10 | AlexNet C100 | ResNet-18 C10 | ResNet-18 C100 |
|---|---|---|---|---|
| vanilla: `stage=teacher` | 90.58 | 65.80 | 93.57 | 74.85 |
| `method=none,bits=4` | 89.72 | 60.25 | 90.97 | 69.81 |
| `method=none,bits=2` | 88.77 | 58.96 | 90.00 | 67.06 |
| stage α: `stage=teacher,schedule=T` | 91.62 | 66.40 | 94.49 | 75.19 |
| `method=none,bits=4,schedule=T` | 90.06 | 60.65 | 91.47 | 70.24 |
| `method=none,bits=2,schedule=T` | 89.28 | 58.59 | 89.99 | 67.32 |
| only II-KD: `bits=4` | 90.55 | 65.55 | 91.42 | 73.85 |
| `bits=2` | 89.18 | 63.49 | 90.60 | 72.44 |
| stage β: `bits=4,schedule=S,teacher_schedule=T` | 92.00 | 65.69 | 94.44 | 74.21 |
| `bits=2,schedule=S,teacher_schedule=T` | 90.63 | 64.06 | 93.20 | 73.35 |

| Table 3: CIFAR-100, 4 bits | AlexNet dml | mhgd | ii_kd | ResNet-18 dml | mhgd | ii_kd |
|---|---|---|---|---|---|---|
| the teacher's: `schedule=T` | 61.61 | 61.62 | 64.97 | 71.78 | 69.76 | 73.46 |
| the student's: `schedule=S` | 63.73 | 63.47 | 65.69 | 72.47 | 73.52 | 74.21 |

| Table 4: CIFAR-100, full precision, `pair=...` | vanilla | stage α | only II-KD | stage β |
|---|---|---|---|---|
| wrn_28_10-wrn_16_2 | 72.68 | 73.79 | 74.41 | 76.19 |
| wrn_28_10-wrn_16_4 | 77.28 | 78.01 | 79.30 | 80.59 |
| wrn_28_10-preresnet56 | 71.98 | 73.45 | 73.04 | 74.91 |
| preresnet164-preresnet32 | 70.28 | 71.68 | 70.53 | 72.14 |
| pyramidnet200-preresnet44 | 71.55 | 73.31 | 73.00 | 73.71 |
| pyramidnet200-wrn_16_2 | 72.68 | 73.79 | 74.64 | 75.03 |

| Table 4, its teachers: `stage=teacher,pair=...` | accuracy |
|---|---|
| wrn_28_10 | 80.73 |
| preresnet164 | 72.24 |
| pyramidnet200 | 84.43 |

    python main.py --workdir=runs/rolewise --config.data.source=cifar100:/data \
      --config=configs/rolewise.py:schedule=S.json,teacher_schedule=T.json

Schedules are files, see `read_schedule` in kdaug_jax/augment/policies/pba.py; none is part of this
repository. The rows look for data/schedules/NAME.json, of these 36 searches:

| searches | number | NAME |
|---|---|---|
| stage α, teachers, on CIFAR-10 and transferred | five | alpha-NETWORK |
| stage β, Table 2, II-KD | eight | beta-NETWORK-DATA-BITS-ii_kd |
| stage β, Table 1, the other methods | ten | beta-resnet18-cifar100-BITS-METHOD |
| stage β, Table 3, AlexNet | two | beta-alexnet-cifar100-4-METHOD |
| Table 4, students without distillation | five | alone-STUDENT |
| Table 4, students with II-KD | six | pair-PAIR |

Which schedule the rows of stage α at 4 and 2 bits use is not told; the rows have that of the
network in full precision, any other file may be given. Nor is it told whether the teachers of "only
II-KD" were trained on one; here they were not.

Options: `stage`, `student`, or `teacher`, which trains the teacher by itself, on `schedule`;
`dataset`, `network` (`resnet18`, `alexnet`), `bits`, `method`, `schedule`, `teacher_schedule`;
`pair` instead of `network` and `bits`, with `method` `ii_kd` or `none`; `cutout`, side of the
square that ends the view at 32 pixels: 16 on CIFAR-10 and 8 on CIFAR-100 as in the code, 0 for
none (that rows without a schedule have it too is our reading); `mode`, `paper` or
`official_code`; `holdout`, to keep 2 % of the training split for choices;
`smoke`.

In the paper: 200 epochs, batch 128, rate times 0.1 after every 30 % of them; full precision: rate
0.1, decay 5e-4; quantised: 1e-3 and 1e-5, from the teacher's weights; λ 0.4 for II-KD and 1 for the
others, halved every 60 epochs; the gradient of II-KD, KD-SVD and MHGD clipped variable by variable.
Our reading: Nesterov momentum 0.9 throughout; mutual learning with the teacher held fixed; vanilla
students with the quantised recipe, from scratch.

`official_code`: rates fall at 30, 60 and 80 %; Adam (eps 1e-5) with decay on kernels only for
II-KD, MHGD and DML students, Nesterov and decay on everything for the others; λ times 0.6 at 30, 60
and 80 % for RKD and DML and without effect on clipped gradients; soft labels at T = 3, 0.7 and 0.3
without T^2; attention is never trained, its kernels start by fan-in; networks are evaluated with
the statistics of each batch of 128, 9,984 of the 10,000 images; DML trains the teacher too, from
random weights (both at once here, in turns there).

The losses of KD-SVD and MHGD are sums over the batch, as in the code: of their means so little
would be left beside the cross entropy that the rows were almost without distillation. The
experiments of Table 4 are not in the code; their features are the ends of the stages after their
last ReLU, and pass an adapter where widths differ.

Teachers are trained first, into <workdir>/teacher, unless --config.networks.teacher.checkpoint
names a directory.

Cost: 4 x 0.56 billion multiply-adds an image, 2.2e16 a run with ResNet-18, and 1.7e16 for the
teacher; II-KD's singular vectors not counted. It has not been run here.
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

CLASSES = {"cifar100": 100, "cifar10": 10}
QUANTISED = {"resnet18": "rolekd_resnet18", "alexnet": "rolekd_alexnet"}
FEATS = ("feat0", "feat1", "feat2", "feat3")
PYRAMID = "pyramidnet200_a240"
PAIRS = {
    "wrn_28_10-wrn_16_2": ("wrn_28_10", "wrn_16_2"),
    "wrn_28_10-wrn_16_4": ("wrn_28_10", "wrn_16_4"),
    "wrn_28_10-preresnet56": ("wrn_28_10", "preresnet56"),
    "preresnet164-preresnet32": ("preresnet164", "preresnet32"),
    "pyramidnet200-preresnet44": (PYRAMID, "preresnet44"),
    "pyramidnet200-wrn_16_2": (PYRAMID, "wrn_16_2"),
}
METHODS = ("ii_kd", "none", "soft", "dml", "rkd", "mhgd", "kd_svd")
CLIPPED = ("ii_kd", "mhgd", "kd_svd")
ADAM = ("ii_kd", "mhgd", "dml")
MILESTONES = {"paper": (60.0, 120.0, 180.0), "official_code": (60.0, 120.0, 160.0)}
SMALL = {
    "rolekd_resnet18": ("rolekd_resnet18", dict(width=0.125)),
    "rolekd_alexnet": ("rolekd_alexnet", dict(width=0.0625)),
    **{f"wrn_{kind}": "wrn_10_1" for kind in ("28_10", "16_2", "16_4")},
    "preresnet164": "preresnet20", "preresnet56": "preresnet20", "preresnet44": "preresnet20",
    "preresnet32": "preresnet20", PYRAMID: "pyramidnet11_a6",
}
CUTOUT = {"cifar100": 8, "cifar10": 16}
BY_DATA_SET = -1

# Rows.
BITS = (4, 2)
COLUMNS = (("alexnet", "cifar10"), ("alexnet", "cifar100"), ("resnet18", "cifar10"),
           ("resnet18", "cifar100"))
TABLE_1 = {
    4: (70.48, 72.47, 71.84, 73.52, 73.92, 74.21),
    2: (70.09, 69.72, 70.71, 71.80, 72.97, 73.35),
}
TABLE_1_METHODS = ("soft", "dml", "rkd", "mhgd", "kd_svd", "ii_kd")
TABLE_2 = {
    ("vanilla", 32): (90.58, 65.80, 93.57, 74.85),
    ("vanilla", 4): (89.72, 60.25, 90.97, 69.81),
    ("vanilla", 2): (88.77, 58.96, 90.00, 67.06),
    ("stage-alpha", 32): (91.62, 66.40, 94.49, 75.19),
    ("stage-alpha", 4): (90.06, 60.65, 91.47, 70.24),
    ("stage-alpha", 2): (89.28, 58.59, 89.99, 67.32),
    ("only-ii_kd", 4): (90.55, 65.55, 91.42, 73.85),
    ("only-ii_kd", 2): (89.18, 63.49, 90.60, 72.44),
    ("stage-beta", 4): (92.00, 65.69, 94.44, 74.21),
    ("stage-beta", 2): (90.63, 64.06, 93.20, 73.35),
}
TABLE_3_METHODS = ("dml", "mhgd", "ii_kd")
TABLE_3 = {
    ("teacher", "alexnet"): (61.61, 61.62, 64.97),
    ("teacher", "resnet18"): (71.78, 69.76, 73.46),
    ("student", "alexnet"): (63.73, 63.47, 65.69),
    ("student", "resnet18"): (72.47, 73.52, 74.21),
}
TABLE_4 = {
    "wrn_28_10-wrn_16_2": (72.68, 73.79, 74.41, 76.19),
    "wrn_28_10-wrn_16_4": (77.28, 78.01, 79.30, 80.59),
    "wrn_28_10-preresnet56": (71.98, 73.45, 73.04, 74.91),
    "preresnet164-preresnet32": (70.28, 71.68, 70.53, 72.14),
    "pyramidnet200-preresnet44": (71.55, 73.31, 73.00, 73.71),
    "pyramidnet200-wrn_16_2": (72.68, 73.79, 74.64, 75.03),
}
TABLE_4_TEACHERS = {
    "wrn_28_10-wrn_16_2": 80.73, "preresnet164-preresnet32": 72.24,
    "pyramidnet200-preresnet44": 84.43,
}
NOT_TOLD = "whether its teacher was trained on a learned schedule is not told"


def _file(name: str) -> str:
    return f"data/schedules/{name}.json"


def _alpha(name: str) -> str:
    return _file(f"alpha-{name}")


def _beta(network_name: str, dataset: str, bits: int, method: str) -> str:
    return _file(f"beta-{network_name}-{dataset}-{bits}-{method}")


def _distilled(name: str, dataset: str, bits: int, method: str, schedule: str = "") -> str:
    """Returns the options of a student that is distilled on learned schedules."""
    return (
        f"network={name},dataset={dataset},bits={bits},method={method},"
        f"schedule={schedule or _beta(name, dataset, bits, method)},teacher_schedule={_alpha(name)}"
    )


def _table_2(pipeline: str, bits: int, name: str, dataset: str) -> tuple[str, str]:
    """Returns options and note of a cell of Table 2."""
    start = f"network={name},dataset={dataset}"
    alone = "stage=teacher" if bits == 32 else f"bits={bits},method=none"
    if pipeline == "vanilla":
        return f"{start},{alone}", ""
    if pipeline == "stage-alpha":
        note = "" if bits == 32 else "which schedule it had is not told; here the 32-bit network's"
        return f"{start},{alone},schedule={_alpha(name)}", note
    if pipeline == "only-ii_kd":
        return f"{start},bits={bits},method=ii_kd", NOT_TOLD
    return _distilled(name, dataset, bits, "ii_kd"), ""


def _table_4(pair: str) -> dict[str, tuple[str, str]]:
    """Returns options and note of the cells of a row of Table 4."""
    teacher, student = pair.split("-")
    alone = f"pair={pair},method=none"
    return {
        "vanilla": (alone, "the student alone: the same for each teacher"),
        "stage-alpha": (f"{alone},schedule={_file(f'alone-{student}')}",
                        "the student alone, on a schedule that was searched for it alone"),
        "only-ii_kd": (f"pair={pair}", NOT_TOLD),
        "stage-beta": (f"pair={pair},schedule={_file(f'pair-{pair}')},"
                       f"teacher_schedule={_alpha(teacher)}", ""),
    }


def _with_cutout(row: Row) -> Row:
    """Returns a row that says so if it has no schedule, and Cutout by our reading."""
    if "schedule=" in row.options:
        return row
    return row._replace(note="; ".join(filter(None, (row.note, CUTOUT_READING))))


PAPER = "003"
CUTOUT_READING = "with Cutout, as rows on a schedule: our reading, cutout=0 leaves it out"
ROWS = tuple(map(_with_cutout, (
    *(Row("Table 1", f"table1-{bits}bit-{method}",
          _distilled("resnet18", "cifar100", bits, method), {"accuracy": accuracy},
          note="with the schedule that was learned for the method")
      for bits, accuracies in TABLE_1.items()
      for method, accuracy in zip(TABLE_1_METHODS, accuracies, strict=True)),
    *(Row("Table 2", f"table2-{name}-{dataset}-{pipeline}-{bits}bit", options,
          {"accuracy": accuracy}, note=note)
      for (pipeline, bits), accuracies in TABLE_2.items()
      for (name, dataset), accuracy in zip(COLUMNS, accuracies, strict=True)
      for options, note in (_table_2(pipeline, bits, name, dataset),)),
    *(Row("Table 3", f"table3-{name}-{method}-schedule-of-{role}",
          _distilled(name, "cifar100", 4, method, _alpha(name) if role == "teacher" else ""),
          {"accuracy": accuracy})
      for (role, name), accuracies in TABLE_3.items()
      for method, accuracy in zip(TABLE_3_METHODS, accuracies, strict=True)),
    *(Row("Table 4", f"table4-{pair}-{pipeline}", options, {"accuracy": accuracy}, note=note)
      for pair, accuracies in TABLE_4.items()
      for (pipeline, (options, note)), accuracy in zip(
          _table_4(pair).items(), accuracies, strict=True)),
    *(Row("Table 4", f"table4-teacher-{pair.split('-')[0]}", f"stage=teacher,pair={pair}",
          {"accuracy": accuracy}, note="on which schedule is not told")
      for pair, accuracy in TABLE_4_TEACHERS.items()),
)))
CELLS: dict = {}
SEARCHES = tuple(sorted({
    word.partition("=")[2] for row in ROWS for word in row.options.split(",") if "schedule=" in word
}))


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, stage=one_of("student", "teacher"), dataset=one_of(*CLASSES),
        network=one_of(*QUANTISED), bits=one_of(*BITS), method=one_of(*METHODS), schedule="",
        teacher_schedule="", pair=one_of("none", *PAIRS), cutout=BY_DATA_SET,
        mode=one_of("paper", "official_code"), holdout=False,
    )
    _check(options)
    if options.cutout == BY_DATA_SET:
        options.cutout = CUTOUT[options.dataset]
    if options.stage == "teacher":  # the frozen network of a student's run, on its own schedule
        options.teacher_schedule, options.method = options.schedule, "soft"
    side = 16 if options.smoke else 32
    config = default()
    with config.unlocked():
        read_splits(
            config, f"{options.dataset}:data", "test", options.holdout, CLASSES[options.dataset]
        )
        config.data.batch_size = 128
        config.views.x = view(options.schedule, options, side)
        _put_networks(config, options, side)
        _put_terms(config, options)
        config.optim = _optimizer(options)
        config.eval.batch_statistics = options.mode == "official_code"
        config.train.epochs = 200.0
        finish_cifar(config, options, SMALL, side)
    return teacher_alone(config) if options.stage == "teacher" else config


def view(schedule: str, options: ConfigDict, side: int) -> str:
    """Returns crop, flip and Cutout, after the policy of a schedule file if there is one."""
    levels = "" if side == 32 else ', levels="released_scaled"'
    policy = f'schedule("{schedule}"{levels})|' if schedule else ""
    square = f"|cutout({options.cutout * side // 32})" if options.cutout else ""
    return f'{policy}pad_crop({side // 8}, "mean", False)|flip{square}'


def _full_precision(options: ConfigDict) -> bool:
    return options.pair != "none"


def _put_networks(config: ConfigDict, options: ConfigDict, side: int) -> None:
    teacher = student = QUANTISED[options.network]
    if options.pair != "none":
        teacher, student = PAIRS[options.pair]
    quantised = {} if _full_precision(options) else dict(bits=(options.bits, options.bits))
    frozen = network(teacher, recipe=(
        ("views.x", view(options.teacher_schedule, options, side)),
        ("optim", _teacher_optimizer(options)),
    ))
    config.networks.student = network(student, trainable=True, options=quantised)
    if options.method == "none":
        return
    if not _peers(options):
        config.networks.teacher = frozen
    else:
        config.networks.pretrained = frozen
        config.networks.teacher = network(teacher, trainable=True)  # from random weights, as there
    if quantised:
        config.networks.student.init = "pretrained" if _peers(options) else "teacher"


def _peers(options: ConfigDict) -> bool:
    """Whether the teacher is trained along with the student."""
    return options.method == "dml" and options.mode == "official_code"


def _put_terms(config: ConfigDict, options: ConfigDict) -> None:
    method, code = options.method, options.mode == "official_code"
    config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
    if method == "none":
        return
    shared = dict(on=("x",), teacher="teacher", weight=_weight(options), gradient_group="distill")
    learn = dict(part="graphs" if code else "both", kernels="fan_in" if code else "glorot")
    config.terms.kd = {
        "ii_kd": lambda: term("ii_kd", features=_features(options), heads=4, **learn, **shared),
        "mhgd": lambda: term("mhgd", features=_features(options), heads=4, **learn, **shared),
        "kd_svd": lambda: term(
            "kd_svd", features=_features(options), k=1, reduction="sum", **shared
        ),
        "rkd": lambda: term("rkd_role", features=("logits",), distance=50.0, angle=100.0, **shared),
        "dml": lambda: term("dml", symmetric=True, **shared),
        "soft": lambda: _soft_labels(code, shared),
    }[method]()
    if method == "soft" and code:
        config.terms.ce.weight = 0.7
    if _peers(options):
        config.terms.ce_teacher = term(
            "cross_entropy", on=("x",), student="teacher", gradient_group="task"
        )
        config.terms.kd_teacher = term(
            "dml", on=("x",), student="teacher", teacher="student", symmetric=True,
            gradient_group="distill",
        )


def _soft_labels(code: bool, shared: dict[str, Any]) -> dict[str, Any]:
    if code:
        return term("kl", temperature=3.0, times_t2=False, **{**shared, "weight": 0.3})
    return term("cross_entropy_kd", temperature=1.0, **shared)


def _weight(options: ConfigDict) -> Any:
    base = 0.4 if options.method == "ii_kd" else 1.0
    if options.mode == "paper":
        return dict(name="step_decay", base=base, every=60.0, factor=0.5, unit="epoch", warmup=0.0)
    if options.method in CLIPPED:
        return 1.0  # λ is in the loss that is reported, not in the gradient
    return dict(
        name="milestones", base=base, at=MILESTONES["official_code"], factor=0.6, unit="epoch",
        warmup=0.0,
    )


def _features(options: ConfigDict) -> tuple[str, ...]:
    if options.pair == "none":
        return FEATS
    names = [
        "f{}_post" if name.startswith("wrn") else "layer{}_post"
        for name in reversed(PAIRS[options.pair])
    ]
    return tuple(":".join(name.format(stage) for name in names) for stage in (1, 2, 3))


def _milestones(rate: float, options: ConfigDict) -> dict[str, Any]:
    return dict(
        name="milestones", base=rate, at=MILESTONES[options.mode], factor=0.1, unit="epoch",
        warmup=0.0,
    )


def _teacher_optimizer(options: ConfigDict) -> dict[str, Any]:
    return optimizer(
        "sgd", _milestones(0.1, options), momentum=0.9, nesterov=True, weight_decay=5e-4
    )


def _optimizer(options: ConfigDict) -> dict[str, Any]:
    if _full_precision(options):
        section = _teacher_optimizer(options)
    else:
        schedule = _milestones(1e-3, options)
        if options.mode == "official_code" and options.method in ADAM:
            section = optimizer("adam", schedule, eps=1e-5, weight_decay=1e-5, decay="kernels")
        else:
            section = optimizer("sgd", schedule, momentum=0.9, nesterov=True, weight_decay=1e-5)
    if options.method in CLIPPED:
        section["combine"] = "clip_per_variable()"
    return section


def _check(options: ConfigDict) -> None:
    paired, teacher = options.pair != "none", options.stage == "teacher"
    check(not paired or options.dataset == "cifar100", "option pair is of CIFAR-100",
          "drop dataset")
    check(not paired or "bits" not in options.given, "option pair is in full precision",
          "drop bits")
    check(not paired or "network" not in options.given, "option pair names the networks",
          "drop network")
    check(not paired or options.method in ("ii_kd", "none"),
          f"Table 4 has no row of method={options.method}", "use ii_kd or none")
    check(not options.teacher_schedule or options.method != "none",
          "option teacher_schedule is given and there is no teacher", "drop it or name a method")
    check(options.mode == "paper" or not paired, "the code has none of the pairs", "drop mode")
    check(not (teacher and options.teacher_schedule), "option teacher_schedule with stage=teacher",
          "give it as schedule")
    refuse_idle(options, teacher, ("bits", "method"), "with stage=teacher")
    check(BY_DATA_SET <= options.cutout <= 32, f"option cutout={options.cutout}", "0..32")
