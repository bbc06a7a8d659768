"""Methods of distillation on CIFAR-100, each with the numbers that made its published figures.

The 13 pairs of Tian et al. 2020, "Contrastive Representation Distillation", and the figures that
papers since then print for them: test accuracies in %. `N/A` is impossible, `?` unknown: no source
reached; letters of sources below. Pairs by their students, `pair=`.

Table 1, one family: wrn_40_2-wrn_16_2, wrn_40_2-wrn_40_1, resnet56-resnet20, resnet110-resnet20
(20b), resnet110-resnet32, resnet32x4-resnet8x4, vgg13-vgg8.

| Table 1: `method=` | wrn_16_2 | wrn_40_1 | 20 | 20b | 32 | 8x4 | vgg8 | source |
|---|---|---|---|---|---|---|---|---|
| teacher: `stage=teacher` | 75.61 | 75.61 | 72.34 | 74.31 | 74.31 | 79.42 | 74.64 | a |
| student: `none` | 73.26 | 71.98 | 69.06 | 69.06 | 71.14 | 72.50 | 70.36 | a |
| KD: the default | 74.92 | 73.54 | 70.66 | 70.67 | 73.08 | 73.33 | 72.98 | a |
| FitNet: `fitnet` | 73.58 | 72.24 | 69.21 | 68.99 | 71.06 | 73.50 | 71.02 | a |
| AT: `at` | 74.08 | 72.77 | 70.55 | 70.22 | 72.31 | 73.44 | 71.43 | a |
| SP: `sp` | 73.83 | 72.43 | 69.67 | 70.04 | 72.69 | 72.94 | 72.68 | a |
| CC: `cc` | 73.56 | 72.21 | 69.63 | 69.48 | 71.48 | 72.97 | 70.71 | a |
| VID: `vid` | 74.11 | 73.30 | 70.38 | 70.16 | 72.61 | 73.09 | 71.23 | a |
| RKD: `rkd` | 73.35 | 72.22 | 69.61 | 69.25 | 71.82 | 71.90 | 71.48 | a |
| PKT: `pkt` | 74.54 | 73.45 | 70.34 | 70.25 | 72.61 | 73.64 | 72.88 | a |
| AB: `ab` | 72.50 | 72.38 | 69.47 | 69.53 | 70.98 | 73.17 | 70.94 | a |
| FT: `ft` | 73.25 | 71.59 | 69.84 | 70.22 | 72.37 | 72.86 | 70.58 | a |
| FSP: `fsp` | 72.91 | N/A | 69.95 | 70.11 | 71.89 | 72.62 | 70.23 | a |
| NST: `nst` | 73.68 | 72.24 | 69.60 | 69.53 | 71.96 | 73.30 | 71.53 | a |
| CRD: `crd` | 75.48 | 74.14 | 71.16 | 71.46 | 73.48 | 75.51 | 73.94 | a |
| CRD+KD: `crd_kd` | 75.64 | 74.38 | 71.63 | 71.56 | 73.75 | 75.46 | 74.29 | b |
| OFD: `ofd` | ? | 74.33 | 70.98 | ? | ? | 74.95 | ? | c |
| ReviewKD: `reviewkd` | 76.12 | 75.09 | 71.89 | ? | 73.89 | 75.63 | 74.85 | d |
| DKD: `dkd` | 76.23 | 74.81 | 71.97 | 71.06 | 74.11 | 76.32 | 74.68 | e |
| DIST: `dist` | ? | 74.43 ± 0.24 | 71.75 ± 0.30 | ? | ? | 76.31 ± 0.19 | ? | f |
| DIST: `dist` | 75.51 | 74.73 | 71.75 | 71.65 | 73.69 | 76.31 | 73.89 | g |
| CTKD | 75.45 | 73.93 | 71.19 | 70.99 | 73.52 | 73.39 | 73.52 | h |
| MLKD: `mlkd` | 76.63 | 75.35 | 72.19 | 71.89 | 74.11 | 77.08 | 75.18 | h |
| KD+LS: `kd_ls` | 76.11 | 74.37 | 71.43 | 71.48 | 74.17 | 76.62 | 74.36 | h |
| CTKD+LS | 76.08 | 74.58 | 71.34 | 71.39 | 74.01 | 76.67 | 74.47 | h |
| DKD+LS: `dkd_ls` | 76.39 | 74.89 | 72.32 | 71.85 | 74.29 | 77.01 | 74.81 | h |
| MLKD+LS: `mlkd_ls` | 76.95 | 75.56 | 72.33 | 72.27 | 74.32 | 78.28 | 75.22 | h |
| KD+DOT: `kd_dot` | ? | ? | ? | ? | ? | 75.12 | 73.77 | i |
| MixUp | 76.20 | 75.53 | 72.00 | 72.27 | 74.60 | 76.73 | 74.56 | b |
| CutMix | 76.40 | 75.85 | 72.33 | 72.68 | 74.24 | 76.81 | 74.87 | b |
| SuperMix | 76.93 | 76.11 | 72.64 | 72.75 | 74.80 | 77.16 | 75.38 | b |
| MixUp+KD | 76.58 | 76.10 | 72.89 | 72.82 | 74.94 | 77.07 | 75.58 | b |
| CutMix+KD | 76.81 | 76.45 | 72.67 | 72.83 | 74.87 | 76.90 | 75.50 | b |
| SuperMix+KD | 77.45 | 76.53 | 73.19 | 72.96 | 75.21 | 77.59 | 76.03 | b |

Table 2, two families: vgg13-mobilenetv2 (mobile), resnet50_cifar-mobilenetv2 (mobile 50),
resnet50_cifar-vgg8 (vgg8), resnet32x4-shufflev1 (v1), resnet32x4-shufflev2 (v2), wrn_40_2-shufflev1
(v1 wrn).

| Table 2: `method=` | mobile | mobile 50 | vgg8 | v1 | v2 | v1 wrn | source |
|---|---|---|---|---|---|---|---|
| teacher: `stage=teacher` | 74.64 | 79.34 | 79.34 | 79.42 | 79.42 | 75.61 | a |
| student: `none` | 64.60 | 64.60 | 70.36 | 70.50 | 71.82 | 70.50 | a |
| KD: the default | 67.37 | 67.35 | 73.81 | 74.07 | 74.45 | 74.83 | a |
| FitNet: `fitnet` | 64.14 | 63.16 | 70.69 | 73.59 | 73.54 | 73.73 | a |
| AT: `at` | 59.40 | 58.58 | 71.84 | 71.73 | 72.73 | 73.32 | a |
| SP: `sp` | 66.30 | 68.08 | 73.34 | 73.48 | 74.56 | 74.52 | a |
| CC: `cc` | 64.86 | 65.43 | 70.25 | 71.14 | 71.29 | 71.38 | a |
| VID: `vid` | 65.56 | 67.57 | 70.30 | 73.38 | 73.40 | 73.61 | a |
| RKD: `rkd` | 64.52 | 64.43 | 71.50 | 72.28 | 73.21 | 72.21 | a |
| PKT: `pkt` | 67.13 | 66.52 | 73.01 | 74.10 | 74.69 | 73.89 | a |
| AB: `ab` | 66.06 | 67.20 | 70.65 | 73.55 | 74.31 | 73.34 | a |
| FT: `ft` | 61.78 | 60.99 | 70.29 | 71.75 | 72.50 | 72.03 | a |
| FSP: `fsp` | N/A | N/A | N/A | N/A | N/A | N/A | a |
| NST: `nst` | 58.16 | 64.96 | 71.28 | 74.12 | 74.68 | 74.89 | a |
| CRD: `crd` | 69.73 | 69.11 | 74.30 | 75.11 | 75.65 | 76.05 | a |
| CRD+KD: `crd_kd` | ? | ? | ? | ? | ? | ? | ? |
| OFD: `ofd` | ? | 69.04 | ? | 75.98 | 76.82 | ? | c |
| ReviewKD: `reviewkd` | 70.37 | 69.89 | ? | 77.45 | 77.78 | 77.14 | d |
| DKD: `dkd` | 69.71 | 70.35 | ? | 76.45 | 77.07 | 76.70 | e |
| DIST: `dist` | ? | 68.66 ± 0.23 | ? | 76.34 ± 0.18 | 77.35 ± 0.25 | ? | f |
| DIST: `dist` | 68.50 | 68.66 | 74.11 | 76.34 | 77.35 | 76.40 | g |
| CTKD | 68.50 | 68.67 | ? | ? | 75.37 | ? | h |
| MLKD: `mlkd` | 70.57 | 71.04 | ? | ? | 78.44 | ? | h |
| KD+LS: `kd_ls` | 68.61 | 69.02 | ? | ? | 75.56 | ? | h |
| CTKD+LS | 68.98 | 69.36 | ? | ? | 76.18 | ? | h |
| DKD+LS: `dkd_ls` | 69.98 | 70.45 | ? | ? | 77.37 | ? | h |
| MLKD+LS: `mlkd_ls` | 70.94 | 71.19 | ? | ? | 78.76 | ? | h |
| KD+DOT: `kd_dot` | ? | ? | ? | ? | 75.55 | ? | i |

    python main.py --config=configs/cifar100_kd.py:pair=resnet32x4-resnet8x4,method=dkd \
      --workdir=runs/dkd --config.data.source=cifar100:/data

    python -m kdaug_jax.catalog run baselines-vgg13-vgg8 --config.data.source=cifar100:/data

The second runs all methods on a pair and trains its teacher once.

Sources: a README of HobbitLong/RepDistiller @ b84f547, last epoch; b README of alldbi/SuperMix @
d63d25a, epoch not told; c quoted in a README of WangYZ1608/Knowledge-Distillation-via-ND, commit
and epoch unknown; d quoted in the README of roymiles/ITRD @ 5d08c6b, epoch unknown: the code of
dvlab-research/ReviewKD @ cede6ea keeps best and last; e README of megvii-research/mdistiller @
a08d46f, best epoch, mean of 5; f README of hunto/DIST_KD @ 2418f18, mean and deviation, epoch not
told; g quoted in the README of zkxufo/TTM @ fe457b3, epoch unknown; h README of sunshangquan/logit-
standardization-KD @ f6e5aa5, about the best epoch by its logs; i README of megvii-
research/mdistiller @ a08d46f, epoch not told; dkd of resnet110-resnet20 is from h.

These mix last and best epochs of the test split, which lie 0.11 to 0.92 apart (median 0.33, 40
logs); our runs evaluate the test split in each epoch, and the catalogue shows last and best.

Options: `pair`; `stage`, `student`, or `teacher` to train the pair's teacher by itself; `method`,
as in the tables, or `none` (no distillation), `kd_svd`, `crd_dot`; `weight`, of ReviewKD or β of
DKD, needed where none is published (the rows then have a guess); `runs`, seeds through one compiled
step; `holdout`, to keep 2 % of the training split for
choices; `smoke`.

Recipe, of RepDistiller and mdistiller: batch 64, 240 epochs, rate 0.05 (0.01 for MobileNetV2 and
ShuffleNet), x 0.1 at 150, 180, 210, momentum 0.9, decay 5e-4 on everything, crop 32 with 4, flip;
tuned on one pair and then fixed. Theirs keeps the last 16 images of an epoch, ours drops them.

| method | beside cross entropy of weight 1 |
|---|---|
| KD | CE 0.1, KL 0.9, T = 4 |
| FitNet, AT, SP, CC | f2 100; maps 1,000, p = 2; last map 3,000; pooled, 128 wide, 0.02 |
| VID, RKD, PKT, NST | maps 1; pooled, 25 distance + 50 angle; pooled 30,000; maps 50 |
| AB, FSP, FT | 30 epochs alone, weight 1, constant rate; then CE, for FT with 200 FT |
| CRD | 0.8, 16,384 negatives, 128 wide, T = 0.07, momentum 0.5; CRD+KD with KL 1 |
| OFD | 1e-3, margins of the teacher's BatchNorm; the teacher's maps pooled to the student's |
| ReviewKD | its authors': batch 128, rate 0.1 (0.02), Nesterov, own mean; weight of the pair |
| DKD | α = 1, β of the pair, T = 4, weight e/20 in epoch e |
| DIST | 2 (inter + intra), T = 4 |
| MLKD | as its code computes it: Grams and KL at T = 2..6, weak and strong view |
| KD+LS, DKD+LS, MLKD+LS | standardised logits, T and weight of the pair |
| KD+DOT | momenta 0.9 ∓ 0.075 for CE and KL |

The weights of AB and FSP in RepDistiller's script (1, 50) have no effect there. FT's initial rate
is 0.01 for ResNets and WRNs. ReviewKD's weight is also reported as 0.7 for resnet56-resnet20, and
as 30 with mdistiller's recipe (batch 64, rate 0.01) for resnet50_cifar-mobilenetv2, 69.88. MLKD ran
for 480 epochs, 960 from resnet32x4 to ShuffleNet, at rate 0.025 (0.01), with milestones as above;
each step has two views. Its paper's formula is `mlkd` with `masked=True`; what ran is another sum:
masks of one half, and KL of the weak view at T = 2 and 6 in place of the strong one. MLKD+LS
standardises the KL only, at rate 0.01 for vgg13-vgg8 too. mdistiller's MLKD of 2024 has 240 epochs
and is reported to reach less.

What cannot be had here: ReviewKD's and OFD's teachers in training mode, CRD's negatives without
strata, the stored images of SuperMix, the learned temperature of CTKD. Each row says it.

The teacher is trained first, for 240 epochs on x, into <workdir>/teacher, unless
--config.networks.teacher.checkpoint names its directory; the published rows took RepDistiller's.

Cost of wrn_40_2-wrn_16_2, KD: 0.33 billion multiply-adds an image for the teacher, 3 x 0.10 for the
student: about 1.5e16 a run; MLKD four times that. It has not been run here.
"""

from __future__ import annotations

from typing import Any

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
    teacher_alone,
)
from configs.wang2020_cifar100 import MOBILE, NORMAL
from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, optimizer

SAME_FAMILY = (
    "wrn_40_2-wrn_16_2", "wrn_40_2-wrn_40_1", "resnet56-resnet20", "resnet110-resnet20",
    "resnet110-resnet32", "resnet32x4-resnet8x4", "vgg13-vgg8",
)
CROSS_FAMILY = (
    "vgg13-mobilenetv2", "resnet50_cifar-mobilenetv2", "resnet50_cifar-vgg8",
    "resnet32x4-shufflev1", "resnet32x4-shufflev2", "wrn_40_2-shufflev1",
)
PAIRS = (*SAME_FAMILY, *CROSS_FAMILY)
EQUAL_WIDTHS = tuple(pair for pair in SAME_FAMILY if pair != "wrn_40_2-wrn_40_1")
# Networks of four stages, the others have three. Student and teacher of a pair have as many.
FOUR_STAGES = ("vgg8", "vgg13", "mobilenetv2", "resnet50_cifar")
SMALL = {
    "wrn_40_2": "wrn_10_2", "wrn_16_2": "wrn_10_2", "wrn_40_1": "wrn_10_1", "resnet20": "resnet8",
    "resnet32": "resnet8", "resnet56": "resnet14", "resnet110": "resnet14",
    "resnet32x4": "resnet8x4", "vgg13": "vgg8",
    "resnet50_cifar": ("resnet50_cifar", dict(width=0.125)),
}
# Statistics of ReviewKD's code.
REVIEW_NORMAL = dict(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
EPOCHS, MILESTONES, BATCH = 240.0, (150.0, 180.0, 210.0), 64
INITIAL_EPOCHS = 30.0
# Losses on features beside cross entropy: features, weight, options.
ON_FEATURES: dict[str, tuple[str, float, dict[str, Any]]] = {
    "fitnet": ("second", 100.0, {}),
    "at": ("maps", 1000.0, dict(p=2)),
    "sp": ("last", 3000.0, {}),
    "cc": ("pooled", 0.02, dict(dim=128)),
    "vid": ("maps", 1.0, {}),
    "rkd": ("pooled", 1.0, dict(distance=25.0, angle=50.0)),
    "pkt": ("pooled", 30000.0, {}),
    "nst": ("maps", 50.0, {}),
    "kd_svd": ("maps", 1.0, dict(k=1)),
    "crd": ("pooled", 0.8, dict(dim=128, negatives=16384, temperature=0.07, momentum=0.5)),
    "ofd": ("before_relu", 1.0, dict(scale=0.001, margin="batchnorm")),
    "ab": ("before_relu", 1.0, dict(margin=1.0, scale=0.003)),
    "fsp": ("with_stem", 1.0, {}),
    "ft": ("last", 1.0, dict(share=0.5, part="paraphraser")),
}
# What changes after the initial stage of 30 epochs, beside cross entropy, rate and optimiser.
MAIN_STAGE: dict[str, dict[str, Any]] = {
    "ab": {"terms.ab.weight": 0.0},
    "fsp": {"terms.fsp.weight": 0.0},
    "ft": {"terms.ft.weight": 200.0, "terms.ft.part": "translator"},
}
METHODS = (
    "kd", "none", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ft", "fsp", "nst",
    "kd_svd", "crd", "crd_kd", "ofd", "reviewkd", "dkd", "dist", "mlkd", "kd_ls", "dkd_ls",
    "mlkd_ls", "kd_dot", "crd_dot",
)
# Weight of ReviewKD, in its authors' script.
REVIEW_WEIGHTS = {
    "wrn_40_2-wrn_16_2": 5.0, "wrn_40_2-wrn_40_1": 5.0, "resnet56-resnet20": 0.6,
    "resnet110-resnet32": 1.0, "resnet32x4-resnet8x4": 5.0, "resnet32x4-shufflev1": 5.0,
    "wrn_40_2-shufflev1": 5.0, "resnet32x4-shufflev2": 8.0,
}
# β of DKD.
DKD_BETAS = {
    "resnet56-resnet20": 2.0, "resnet110-resnet32": 2.0, "wrn_40_2-wrn_16_2": 6.0,
    "wrn_40_2-wrn_40_1": 6.0, "vgg13-vgg8": 6.0, "resnet32x4-resnet8x4": 8.0,
    "vgg13-mobilenetv2": 6.0, "resnet50_cifar-mobilenetv2": 8.0, "resnet32x4-shufflev1": 8.0,
    "resnet32x4-shufflev2": 8.0, "wrn_40_2-shufflev1": 8.0,
}
# What the rows take where no weight is published: of ReviewKD, of DKD.
READINGS = {
    "reviewkd": {
        "resnet110-resnet20": 1.0, "vgg13-vgg8": 5.0, "vgg13-mobilenetv2": 8.0,
        "resnet50_cifar-mobilenetv2": 8.0, "resnet50_cifar-vgg8": 8.0,
    },
    "dkd": {"resnet110-resnet20": 2.0, "resnet50_cifar-vgg8": 8.0},
}
# Logit standardisation: temperature and weight; of KD, then last and best accuracy of its log.
LS_KD = {
    "resnet32x4-resnet8x4": (2.0, 9.0, 76.28, 76.66), "vgg13-vgg8": (3.0, 9.0, 74.50, 74.69),
    "wrn_40_2-wrn_40_1": (2.0, 9.0, 74.20, 74.56), "wrn_40_2-wrn_16_2": (2.0, 9.0, 75.59, 76.08),
    "resnet56-resnet20": (2.0, 9.0, 71.37, 71.53), "resnet110-resnet32": (2.0, 9.0, 74.01, 74.24),
    "resnet110-resnet20": (4.0, 12.0, 71.22, 71.46),
    "resnet32x4-shufflev2": (2.0, 9.0, 75.58, 75.79),
    "vgg13-mobilenetv2": (3.0, 9.0, 69.09, 69.45),
    "resnet50_cifar-mobilenetv2": (3.0, 1.0, 69.03, 69.21),
}
# Of DKD: temperature, weight, BETA, of which β is BETA times the weight; last and best of its log.
LS_DKD = {
    "resnet32x4-resnet8x4": (2.0, 9.0, 8.0, 76.93, 77.14),
    "vgg13-vgg8": (2.0, 15.0, 2.0, 74.53, 74.69),
    "wrn_40_2-wrn_40_1": (2.0, 12.0, 2.0, 74.60, 74.93),
    "wrn_40_2-wrn_16_2": (2.0, 12.0, 2.0, 76.05, 76.27),
    "resnet56-resnet20": (3.0, 18.0, 2.0, 71.82, 72.24),
    "resnet110-resnet32": (2.0, 15.0, 2.0, 73.80, 74.27),
    "resnet110-resnet20": (2.0, 15.0, 2.0, 71.37, 71.86),
    "resnet32x4-shufflev2": (2.0, 9.0, 8.0, 76.92, 77.45),
    "vgg13-mobilenetv2": (3.0, 9.0, 2.0, 69.88, 70.12),
    "resnet50_cifar-mobilenetv2": (2.0, 15.0, 2.0, 70.77, 70.91),
}
# Of MLKD: temperature, weight; last and best of its log, without which there are none.
LS_MLKD = {
    "resnet32x4-resnet8x4": (2.0, 9.0, 78.17, 78.28), "vgg13-vgg8": (2.0, 6.0, 74.79, 75.18),
    "wrn_40_2-wrn_40_1": (2.0, 9.0, 74.97, 75.46), "wrn_40_2-wrn_16_2": (2.0, 9.0, 76.54, 76.83),
    "resnet110-resnet32": (2.0, 9.0, 73.88, 74.21),
    "resnet110-resnet20": (2.0, 9.0, 71.92, 72.27),
    "resnet32x4-shufflev2": (2.0, 6.0, 77.89, 78.81),
    "vgg13-mobilenetv2": (2.0, 6.0, 70.54, 70.94),
    "resnet50_cifar-mobilenetv2": (2.0, 9.0, 71.31, 71.64),
}
LS_DEFAULT = {"kd_ls": (2.0, 9.0), "dkd_ls": (2.0, 9.0, 8.0), "mlkd_ls": (2.0, 9.0)}
LS_TABLES = {"kd_ls": LS_KD, "dkd_ls": LS_DKD, "mlkd_ls": LS_MLKD}

SOURCES = {
    "a": "README of HobbitLong/RepDistiller @ b84f547, last epoch",
    "b": "README of alldbi/SuperMix @ d63d25a, epoch not told",
    "c": "quoted in a README of WangYZ1608/Knowledge-Distillation-via-ND, commit and epoch unknown",
    "d": "quoted in the README of roymiles/ITRD @ 5d08c6b, epoch unknown: the code of "
         "dvlab-research/ReviewKD @ cede6ea keeps best and last",
    "e": "README of megvii-research/mdistiller @ a08d46f, best epoch, mean of 5",
    "f": "README of hunto/DIST_KD @ 2418f18, mean and deviation, epoch not told",
    "g": "quoted in the README of zkxufo/TTM @ fe457b3, epoch unknown",
    "h": "README of sunshangquan/logit-standardization-KD @ f6e5aa5, about the best epoch by its "
         "logs",
    "i": "README of megvii-research/mdistiller @ a08d46f, epoch not told",
}
NOT_APPLICABLE = "N/A"
# By method, then the label of the docstring: where the figures are from, and those of the pairs
# in the order of the tables; None where they are unknown.
SAME_FIGURES: dict[str, tuple[str, tuple]] = {
    "teacher": ("a", (75.61, 75.61, 72.34, 74.31, 74.31, 79.42, 74.64)),
    "none": ("a", (73.26, 71.98, 69.06, 69.06, 71.14, 72.50, 70.36)),
    "kd": ("a", (74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98)),
    "fitnet": ("a", (73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02)),
    "at": ("a", (74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43)),
    "sp": ("a", (73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68)),
    "cc": ("a", (73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71)),
    "vid": ("a", (74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23)),
    "rkd": ("a", (73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48)),
    "pkt": ("a", (74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88)),
    "ab": ("a", (72.50, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94)),
    "ft": ("a", (73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58)),
    "fsp": ("a", (72.91, NOT_APPLICABLE, 69.95, 70.11, 71.89, 72.62, 70.23)),
    "nst": ("a", (73.68, 72.24, 69.60, 69.53, 71.96, 73.30, 71.53)),
    "crd": ("a", (75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94)),
    "crd_kd": ("b", (75.64, 74.38, 71.63, 71.56, 73.75, 75.46, 74.29)),
    "ofd": ("c", (None, 74.33, 70.98, None, None, 74.95, None)),
    "reviewkd": ("d", (76.12, 75.09, 71.89, None, 73.89, 75.63, 74.85)),
    "dkd": ("e", (76.23, 74.81, 71.97, 71.06, 74.11, 76.32, 74.68)),
    "dist-authors": ("f", (None, (74.43, 0.24), (71.75, 0.30), None, None, (76.31, 0.19), None)),
    "dist": ("g", (75.51, 74.73, 71.75, 71.65, 73.69, 76.31, 73.89)),
    "ctkd": ("h", (75.45, 73.93, 71.19, 70.99, 73.52, 73.39, 73.52)),
    "mlkd": ("h", (76.63, 75.35, 72.19, 71.89, 74.11, 77.08, 75.18)),
    "kd_ls": ("h", (76.11, 74.37, 71.43, 71.48, 74.17, 76.62, 74.36)),
    "ctkd_ls": ("h", (76.08, 74.58, 71.34, 71.39, 74.01, 76.67, 74.47)),
    "dkd_ls": ("h", (76.39, 74.89, 72.32, 71.85, 74.29, 77.01, 74.81)),
    "mlkd_ls": ("h", (76.95, 75.56, 72.33, 72.27, 74.32, 78.28, 75.22)),
    "kd_dot": ("i", (None, None, None, None, None, 75.12, 73.77)),
    "mixup": ("b", (76.20, 75.53, 72.00, 72.27, 74.60, 76.73, 74.56)),
    "cutmix": ("b", (76.40, 75.85, 72.33, 72.68, 74.24, 76.81, 74.87)),
    "supermix": ("b", (76.93, 76.11, 72.64, 72.75, 74.80, 77.16, 75.38)),
    "mixup_kd": ("b", (76.58, 76.10, 72.89, 72.82, 74.94, 77.07, 75.58)),
    "cutmix_kd": ("b", (76.81, 76.45, 72.67, 72.83, 74.87, 76.90, 75.50)),
    "supermix_kd": ("b", (77.45, 76.53, 73.19, 72.96, 75.21, 77.59, 76.03)),
}
CROSS_FIGURES: dict[str, tuple[str, tuple]] = {
    "teacher": ("a", (74.64, 79.34, 79.34, 79.42, 79.42, 75.61)),
    "none": ("a", (64.60, 64.60, 70.36, 70.50, 71.82, 70.50)),
    "kd": ("a", (67.37, 67.35, 73.81, 74.07, 74.45, 74.83)),
    "fitnet": ("a", (64.14, 63.16, 70.69, 73.59, 73.54, 73.73)),
    "at": ("a", (59.40, 58.58, 71.84, 71.73, 72.73, 73.32)),
    "sp": ("a", (66.30, 68.08, 73.34, 73.48, 74.56, 74.52)),
    "cc": ("a", (64.86, 65.43, 70.25, 71.14, 71.29, 71.38)),
    "vid": ("a", (65.56, 67.57, 70.30, 73.38, 73.40, 73.61)),
    "rkd": ("a", (64.52, 64.43, 71.50, 72.28, 73.21, 72.21)),
    "pkt": ("a", (67.13, 66.52, 73.01, 74.10, 74.69, 73.89)),
    "ab": ("a", (66.06, 67.20, 70.65, 73.55, 74.31, 73.34)),
    "ft": ("a", (61.78, 60.99, 70.29, 71.75, 72.50, 72.03)),
    "fsp": ("a", (NOT_APPLICABLE,) * 6),
    "nst": ("a", (58.16, 64.96, 71.28, 74.12, 74.68, 74.89)),
    "crd": ("a", (69.73, 69.11, 74.30, 75.11, 75.65, 76.05)),
    "crd_kd": ("b", (None,) * 6),
    "ofd": ("c", (None, 69.04, None, 75.98, 76.82, None)),
    "reviewkd": ("d", (70.37, 69.89, None, 77.45, 77.78, 77.14)),
    "dkd": ("e", (69.71, 70.35, None, 76.45, 77.07, 76.70)),
    "dist-authors": ("f", (None, (68.66, 0.23), None, (76.34, 0.18), (77.35, 0.25), None)),
    "dist": ("g", (68.50, 68.66, 74.11, 76.34, 77.35, 76.40)),
    "ctkd": ("h", (68.50, 68.67, None, None, 75.37, None)),
    "mlkd": ("h", (70.57, 71.04, None, None, 78.44, None)),
    "kd_ls": ("h", (68.61, 69.02, None, None, 75.56, None)),
    "ctkd_ls": ("h", (68.98, 69.36, None, None, 76.18, None)),
    "dkd_ls": ("h", (69.98, 70.45, None, None, 77.37, None)),
    "mlkd_ls": ("h", (70.94, 71.19, None, None, 78.76, None)),
    "kd_dot": ("i", (None, None, None, None, 75.55, None)),
}
TABLES = {"Table 1": (SAME_FAMILY, SAME_FIGURES), "Table 2": (CROSS_FAMILY, CROSS_FIGURES)}
SUPERMIX = ("SuperMix's own recipe, up to 600 epochs at batch 128 on a stored set of mixed images, "
            "which is not public; wang2020_cifar100.py mixes in the step")
NOT_OURS = {
    "ctkd": "learns its temperature against the student, which no loss here does",
    "ctkd_ls": "learns its temperature against the student, which no loss here does",
    **dict.fromkeys(("mixup", "cutmix", "supermix", "mixup_kd", "cutmix_kd", "supermix_kd"),
                    SUPERMIX),
}
STRATA = "negatives are drawn by strata here"
# What differs from the code that a row's figure is of, by method.
DIFFERENCES = {
    "crd": STRATA, "crd_kd": STRATA,
    "ofd": "mdistiller leaves the teacher in training mode, here it is in inference mode",
    "reviewkd": "the authors' teacher normalises by the batch, here it is in inference mode",
    "ab": "of WRN students the last feature is normalised by the batch here, in the first 30 "
          "epochs by initial statistics there",
}
PAPER = "baselines"


def _row(table: str, method: str, pair: str, source: str, figure: Any) -> Row:
    name = f"{method}-{pair}"
    if figure == NOT_APPLICABLE:
        return Row(table, name, None, {}, note="FSP needs equal widths of student and teacher")
    notes = [SOURCES[source]]
    if method == "dkd" and pair == "resnet110-resnet20":
        notes = [SOURCES["h"]]
    if figure is None:
        notes = ["accuracy unknown"]
    if method in NOT_OURS:
        options = None
        notes.append(NOT_OURS[method])
    else:
        options, remarks = _run_of(method, pair)
        notes += remarks
    mean, deviation = figure if isinstance(figure, tuple) else (figure, None)
    return Row(
        table, name, options, {} if mean is None else {"accuracy": mean},
        {} if deviation is None else {"accuracy": deviation}, "; ".join(notes),
    )


def _run_of(method: str, pair: str) -> tuple[str, list[str]]:
    """Returns options of a row, and remarks on what is run."""
    if method == "teacher":
        return f"pair={pair},stage=teacher", []
    method = method.removesuffix("-authors")
    options = f"pair={pair},method={method}"
    remarks = [DIFFERENCES[method]] if method in DIFFERENCES else []
    if method == "ofd" and pair in CROSS_FAMILY:
        remarks.append("how mobile students were run is not told")
    weight = READINGS.get(method, {}).get(pair)
    if weight is not None:
        options += f",weight={weight}"
        remarks.append("the weight is not published, this is a guess")
    if method in LS_TABLES:
        numbers = LS_TABLES[method].get(pair)
        remarks.append("no log of its run; the code's default numbers" if numbers is None
                       else f"its log: last {numbers[-2]:.2f}, best {numbers[-1]:.2f}")
    return options, remarks


ROWS = tuple(
    _row(table, method, pair, source, figure)
    for table, (pairs, figures) in TABLES.items()
    for method, (source, values) in figures.items()
    for pair, figure in zip(pairs, values, strict=True)
)
# All methods on a pair; the catalogue keeps their teacher, which they share.
CELLS = {
    f"baselines-{pair}": tuple(
        Cell(method, _run_of(method, pair)[0]) for method in METHODS
        if method != "fsp" or pair in EQUAL_WIDTHS
    )
    for pair in PAIRS
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, pair=one_of(*PAIRS), stage=one_of("student", "teacher"), method=one_of(*METHODS),
        weight=0.0, runs=1, holdout=False,
    )
    _check(options)
    if options.stage == "teacher":
        options.method = "kd"
    side = 16 if options.smoke else 32
    teacher, student = options.pair.split("-")
    plain = f"pad_crop({side // 8})|flip"
    normal = REVIEW_NORMAL if options.method == "reviewkd" else NORMAL["cifar100"]
    config = default()
    with config.unlocked():
        read_splits(config, "cifar100:data", "test", options.holdout, classes=100)
        config.views.x = plain
        config.networks.student = network(student, trainable=True, **normal)
        if options.method != "none":
            config.networks.teacher = network(teacher, **NORMAL["cifar100"], recipe=(
                ("views", {"x": plain}), ("data.batch_size", BATCH), ("train.epochs", EPOCHS),
                ("optim", _sgd(_milestones(_rate(teacher, 0.05)))),
            ))
        config.data.batch_size = BATCH
        config.train.epochs = EPOCHS
        config.optim = _sgd(_milestones(_rate(student, 0.05)))
        _put_method(config, options, student)
        repeat(config, options.runs)
        config.eval.metrics = ("accuracy", "top5", "nll")
        if options.smoke and "crd" in config.terms:
            config.terms.crd.negatives = 32
        finish_cifar(config, options, SMALL, side)
        config.eval.every_epochs = 1.0  # so that the best epoch is that of all
    return teacher_alone(config) if options.stage == "teacher" else config.lock()


def _check(options: ConfigDict) -> None:
    check_runs(options)
    refuse_idle(options, options.stage == "teacher", ("method", "weight", "runs"),
                "with stage=teacher")
    refuse_idle(options, options.method not in READINGS, ("weight",),
                f"with method={options.method}")
    check(options.weight >= 0, f"option weight={options.weight}", "0 or more")
    check(options.method != "fsp" or options.pair in EQUAL_WIDTHS,
          f"method=fsp needs equal widths, {options.pair} has others",
          "use " + ", ".join(EQUAL_WIDTHS))


def _published(options: ConfigDict, weights: dict[str, float], name: str) -> float:
    """Returns the option weight, or the published one."""
    if "weight" in options.given:
        return options.weight
    check(options.pair in weights, f"{name} for {options.pair} is not published",
          "give weight=...")
    return weights[options.pair]


def _rate(student: str, base: float) -> float:
    """Returns the learning rate, of mobile students a fifth."""
    return base / 5 if student in MOBILE else base


def _milestones(base: float, at: tuple[float, ...] = MILESTONES) -> dict[str, Any]:
    return dict(name="milestones", base=base, unit="epoch", warmup=0.0, at=at, factor=0.1)


def _sgd(schedule: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return optimizer(
        "sgd", schedule, **{"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, **fields}
    )


def _warm(weight: float, offset: float) -> dict[str, Any]:
    """Returns a weight that grows over 20 epochs, constant within each."""
    return dict(name="constant", base=weight, unit="epoch", warmup=20.0, stairs="epoch",
                offset=offset)


def _put_method(config: ConfigDict, options: ConfigDict, student: str) -> None:
    """Puts the terms of a method, and what it changes in the recipe."""
    method = options.method
    kind, _, addition = method.partition("_") if method != "kd_svd" else (method, "", "")
    put_cross_entropy(config, {"kd": 0.1, "mlkd": 0.1}.get(kind, 1.0))
    if kind in ON_FEATURES:
        where, weight, fields = ON_FEATURES[kind]
        put_distillation(config, kind, kind, weight, features=_features(student, where), **fields)
    if kind in MAIN_STAGE:
        _put_initial_stage(config, kind, student)
    if kind == "reviewkd":
        weight = _published(options, REVIEW_WEIGHTS, "the weight of ReviewKD")
        put_distillation(
            config, kind, kind, _warm(weight, 0.0), features=_features(student, "review"),
            middle=512,
        )
        config.data.batch_size = 128
        # Its code lowers the rate after the epochs 150, 180, 210, counted from 0.
        later = tuple(epoch + 1 for epoch in MILESTONES)
        config.optim = _sgd(_milestones(_rate(student, 0.1), later), nesterov=True)
    if kind == "kd" and addition == "ls":
        temperature, weight = _standardised(method, options.pair)
        put_distillation(config, "kd", "kl", weight, temperature=temperature, standardize=True)
    elif kind == "kd" or addition == "kd":
        put_distillation(config, "kd", "kl", 0.9 if kind == "kd" else 1.0, temperature=4.0)
    if kind == "dkd":
        put_distillation(config, "dkd", "dkd", _warm(1.0, 1.0), **_dkd(options))
    if kind == "dist":
        put_distillation(config, "dist", "dist", 2.0, beta=1.0, gamma=1.0, temperature=4.0)
    if kind == "mlkd":
        _put_levels(config, options, student)
    if addition == "dot":
        config.optim.combine = "dot(0.075)"


def _standardised(method: str, pair: str) -> tuple[float, ...]:
    """Returns temperature, weight and, of DKD, BETA of logit standardisation."""
    default_numbers = LS_DEFAULT[method]
    return LS_TABLES[method].get(pair, default_numbers)[:len(default_numbers)]


def _dkd(options: ConfigDict) -> dict[str, Any]:
    if options.method == "dkd_ls":
        temperature, weight, beta = _standardised("dkd_ls", options.pair)
        return dict(alpha=weight, beta=beta * weight, temperature=temperature, standardize=True)
    beta = _published(options, DKD_BETAS, "β of DKD")
    return dict(alpha=1.0, beta=beta, temperature=4.0)


def _put_initial_stage(config: ConfigDict, method: str, student: str) -> None:
    """Puts 30 epochs of the method alone, at a constant rate, before the 240 of the recipe."""
    rate = _rate(student, 0.05)
    narrow = method == "ft" and student.startswith(("resnet", "wrn"))
    config.terms.ce.weight = 0.0
    config.train.epochs = INITIAL_EPOCHS + EPOCHS
    later = tuple(INITIAL_EPOCHS + epoch for epoch in MILESTONES)
    config.optim = _sgd(dict(
        name="constant", base=0.01 if narrow else rate, unit="epoch", warmup=0.0
    ))
    config.phases = ((INITIAL_EPOCHS, {
        "terms.ce.weight": 1.0, "optim.schedule": _milestones(rate, later), "optim.restart": True,
        **MAIN_STAGE[method],
    }),)


def _put_levels(config: ConfigDict, options: ConfigDict, student: str) -> None:
    """Puts multi-level logit distillation as its code computes it, on a weak and a strong view.

    The code halves the Grams and the KL of the weak view, whose masks come after the mean, and adds
    the KL of the weak view at temperatures 2 and 6 where the strong one is meant.
    """
    standardize = options.method == "mlkd_ls"
    first, weight = _standardised("mlkd_ls", options.pair) if standardize else (4.0, 0.9)
    temperatures = (first, 3.0, 5.0, 2.0, 6.0)
    config.views.x_strong = f"{config.views.x}|fixmatch(2)"
    config.terms.ce.on = ("x", "x_strong")
    put_distillation(
        config, "grams", "mlkd", 0.5 * weight, temperatures=temperatures,
        parts=("examples", "classes"),
    )
    weights: dict[tuple[str, float], float] = {}
    parts = (("x", temperatures, 0.5 * weight), ("x", (2.0, 6.0), weight),
             ("x_strong", (first, 3.0, 5.0), weight))
    for view, among, part in parts:
        for temperature in among:
            weights[view, temperature] = weights.get((view, temperature), 0.0) + part
    for (view, temperature), total in weights.items():
        put_distillation(
            config, f"kl_{view}_{temperature:g}", "kl", total, on=(view,),
            temperature=temperature, standardize=standardize,
        )
    to_shuffle = options.pair in ("resnet32x4-shufflev1", "resnet32x4-shufflev2")
    config.train.epochs = 960.0 if to_shuffle else 480.0
    slow = student in MOBILE or standardize and options.pair == "vgg13-vgg8"
    config.optim = _sgd(_milestones(0.01 if slow else 0.025))


def _features(student: str, where: str) -> tuple[str, ...]:
    """Returns the activations that a loss compares, by what the methods say of them."""
    maps = tuple(f"f{i}" for i in range(1, 5 if student in FOUR_STAGES else 4))
    # MobileNetV2 ends its stages without a ReLU.
    mine = maps if student == "mobilenetv2" else tuple(f"{name}_pre" for name in maps)
    return {
        "second": ("f2",), "maps": maps, "last": maps[-1:], "pooled": ("pooled",),
        "with_stem": ("f0", *maps),
        "before_relu": tuple(f"{s}:{t}_pre" for s, t in zip(mine, maps, strict=True)),
        "review": (*(f"{name}:{name}_pre" for name in maps), "pooled"),
    }[where]
