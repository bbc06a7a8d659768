"""Methods of distillation on ImageNet: ResNet-34 teaches ResNet-18, ResNet-50 MobileNetV1.

Published accuracies in %; `?` unknown: no source reached; `-` cannot be run here, the row says why.
KD has five conventions here, which give 70.50 to 71.81 for one pair: weights of cross entropy (CE)
and KL, and the temperature, are named with each.

| Table 3, resnet34-resnet18: options | top-1 | top-5 |
|---|---|---|
| teacher: `stage=teacher` | 73.31 | 91.42 |
| student: `method=none` | 69.76 | 89.08 |
| kd-mdistiller: the default, CE 0.5, KL 0.5, T = 1 | 71.03 | ? |
| kd-repdistiller: `source=repdistiller`, CE 0.5, KL 0.9, T = 4 | 70.66 | ? |
| kd-dist: `source=dist`, CE 0.9, KL 1, T = 4 | 71.21 | ? |
| kd-torchdistill: `source=torchdistill`, CE 0.5, KL 0.5, T = 1 | 71.37 | ? |
| kd-ctkd: `source=ctkd`, CE 1, KL 1, T = 4, 120 epochs | 70.83 | 90.31 |
| kd-channel: - | 70.50 | 90.48 |
| kd-mmrazor: `source=mmrazor`, CE 1, KL 3, T = 1 | 71.81 | ? |
| fitnet: - | 70.66 | 89.23 |
| at: `method=at` | 70.70 | 90.00 |
| at-torchdistill: `method=at,source=torchdistill` | 70.90 | ? |
| ft: - | 71.43 | ? |
| ft-torchdistill: - | 71.56 | ? |
| rkd: - | 70.23 | ? |
| crd: `method=crd` | 71.17 | ? |
| crd-torchdistill: `method=crd,source=torchdistill` | 70.93 | ? |
| ofd: `method=ofd` | ? | ? |
| reviewkd: `method=reviewkd` | 71.61 | ? |
| reviewkd-torchdistill: - | 71.64 | ? |
| dkd: `method=dkd` | 71.70 | ? |
| dkd-ctkd: - | 71.13 | 90.31 |
| dkd-mmrazor: `method=dkd,source=mmrazor` | 71.368 | 90.256 |
| dist: `method=dist` | 72.07 | ? |
| dist-torchdistill: `method=dist,source=torchdistill` | 71.95 | ? |
| dist-mmrazor: `method=dist,source=mmrazor` | 71.61 | ? |
| mlkd: `method=mlkd` | 71.90 | ? |
| ctkd: - | 71.32 | 90.27 |
| dkd-with-ctkd: - | 71.51 | 90.47 |
| kd_ls: `method=kd_ls`, CE 1, KL 9, T = 2 | 71.45 | 90.58 |
| kd_ls-original: - | 71.42 | ? |
| kd_ls-torchdistill: `method=kd_ls,source=torchdistill`, CE 0.5, KL 9, T = 2 | 71.23 | ? |
| dkd_ls: - | ? | ? |
| mlkd_ls: - | ? | ? |
| kd_dot: `method=kd_dot`, CE 0.5, KL 0.5, T = 1 | 71.72 | ? |

| Table 4, resnet50-mobilenetv1: options | top-1 | top-5 |
|---|---|---|
| teacher: `stage=teacher` | 76.16 | 92.86 |
| student: `method=none` | 68.87 | 88.76 |
| kd: the default, CE 0.5, KL 0.5, T = 1 | 70.50 | ? |
| at: `method=at` | ? | ? |
| ofd: `method=ofd` | 71.25 | 90.34 |
| crd: `method=crd` | 71.37 | ? |
| reviewkd: `method=reviewkd` | 72.56 | ? |
| dkd: `method=dkd` | 72.05 | ? |
| dist: `method=dist` | 73.24 | ? |
| ctkd: - | 71.16 | ? |
| mlkd: `method=mlkd` | 73.01 | ? |
| kd_dot: `method=kd_dot`, CE 0.5, KL 0.5, T = 1 | 73.09 | ? |

    python main.py --config=configs/imagenet_kd.py:method=dkd --workdir=runs/imagenet_dkd \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16

`python -m kdaug_jax.catalog show baselines.3.ROW` names the repository and commit of each figure,
and whether it is of the best or the last epoch; our runs evaluate each epoch, and the catalogue
shows both.

Options: `pair`, resnet34-resnet18 or resnet50-mobilenetv1; `stage`, `student`, or `teacher` to
train the teacher by itself; `method`, as in the tables; `source`, the repository whose recipe is
taken, of those that the tables name with a method (and `mdistiller` for ofd and reviewkd), the
first if it is not given; `runs`, seeds through one compiled step; `replica_batch`,
images whose statistics BatchNorm takes together, 0 for the whole batch;
`holdout`, to keep 2 % of the training split for choices; `smoke`.

Recipe: torchvision's crops, 100 epochs, x 0.1 at 30, 60, 90, momentum 0.9, decay 1e-4; batch and
rate 512, 0.2 in mdistiller and LSKD, 256, 0.1 elsewhere and in mdistiller's CRD and ReviewKD, 512,
0.1 for MLKD. DIST has Nesterov momentum and decays kernels only. AT 1,000 on four stages
(torchdistill: the last two); CRD 0.8 with 16,384 negatives; OFD 1e-4; ReviewKD 1 (MobileNetV1: 8),
512 channels between stages (its authors: 256 for MobileNetV1), without warm-up; DKD β = 0.5
(MobileNetV1: 2), T = 1, without warm-up; DIST 2 (inter + intra), T = 1; MLKD as its code computes
it, 0.5 CE and 0.5 at T = 1, 2, 3, 5, 6, see cifar100_kd.py; KD+LS standardised logits, T = 2,
weight 9; KD+DOT with 0.09. One BatchNorm is over the batch; theirs over that of a device
(`replica_batch=32` on eight devices of 32).

The teacher of the papers is torchvision's: import its file with
--config.networks.teacher.checkpoint; else it is trained first, at batch 256 and rate 0.1, into
<workdir>/teacher.

Cost: 3.7 billion multiply-adds an image for ResNet-34, 3 x 1.8 for ResNet-18: 1.2e18 a run of KD;
4.1 and 3 x 0.6 for ResNet-50 and MobileNetV1: 7.6e17. It has not been run here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from configs.common import (
    SMOKE_SIDE,
    check,
    check_runs,
    imagenet_network,
    one_of,
    parse_arg,
    put_cross_entropy,
    put_distillation,
    read_splits,
    refuse_idle,
    repeat,
    shrink_imagenet,
    teacher_alone,
)
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, optimizer

PAIRS = {
    "resnet34-resnet18": ("tv_resnet34", "tv_resnet18"),
    "resnet50-mobilenetv1": ("tv_resnet50", "mobilenetv1"),
}
SMALL = {
    name: (name, dict(width=0.125)) for name in ("tv_resnet18", "tv_resnet34", "tv_resnet50")
}
EPOCHS, MILESTONES = 100.0, (30.0, 60.0, 90.0)


class Recipe(NamedTuple):
    """What one repository runs.

    Attributes:
      batch_size, rate: of SGD.
      ce: weight of cross entropy.
      terms: `{name: (loss, weight, options)}`.
      epochs: of training.
      nesterov, decay: of the optimiser.
      combine: of gradient groups.
    """

    batch_size: int
    rate: float
    ce: float
    terms: dict[str, tuple[str, float, dict[str, Any]]]
    epochs: float = EPOCHS
    nesterov: bool = False
    decay: str = "all"
    combine: str = "sum()"


def _kl(weight: float, temperature: float, standardize: bool = False) -> dict[str, tuple]:
    return {"kd": ("kl", weight, dict(temperature=temperature, standardize=standardize))}


def _review(weight: float, features: tuple[str, ...], middle: int) -> dict[str, tuple]:
    return {"reviewkd": ("reviewkd", weight, dict(features=(*features, "pooled"), middle=middle))}


def _ofd(features: tuple[str, ...]) -> dict[str, tuple]:
    return {"ofd": ("ofd", 1.0, dict(features=features, scale=1e-4, margin="batchnorm"))}


def _at(features: tuple[str, ...]) -> dict[str, tuple]:
    return {"at": ("at", 1000.0, dict(features=features, p=2))}


def _dkd(beta: float) -> dict[str, tuple]:
    return {"dkd": ("dkd", 1.0, dict(alpha=1.0, beta=beta, temperature=1.0))}


CRD = {"crd": ("crd", 0.8, dict(
    features=("pooled",), dim=128, negatives=16384, temperature=0.07, momentum=0.5
))}
DIST = {"dist": ("dist", 2.0, dict(beta=1.0, gamma=1.0, temperature=1.0))}
# As the code computes multi-level distillation, see cifar100_kd.py, at T = 1, 2, 3, 5, 6.
LEVELS = {
    "grams": ("mlkd", 0.25, dict(
        temperatures=(1.0, 3.0, 5.0, 2.0, 6.0), parts=("examples", "classes"),
    )),
    **{f"kl_x_{t:g}": ("kl", weight, dict(temperature=t))
       for t, weight in ((1.0, 0.25), (3.0, 0.25), (5.0, 0.25), (2.0, 0.75), (6.0, 0.75))},
    **{f"kl_x_strong_{t:g}": ("kl", 0.5, dict(temperature=t, on=("x_strong",)))
       for t in (1.0, 3.0, 5.0)},
}


def recipes(pair: str) -> dict[tuple[str, str], Recipe]:
    """Returns the recipes of a pair by method and repository; a method's first is its default."""
    mobile = pair == "resnet50-mobilenetv1"
    beta, review = (2.0, 8.0) if mobile else (0.5, 1.0)
    maps, before_relu, teacher_before_relu = (
        tuple(f"{'f' if mobile else 'layer'}{i}{of_student}:layer{i}{of_teacher}"
              for i in range(1, 5))
        for of_student, of_teacher in (("", ""), ("_pre", "_pre"), ("", "_pre"))
    )
    return {
        ("kd", "mdistiller"): Recipe(512, 0.2, 0.5, _kl(0.5, 1.0)),
        ("kd", "torchdistill"): Recipe(256, 0.1, 0.5, _kl(0.5, 1.0)),
        ("kd", "repdistiller"): Recipe(256, 0.1, 0.5, _kl(0.9, 4.0)),
        ("kd", "dist"): Recipe(256, 0.1, 0.9, _kl(1.0, 4.0), nesterov=True, decay="kernels"),
        ("kd", "ctkd"): Recipe(256, 0.1, 1.0, _kl(1.0, 4.0), epochs=120.0),
        ("kd", "mmrazor"): Recipe(256, 0.1, 1.0, _kl(3.0, 1.0)),
        ("none", "mdistiller"): Recipe(512, 0.2, 1.0, {}),
        ("at", "mdistiller"): Recipe(512, 0.2, 1.0, _at(maps)),
        ("at", "torchdistill"): Recipe(256, 0.1, 1.0, _at(maps[2:])),
        ("crd", "mdistiller"): Recipe(256, 0.1, 1.0, CRD),
        ("crd", "torchdistill"): Recipe(255, 0.1, 1.0, CRD),
        ("ofd", "overhaul"): Recipe(256, 0.1, 1.0, _ofd(before_relu), nesterov=True),
        ("ofd", "mdistiller"): Recipe(128, 0.05, 1.0, _ofd(before_relu)),
        ("reviewkd", "reviewkd"): Recipe(
            256, 0.1, 1.0, _review(review, teacher_before_relu, 256 if mobile else 512)
        ),
        ("reviewkd", "mdistiller"): Recipe(256, 0.1, 1.0, _review(review, before_relu, 512)),
        ("dkd", "mdistiller"): Recipe(512, 0.2, 1.0, _dkd(beta)),
        ("dkd", "mmrazor"): Recipe(256, 0.1, 1.0, _dkd(0.5)),
        ("dist", "dist"): Recipe(256, 0.1, 1.0, DIST, nesterov=True, decay="kernels"),
        ("dist", "torchdistill"): Recipe(256, 0.1, 1.0, DIST),
        ("dist", "mmrazor"): Recipe(256, 0.1, 1.0, DIST, nesterov=True),
        ("mlkd", "mlkd"): Recipe(512, 0.1, 0.5, LEVELS),
        ("kd_ls", "lskd"): Recipe(512, 0.2, 1.0, _kl(9.0, 2.0, standardize=True)),
        ("kd_ls", "torchdistill"): Recipe(512, 0.2, 0.5, _kl(9.0, 2.0, standardize=True)),
        ("kd_dot", "mdistiller"): Recipe(512, 0.2, 0.5, _kl(0.5, 1.0), combine="dot(0.09)"),
    }


RUNNABLE = tuple(recipes("resnet34-resnet18"))
METHODS = tuple(dict.fromkeys(method for method, _ in RUNNABLE))
REPOSITORIES = tuple(dict.fromkeys(source for _, source in RUNNABLE))

CD = "README of zhouzaida/channel-distillation @ 2464d30"
CT = "README of zhengli97/CTKD @ 7d52522"
DI = "README of hunto/DIST_KD @ 2418f18"
IT_QUOTED = "quoted in the README of zkxufo/TTM @ fe457b3"
LS = "logs of sunshangquan/logit-standardization-KD @ f6e5aa5"
MD = "README of megvii-research/mdistiller @ a08d46f, best epoch, mean of 3"
MM = "README of open-mmlab/mmrazor @ 90c7af1, epoch not told"
OF = "README of clovaai/overhaul-distillation @ 76344a8, best epoch"
RV = "README of dvlab-research/ReviewKD @ cede6ea, best epoch"
TAID = "quoted in arXiv 2501.16937, epoch unknown"
TD = "README of yoshitomo-matsubara/torchdistill @ 3e4373c, best epoch"
TD_QUOTED = "quoted as original in the README of yoshitomo-matsubara/torchdistill @ 3e4373c"
UNREAD = "the recipe of this figure was not read"
NO_TERM = "learns its temperature against the student, which no loss here does"
UNKNOWN = "accuracy unknown"
STRATA = "negatives are drawn by strata here"
REVIEWED = "whether its student's features are before the ReLU is not told, here after it"
# Of each pair: name of the row, what is run, top-1, top-5 and notes. None for what is unknown, or
# cannot be run.
RESULTS: dict[str, tuple[tuple[str, str | None, float | None, float | None, str], ...]] = {
    "resnet34-resnet18": (
        ("teacher", "stage=teacher", 73.31, 91.42, "torchvision's weights, last epoch"),
        ("student", "method=none", 69.76, 89.08, "torchvision's weights, last epoch"),
        ("kd-mdistiller", "", 71.03, None, f"CE 0.5, KL 0.5, T = 1; {MD}"),
        ("kd-repdistiller", "source=repdistiller", 70.66, None,
         f"CE 0.5, KL 0.9, T = 4, of which T is not told; {IT_QUOTED}, epoch unknown"),
        ("kd-dist", "source=dist", 71.21, None, f"CE 0.9, KL 1, T = 4; {DI}, epoch not told"),
        ("kd-torchdistill", "source=torchdistill", 71.37, None, f"CE 0.5, KL 0.5, T = 1; {TD}"),
        ("kd-ctkd", "source=ctkd", 70.83, 90.31,
         f"CE 1, KL 1, T = 4, 120 epochs, a teacher of 73.96, a student of 70.26; {CT}, epoch "
         "not told"),
        ("kd-channel", None, 70.50, 90.48, f"{CD}, epoch not told; its convention was not read"),
        ("kd-mmrazor", "source=mmrazor", 71.81, None,
         f"CE 1, KL 3, T = 1, a teacher of 73.62, a student of 69.90; rate and epochs were not "
         f"read; {MM}"),
        ("fitnet", None, 70.66, 89.23, f"{CD}, quoting arXiv 2002.09168, epoch unknown; {UNREAD}"),
        ("at", "method=at", 70.70, 90.00,
         f"{CD}, quoting its authors, epoch unknown; here with mdistiller's weights"),
        ("at-torchdistill", "method=at,source=torchdistill", 70.90, None,
         f"the last two stages only; {TD}"),
        ("ft", None, 71.43, None, f"{TD_QUOTED}, epoch unknown; {UNREAD}"),
        ("ft-torchdistill", None, 71.56, None,
         f"{TD}; its translator has no BatchNorm, the one here has"),
        ("rkd", None, 70.23, None, f"a teacher of 73.62; {MM}; {UNREAD}"),
        ("crd", "method=crd", 71.17, None, f"{TD_QUOTED}, epoch unknown; {STRATA}"),
        ("crd-torchdistill", "method=crd,source=torchdistill", 70.93, None, f"{TD}; {STRATA}"),
        ("ofd", "method=ofd", None, None, UNKNOWN),
        ("reviewkd", "method=reviewkd", 71.61, None, f"{RV}; {REVIEWED}"),
        ("reviewkd-torchdistill", None, 71.64, None, f"{TD}; its number of devices is not told, "
         "nor so its batch"),
        ("dkd", "method=dkd", 71.70, None, MD),
        ("dkd-ctkd", None, 71.13, 90.31, f"{CT}, epoch not told; {UNREAD}"),
        ("dkd-mmrazor", "method=dkd,source=mmrazor", 71.368, 90.256,
         f"a teacher of 73.62; rate and epochs were not read; {MM}"),
        ("dist", "method=dist", 72.07, None, f"{DI}, epoch not told"),
        ("dist-torchdistill", "method=dist,source=torchdistill", 71.95, None, TD),
        ("dist-mmrazor", "method=dist,source=mmrazor", 71.61, None,
         f"a teacher of 73.62, further runs 71.69, 71.82, 71.90; {MM}"),
        ("mlkd", "method=mlkd", 71.90, None, TAID),
        ("ctkd", None, 71.32, 90.27, f"{CT}, epoch not told; {NO_TERM}"),
        ("dkd-with-ctkd", None, 71.51, 90.47, f"{CT}, epoch not told; {NO_TERM}"),
        ("kd_ls", "method=kd_ls", 71.45, 90.58,
         f"CE 1, KL 9, T = 2; {LS}, best epoch, 94; the last is 71.26, 90.54; CE of the run is not "
         "told, 1 is that of its file"),
        ("kd_ls-original", None, 71.42, None,
         f"{TD_QUOTED}, epoch unknown; the same run's method as kd_ls"),
        ("kd_ls-torchdistill", "method=kd_ls,source=torchdistill", 71.23, None,
         f"CE 0.5, KL 9, T = 2; {TD}"),
        ("dkd_ls", None, None, None, f"{UNKNOWN}, its numbers too"),
        ("mlkd_ls", None, None, None, f"{UNKNOWN}, its numbers too"),
        ("kd_dot", "method=kd_dot", 71.72, None, f"CE 0.5, KL 0.5, T = 1; {MD}"),
    ),
    "resnet50-mobilenetv1": (
        ("teacher", "stage=teacher", 76.16, 92.86, f"{OF}; torchvision's weights"),
        ("student", "method=none", 68.87, 88.76, f"{OF}; the student of DIST reaches 70.13"),
        ("kd", "", 70.50, None, f"CE 0.5, KL 0.5, T = 1; {MD}"),
        ("at", "method=at", None, None, UNKNOWN),
        ("ofd", "method=ofd", 71.25, 90.34,
         f"{OF}; its teacher is in training mode, here in inference mode"),
        ("crd", "method=crd", 71.37, None, f"{IT_QUOTED}, epoch unknown; {STRATA}"),
        ("reviewkd", "method=reviewkd", 72.56, None, f"{RV}; {REVIEWED}"),
        ("dkd", "method=dkd", 72.05, None, MD),
        ("dist", "method=dist", 73.24, None, f"{DI}, epoch not told; its student alone is 70.13"),
        ("ctkd", None, 71.16, None, f"{TAID}; {NO_TERM}"),
        ("mlkd", "method=mlkd", 73.01, None, TAID),
        ("kd_dot", "method=kd_dot", 73.09, None, f"CE 0.5, KL 0.5, T = 1; {MD}"),
    ),
}
PAPER = "baselines"


def _row(table: str, pair: str, name: str, run: str | None, top1, top5, note: str) -> Row:
    options = None if run is None else ",".join(filter(None, (f"pair={pair}", run)))
    figures = {"accuracy": top1, "top5": top5}
    return Row(table, f"{name}-{pair}", options,
               {measure: value for measure, value in figures.items() if value is not None},
               note=note)


ROWS = tuple(
    _row(table, pair, *result)
    for table, (pair, results) in zip(("Table 3", "Table 4"), RESULTS.items(), strict=True)
    for result in results
)
CELLS: dict = {}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, pair=one_of(*PAIRS), stage=one_of("student", "teacher"), method=one_of(*METHODS),
        source=one_of("", *REPOSITORIES), runs=1, replica_batch=0, holdout=False,
    )
    if options.stage == "teacher":
        refuse_idle(options, True, ("method", "source", "runs"), "with stage=teacher")
    check_runs(options)
    recipe = _recipe(options)
    size = options.replica_batch
    check(size >= 0 and not recipe.batch_size % (size or 1), f"option replica_batch={size}",
          f"0, or a divisor of the batch of {recipe.batch_size}")
    side = SMOKE_SIDE if options.smoke else 224
    plain = f"random_resized_crop({side})|flip"
    teacher, student = PAIRS[options.pair]
    config = default()
    with config.unlocked():
        read_splits(config, "folder:data/imagenet", "validation", options.holdout, classes=1000)
        config.data.batch_size = recipe.batch_size
        config.views.x = plain
        config.eval.view = f"resize_shorter({side * 8 // 7})|crop_center({side})"
        config.networks.student = imagenet_network(student, trainable=True)
        if recipe.terms:
            config.networks.teacher = imagenet_network(teacher, recipe=(
                ("views", {"x": plain}), ("data.batch_size", 256), ("train.epochs", EPOCHS),
                ("train.replica_batch_size", 0 if 256 % (size or 1) else size),
                ("optim", _sgd(Recipe(256, 0.1, 1.0, {}))),
            ))
        put_cross_entropy(config, recipe.ce)
        for name, (loss, weight, fields) in recipe.terms.items():
            put_distillation(config, name, loss, weight, **fields)
        if options.method == "mlkd":
            config.views.x_strong = f"{plain}|fixmatch(2)"
            config.terms.ce.on = ("x", "x_strong")
        config.optim = _sgd(recipe)
        config.train.epochs = recipe.epochs
        config.train.replica_batch_size = size
        repeat(config, options.runs)
        config.eval.metrics = ("accuracy", "top5", "nll")
        config.eval.every_epochs = config.checkpoint.every_epochs = 1.0
        config.log.every_steps = 100
        if options.smoke:
            shrink_imagenet(config, SMALL)
            if options.method == "crd":
                config.terms.crd.negatives = 32
    return teacher_alone(config) if options.stage == "teacher" else config.lock()


def _recipe(options: ConfigDict) -> Recipe:
    table = recipes(options.pair)
    sources = [source for method, source in table if method == options.method]
    source = options.source or sources[0]
    check(source in sources, f"{source} has no recipe of method={options.method}",
          "use source=" + " or ".join(sources))
    return table[options.method, source]


def _sgd(recipe: Recipe) -> dict[str, Any]:
    schedule = dict(
        name="milestones", base=recipe.rate, unit="epoch", warmup=0.0, at=MILESTONES, factor=0.1
    )
    return optimizer(
        "sgd", schedule, momentum=0.9, nesterov=recipe.nesterov, weight_decay=1e-4,
        decay=recipe.decay, combine=recipe.combine,
    )
