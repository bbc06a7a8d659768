"""EfficientNet-B0 on ImageNet with RandAugment and top-K distillation (paper 000).

Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge Distillation", Tables 3
and 4, Figure 4; recipe of section 4.2 and of the code it follows (Tan and Le 2019, TPU).

    python main.py --config=configs/efficientnet_b0_kd.py --workdir=runs/b0_kd \
      --config.data.source=folder:data/imagenet --config.precision=bfloat16

| row | options | top-1 |
|---|---|---|
| Table 3, ours | (none) | 78.0 |
| Table 3, RA by the authors | `kd=False` | 77.4 |
| Table 3, AA, quoted | `kd=False,policy=autoaugment` | 77.3 |
| Table 3, AdvProp, quoted | not here | 77.6 |
| Figure 4, left | `sweep=weight`: λ of 0.1, 0.2, 0.5, 1, 2 at K = 10 | best near 0.5 |
| Figure 4, right | `sweep=k`: K of 2, 5, 10, 25, 50 at λ = 0.5 | best at 5 |

The paper gives one run each, no spread. Figure 2 is in wei2020_fig2.py.

Options: `kd`; `k` and `weight` (λ); `magnitude` 0..60 on the code's scale, 0 for no policy;
`sweep`; `epochs`; `policy`, `randaugment` or `autoaugment`, which is the teacher's training by
default; `space`, `tpu_clean` or `tpu` with what wraps beyond magnitude 10 (not said which the
authors had); `ops`, `tpu`, the 16 of the code that section 4.2 follows, or `wei2020`, the 14 that
section 3.1 lists, without Cutout and SolarizeAdd; `teacher_policy`, `autoaugment`, `same` or
`none`: what the teacher is trained on, not said either; `replica_batch`, images whose statistics
BatchNorm takes together, 0 for the recipe's: smaller groups let --config.train.accumulate be
larger, and are no longer the recipe; `holdout`, to keep 2 % of the training split for choices;
`smoke`.

The teacher is another EfficientNet-B0 of the same recipe without distillation; the run trains it
first unless --config.networks.teacher.checkpoint names its directory.

In the paper: 500 epochs, 0.256 x 0.97 every 2.4 epochs, RMSProp 0.9 and 0.9, weight decay 1e-5,
BatchNorm decay 0.99, M 9, K 5, λ 0.5, 32 GPUs. From the cited code: batch 4,096 (0.016 per 256
images), 5 epochs of warm-up, label smoothing 0.1, dropout 0.2, drop-connect 0.2, averaged weights
0.9999, groups of 1,024 images in BatchNorm. Our reading: the teacher sees the student's view.

ImageNet is read as it lies on disk, by default from data/imagenet with train/WNID/*.JPEG and
val/WNID/*.JPEG; Kaggle's tree is read too, and a flat val/ with `?val_labels=FILE`. Crops are cut
from the stored images while they are decoded.

Cost: 4 x 0.386 billion multiply-adds an image with the teacher, 1.0e18 for the run, and 0.7e18 for
the teacher's own training; augmentation not counted. It has not been run here.
"""

from __future__ import annotations

from configs.common import (
    EFFICIENTNET_OPTIONS,
    check,
    efficientnet,
    efficientnet_teacher,
    one_of,
    parse_arg,
    refuse_idle,
)
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict

WEIGHTS, AT_K = (0.1, 0.2, 0.5, 1.0, 2.0), 10
KS, AT_WEIGHT = (2, 5, 10, 25, 50), 0.5

PAPER = "000"
ROWS = (
    Row("Table 3", "table3-b0-ours", "", {"accuracy": 78.0}),
    Row("Table 3", "table3-b0-ra-by-the-authors", "kd=False", {"accuracy": 77.4}),
    Row("Table 3", "table3-b0-aa", "kd=False,policy=autoaugment", {"accuracy": 77.3},
        note="quoted from AutoAugment's successors; also how the default teacher is trained"),
    Row("Table 3", "table3-b0-advprop", None, {"accuracy": 77.6},
        note="quoted; adversarial examples are not here"),
    Row("Figure 4", "figure4-weight", "sweep=weight", {}, note="left; the paper prints a curve"),
    Row("Figure 4", "figure4-k", "sweep=k", {}, note="right; the paper prints a curve"),
)
CELLS: dict = {}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, **EFFICIENTNET_OPTIONS, k=5, weight=0.5, magnitude=9,
        sweep=one_of("none", "weight", "k"),
    )
    check(options.kd or options.sweep == "none", "option sweep needs distillation", "drop kd=False")
    refuse_idle(
        options, options.sweep != "none", ("weight", "k"), f"with sweep={options.sweep}"
    )
    config = efficientnet("b0", options, efficientnet_teacher("b0", options), devices=32)
    if options.sweep == "weight":
        config.terms.kd.k = AT_K
        config.population = (("terms.kd.weight", WEIGHTS),)
    if options.sweep == "k":
        config.terms.kd.weight = AT_WEIGHT
        config.population = (("terms.kd.k", KS),)
    return config.lock()
