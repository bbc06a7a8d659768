"""Several augmented views, each with its own BatchNorm, taught by their ensemble: ImageNet (002).

Li et al. 2021, "A2-Aug: Adaptive Automated Data Augmentation": top-1 accuracies in %, and hours of
an RTX 2080 Ti. Table 3 is of 3 runs, the others of ResNet-50, one run each as far as is told.

| Table 1, ImageNet | options | top-1 | GPU-hours |
|---|---|---|---|
| Baseline | `only=baseline` | 76.3 | 384 |
| AA | `only=aa` | 77.6 | 15640 |
| Fast AA | quoted | 77.6 | 1026 |
| RA | quoted | 77.6 | 10368 |
| A2-Aug | (none) | 79.2 | 624 |

| Table 3 | options | resnet50 | resnet200: `network=resnet200,...` |
|---|---|---|---|
| Baseline | `only=baseline` | 76.3 | 78.5 |
| AA | `only=aa` | 77.6 | 80.0 |
| Fast AA | quoted | 77.6 | 80.6 |
| RA | quoted | 77.6 | |
| OHL-AA | quoted | 78.9 | |
| DADA | quoted | 77.5 | |
| A2-Aug | (none) | 79.2 ± 0.4 | 81.5 ± 0.5 |

| Table 4, GPU-hours | search | training | total |
|---|---|---|---|
| Baseline: `only=baseline` | 0 | 384 | 384 |
| AA: `only=aa` | 15000 | 640 | 15640 |
| Fast AA, quoted | 450 | 576 | 1026 |
| OHL-AA, quoted | 625 | 400 | 1025 |
| DADA, quoted | 1.3 | 576 | 577.3 |
| RA, quoted | 0 | 10368 | 10368 |
| A2-Aug | 0 | 624 | 624 |

| Table 5 | options | top-1 | GPU-hours |
|---|---|---|---|
| A2-Aug (ind.) | `networks=independent` | 79.0 | 1136 |
| A2-Aug w/o S-BN | `bn=shared` | 74.7 | 616 |
| A2-Aug | (none) | 79.2 | 624 |

| Table 6 | μ1 | μ2 | μ3 | w1 | w2 | w3 | Ens |
|---|---|---|---|---|---|---|---|
| resnet50 | 0.36 | 0.49 | 0.15 | 79.0 | 79.2 | 78.6 | 79.5 |
| resnet200 | 0.26 | 0.43 | 0.31 | 80.6 | 81.5 | 81.0 | 81.7 |

| Table 7 | options | top-1 |
|---|---|---|
| Baseline | `only=baseline` | 76.3 |
| Average ensemble | `ensemble=average` | 78.1 |
| Adaptive ensemble | (none) | 79.2 |

| Table 8: KL, normalisation | options | top-1 |
|---|---|---|
| neither | `only=baseline` | 76.3 |
| normalisation | `form=l2_norm` | 77.5 |
| KL | `form=kl` | 78.8 |
| both | `form=kl_norm`, the default | 79.2 |

| Table 9 | options | top-1 |
|---|---|---|
| Baseline | `only=baseline` | 76.3 |
| MutualNet | quoted | 78.6 |
| A2-Aug (multi-scale) | `scales=multi` | 79.1 |

    python main.py --config=configs/a2aug_imagenet.py --workdir=runs/a2aug_imagenet \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16

Of Table 8 two rows would be one program if normalisation entered the KL alone; so the first is the
baseline, and the second, with normalisation and no KL, is taken to be a squared difference of
normalised logits; `form=joint_ce`, cross entropies only, is the other reading. AA is
AutoAugment's published policy on one view. Fast AA's for ImageNet, OHL-AA, DADA and MutualNet are
not here, and RA's N and M are not told: these rows are quoted. Costs of AA are of its search.
Figure 3 is the curves of the
default and of `only=baseline`: branches, ensemble and its weights are in metrics.jsonl.

Options: `network`, `resnet50` or `resnet200`; `n_views` (3), 1 to 6; `form`, `logit_scale`,
`ensemble`, `bn`, `networks`, `draw` and `runs` as in a2aug_cifar.py; `only`, `a2aug`,
`baseline` or `aa`;
`scales`, `single`, or `multi`: four views, crop and flip at 224, 192, 160 and 128 pixels, a branch
each, evaluated at 224; `schedule`, `steps` or `cosine`; `replica_batch`, images whose statistics
BatchNorm takes together, 0 for the whole batch; `smoke`.

In the paper: 3 views, 120 epochs, batch 1,024, "the same training setting as AA, Fast AA, PBA and
RA", so Fast AutoAugment's: rate 0.1 per 256 images, Nesterov 0.9, decay 1e-4, 5 epochs of warm-up,
x 0.1 at 1/3, 2/3 and 8/9 of the epochs. The rate's schedule is not told; the cosine is as likely.
The sizes of Table 9 are MutualNet's. Other readings are those of a2aug_cifar.py. The branch is
chosen on 2 % of the training split; the test split is ImageNet's validation images.

Cost: 3 x 3 x 4.1 billion multiply-adds an image for resnet50, 5.6e18 a run, 2.8e19 for resnet200.
It has not been run here.
"""

from __future__ import annotations

from typing import Any

from configs.a2aug_cifar import branch_of, check_ensemble, draw_each, drawn, put_networks
from configs.common import (
    SMOKE_SIDE,
    check,
    imagenet_network,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
    repeat,
    shrink_imagenet,
)
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, optimizer
from kdaug_jax.losses.ensemble import FORMS

NETWORKS = {"resnet50": "tv_resnet50", "resnet200": "resnet200"}
SMALL = {
    "tv_resnet50": ("tv_resnet50", dict(width=0.125)), "resnet200": ("resnet200", dict(width=0.125))
}
SCALES = (224, 192, 160, 128)
EPOCHS, BATCH = 120.0, 1024
STEPS = tuple(EPOCHS * share for share in (1 / 3, 2 / 3, 8 / 9))

HOURS, SEARCH, TRAINING = "gpu_hours", "search_gpu_hours", "training_gpu_hours"
NOT_HERE = "quoted by the paper; its policy is not here"
BASELINE, AA, LARGE = "only=baseline", "only=aa", "network=resnet200"
PUBLISHED = "quoted by the paper"


def _table(table: str, *rows: tuple[str, str | None, dict[str, float], str]) -> tuple[Row, ...]:
    """Returns the rows of a table: name, options, figures and note of each."""
    start = table.lower().replace(" ", "")
    return tuple(
        Row(table, f"{start}-{name}", options, figures, {}, note or
            ("" if options is not None else NOT_HERE))
        for name, options, figures, note in rows
    )


def _cost(search: float, training: float, total: float) -> dict[str, float]:
    return {SEARCH: search, TRAINING: training, HOURS: total}


def _branches(mu: tuple[float, ...], accuracies: tuple[float, ...], ensemble: float) -> dict:
    """Returns the figures of Table 6: the weights, and accuracies in percent."""
    return {
        **{f"ensemble/weight_{number}": value for number, value in enumerate(mu)},
        **{f"branch_{number}/accuracy %": value for number, value in enumerate(accuracies)},
        "ensemble/accuracy %": ensemble,
    }


PAPER = "002"
ROWS = (
    *_table(
        "Table 1",
        ("imagenet-baseline", BASELINE, {"accuracy": 76.3, HOURS: 384}, ""),
        ("imagenet-aa", AA, {"accuracy": 77.6, HOURS: 15640}, PUBLISHED),
        ("imagenet-faa", None, {"accuracy": 77.6, HOURS: 1026}, ""),
        ("imagenet-ra", None, {"accuracy": 77.6, HOURS: 10368}, "quoted; the cost is of a search"),
        ("imagenet-a2aug", "", {"accuracy": 79.2, HOURS: 624}, ""),
    ),
    *_table(
        "Table 3",
        ("resnet50-baseline", BASELINE, {"accuracy": 76.3}, ""),
        ("resnet50-aa", AA, {"accuracy": 77.6}, PUBLISHED),
        ("resnet50-faa", None, {"accuracy": 77.6}, ""),
        ("resnet50-ra", None, {"accuracy": 77.6}, "quoted; RandAugment's N and M are not told"),
        ("resnet50-ohl-aa", None, {"accuracy": 78.9}, "quoted; OHL-AA is not here"),
        ("resnet50-dada", None, {"accuracy": 77.5}, "quoted; DADA is not here"),
        ("resnet200-baseline", f"{LARGE},{BASELINE}", {"accuracy": 78.5}, ""),
        ("resnet200-aa", f"{LARGE},{AA}", {"accuracy": 80.0}, PUBLISHED),
        ("resnet200-faa", None, {"accuracy": 80.6}, ""),
    ),
    Row("Table 3", "table3-resnet50-a2aug", "", {"accuracy": 79.2}, {"accuracy": 0.4}, "3 runs"),
    Row("Table 3", "table3-resnet200-a2aug", LARGE, {"accuracy": 81.5}, {"accuracy": 0.5},
        "3 runs"),
    *_table(
        "Table 4",
        ("baseline", BASELINE, _cost(0, 384, 384), ""),
        ("aa", AA, _cost(15000, 640, 15640), "the cost is of a search"),
        ("faa", None, _cost(450, 576, 1026), ""),
        ("ohl-aa", None, _cost(625, 400, 1025), "quoted; OHL-AA is not here"),
        ("dada", None, _cost(1.3, 576, 577.3), "quoted; DADA is not here"),
        ("ra", None, _cost(0, 10368, 10368), "quoted; the cost is of a search"),
        ("a2aug", "", _cost(0, 624, 624), ""),
    ),
    *_table(
        "Table 5",
        ("independent", "networks=independent", {"accuracy": 79.0, HOURS: 1136}, ""),
        ("shared-bn", "bn=shared", {"accuracy": 74.7, HOURS: 616}, ""),
        ("a2aug", "", {"accuracy": 79.2, HOURS: 624}, ""),
    ),
    *_table(
        "Table 6",
        ("resnet50", "", _branches((0.36, 0.49, 0.15), (79.0, 79.2, 78.6), 79.5),
         "weights by softmax, and accuracies by branch"),
        ("resnet200", LARGE, _branches((0.26, 0.43, 0.31), (80.6, 81.5, 81.0), 81.7),
         "weights by softmax, and accuracies by branch"),
    ),
    *_table(
        "Table 7",
        ("baseline", BASELINE, {"accuracy": 76.3}, ""),
        ("average", "ensemble=average", {"accuracy": 78.1}, ""),
        ("adaptive", "", {"accuracy": 79.2}, ""),
    ),
    *_table(
        "Table 8",
        ("none", BASELINE, {"accuracy": 76.3}, "no joint training: the printed figure is the "
         "baseline's"),
        ("norm", "form=l2_norm", {"accuracy": 77.5}, "form=joint_ce is the other reading"),
        ("kl", "form=kl", {"accuracy": 78.8}, ""),
        ("kl-norm", "", {"accuracy": 79.2}, ""),
    ),
    *_table(
        "Table 9",
        ("baseline", BASELINE, {"accuracy": 76.3}, ""),
        ("mutualnet", None, {"accuracy": 78.6}, "quoted; MutualNet is not here"),
        ("multi-scale", "scales=multi", {"accuracy": 79.1}, ""),
    ),
)
CELLS: dict = {}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, network=one_of(*NETWORKS), n_views=one_of(3, 1, 2, 4, 5, 6),
        form=one_of("kl_norm", *FORMS), logit_scale="sqrt_classes",
        ensemble=one_of("adaptive", "average"), bn=one_of("split", "shared"),
        networks=one_of("joint", "independent"), only=one_of("a2aug", "baseline", "aa"),
        scales=one_of("single", "multi"), schedule=one_of("steps", "cosine"), draw="seed", runs=1,
        replica_batch=0,
    )
    _check(options)
    side = SMOKE_SIDE if options.smoke else SCALES[0]
    config = default()
    with config.unlocked():
        read_splits(config, "folder:data/imagenet", "validation", holdout=True)
        config.data.batch_size = BATCH
        _put_views(config, options, side)
        put_networks(
            config, options, lambda: imagenet_network(NETWORKS[options.network], trainable=True)
        )
        config.eval.view = f"resize_shorter({side * 8 // 7})|crop_center({side})"
        config.optim = optimizer(
            "sgd", _schedule(options), momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        config.train.epochs = EPOCHS
        config.train.replica_batch_size = options.replica_batch
        repeat(config, options.runs)
        draw_each(config, options)
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
        config.log.every_steps = 100
        if options.smoke:
            shrink_imagenet(config, SMALL)
    return config.lock()


def _put_views(config: ConfigDict, options: ConfigDict, side: int) -> None:
    def crop(pixels: int) -> str:
        return f"random_resized_crop({pixels * side // SCALES[0]})|flip"

    if options.only != "a2aug":
        policy = ['autoaugment("imagenet_v0")'] if options.only == "aa" else []
        config.views.a0 = "|".join([crop(SCALES[0]), *policy])
        return
    if options.scales == "multi":
        for number, pixels in enumerate(SCALES):
            config.views[f"a{number}"] = dict(
                ops=crop(pixels), branch=branch_of(number, options)
            )
        return
    for number in range(options.n_views):
        config.views[f"a{number}"] = dict(
            ops=drawn(config, options.draw, number, lambda text: f"{crop(SCALES[0])}|{text}"),
            branch=branch_of(number, options),
        )


def _schedule(options: ConfigDict) -> dict[str, Any]:
    shared = dict(base=0.1 * BATCH / 256, unit="epoch", warmup=5.0)
    if options.schedule == "cosine":
        return dict(name="cosine", end=0.0, **shared)
    return dict(name="milestones", at=STEPS, factor=0.1, **shared)


def _check(options: ConfigDict) -> None:
    refuse_idle(options, options.only != "a2aug", ("scales",), f"with only={options.only}")
    refuse_idle(options, options.scales == "multi", ("n_views", "draw"), "with scales=multi")
    check(options.replica_batch >= 0 and not BATCH % (options.replica_batch or 1),
          f"option replica_batch={options.replica_batch}",
          f"0, or a divisor of the batch of {BATCH:,}")
    check_ensemble(options)
