"""Several augmented views, each with its own BatchNorm, taught by their ensemble (paper 002).

Li et al. 2021, "A2-Aug: Adaptive Automated Data Augmentation", Table 2: accuracies in %, mean and
deviation as printed (the number of runs is not given).

| data | `network=` | baseline | Cutout | AA | PBA | FAA | RA | DADA | A2-Aug |
|---|---|---|---|---|---|---|---|---|---|
| CIFAR-10 | wrn_40_2 | 94.4 | 95.9 | 96.3 | | 96.4 | | 96.4 | 96.7 ± 0.2 |
| | wrn_28_10 | 96.1 | 96.9 | 97.4 | 97.4 | 97.3 | 97.3 | 97.3 | 98.0 ± 0.3 |
| | shake26_2x32d | 96.4 | 97.0 | 97.5 | 97.5 | 97.5 | | 97.3 | 97.7 ± 0.1 |
| | shake26_2x96d | 97.1 | 97.4 | 98.0 | 98.0 | 98.0 | 98.0 | 98.0 | 98.5 ± 0.1 |
| | pyramidnet272 | 97.3 | | 98.5 | 98.3 | 98.3 | 98.5 | 98.3 | 98.9 ± 0.2 |
| CIFAR-100 | wrn_40_2 | 74.0 | 74.8 | 79.3 | | 79.4 | | 79.1 | 81.3 ± 0.3 |
| | wrn_28_10 | 81.2 | 81.6 | 82.9 | 83.3 | 82.7 | 83.3 | 82.5 | 85.2 ± 0.4 |
| | shake26_2x96d | 82.9 | 84.0 | 85.7 | 84.7 | 85.4 | | 84.7 | 86.8 ± 0.3 |

    python main.py --config=configs/a2aug_cifar.py --workdir=runs/a2aug \
      --config.data.source=cifar100:/data

A2-Aug is the default, with 4 views; `only=baseline` (crop and flip) and `only=cutout` are the first
two columns; the others are quoted in the paper, see wei2020_table2.py for AA, FAA, PBA and RA.
Figure 4 is `network=wrn_40_2,n_views=1` ... `6` with `runs=10`. The ablations are ImageNet's in the
paper and choices here: Table 5 `networks=independent` and `bn=shared`, Table 7 `ensemble=average`,
Table 8 `form=joint_ce`, `l2_norm`, `kl`, `kl_norm`. The run reports every branch, the ensemble and
its weights (Table 6); the branch is chosen on 2 % of the training split that are kept for it, as
the paper keeps some.

Other options: `dataset`; `logit_scale`, the length of normalised logits, `sqrt_classes`,
`mean_norm` or a number: 1.0 as printed makes the KL vanish; `draw`, seed of the views' strengths;
`smoke`.

In the paper: 4 views on CIFAR, N augmentations sampled from RandAugment's space, "the settings of
AA and RA". Our readings: view i keeps its (n, m), drawn once from n of 1, 2, 3 and m of 3, 6, ...
30; each has its own crop and flip; the three parts of the loss weigh the same and are summed over
views; mu starts at 0 and does not decay. Recipe by network: AUTOAUGMENT_RECIPES in common.py; decay
of wrn_40_2 is 2e-4 (Fast AutoAugment) there, 5e-4 in AutoAugment.

Cost: 4 x 3 x 0.33 billion multiply-adds an image for wrn_40_2, 3.9e16 a run; the paper gives 1.8
times the time of one view with 3 views (ImageNet). It has not been run here.
"""

from __future__ import annotations

from typing import Any

from configs.common import (
    autoaugment_recipe,
    autoaugment_view,
    check,
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
)
from kdaug_jax.augment.policies import randaugment_candidates
from kdaug_jax.experiment.sections import ConfigDict, default, network, term
from kdaug_jax.losses.ensemble import FORMS, SCALES

NETWORKS = {
    "wrn_40_2": "wrn_40_2",
    "wrn_28_10": "wrn_28_10",
    "shake26_2x32d": "shake26_2x32d",
    "shake26_2x96d": "shake26_2x96d",
    "pyramidnet272": "pyramidnet272_a200_shakedrop",
}
ROWS = {"cifar10": tuple(NETWORKS), "cifar100": ("wrn_40_2", "wrn_28_10", "shake26_2x96d")}
CLASSES = {"cifar10": 10, "cifar100": 100}
SMALL = {
    "wrn_40_2": "wrn_10_1",
    "wrn_28_10": "wrn_10_1",
    "shake26_2x32d": "shake26_2x4d",
    "shake26_2x96d": "shake26_2x4d",
    "pyramidnet272_a200_shakedrop": "pyramidnet11_a6_shakedrop",
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of("cifar100", "cifar10"), network=one_of(*NETWORKS),
        n_views=one_of(4, 1, 2, 3, 5, 6), form=one_of("kl_norm", *FORMS),
        logit_scale="sqrt_classes", ensemble=one_of("adaptive", "average"),
        bn=one_of("split", "shared"),
        networks=one_of("joint", "independent"), only=one_of("a2aug", "baseline", "cutout"),
        draw=0, runs=1,
    )
    _check(options)
    side = 16 if options.smoke else 32
    config = default()
    with config.unlocked():
        read_splits(config, f"{options.dataset}:data", "test", holdout=True)
        config.update_from_flattened_dict(
            autoaugment_recipe(NETWORKS[options.network], CLASSES[options.dataset])
        )
        _put_views(config, options, side)
        _put_networks(config, options)
        if options.runs > 1:
            config.population = (("seed", tuple(range(options.runs))),)
        return finish_cifar(config, options, SMALL, side)


def _put_views(config: ConfigDict, options: ConfigDict, side: int) -> None:
    if options.only != "a2aug":
        config.views.a0 = autoaugment_view("", side, 16 if options.only == "cutout" else 0)
        return
    for number, (n, m) in enumerate(randaugment_candidates(options.draw, options.n_views)):
        split = options.bn == "split" and options.networks == "joint"
        config.views[f"a{number}"] = dict(
            ops=autoaugment_view(f"randaugment({n}, {m})", side), branch=number if split else 0
        )


def _put_networks(config: ConfigDict, options: ConfigDict) -> None:
    """Adds one network for all views, or a network for each view, and the terms."""
    views = tuple(f"a{number}" for number in range(len(config.views)))
    shared = options.networks == "joint" or len(views) == 1
    names = ("student",) if shared else tuple(f"n{number}" for number in range(len(views)))
    for name in names:
        config.networks[name] = network(NETWORKS[options.network], trainable=True)
    students = names[0] if shared else names
    config.terms.ce = term(
        "cross_entropy", on=views, student=students, weight=1.0, gradient_group="task"
    )
    if len(views) > 1:
        config.terms.ensemble = term(
            "a2aug", on=views, student=students, form=options.form,
            logit_scale=_scale(options.logit_scale), adaptive=options.ensemble == "adaptive",
            weight=1.0, gradient_group="distill",
        )


def _check(options: ConfigDict) -> None:
    rows = ROWS[options.dataset]
    check(options.network in rows, f"{options.dataset} has no row of {options.network}",
          "use " + ", ".join(rows))
    check(options.runs >= 1, f"option runs={options.runs}", "at least 1")
    check(options.draw >= 0, f"option draw={options.draw}", "at least 0")
    ensembles = ("form", "logit_scale", "ensemble", "bn", "networks")
    refuse_idle(options, options.only != "a2aug", ("n_views", "draw", *ensembles),
                f"with only={options.only}")
    refuse_idle(options, options.n_views == 1, ensembles, "with n_views=1")
    refuse_idle(options, options.networks == "independent", ("bn",), "with networks=independent")
    refuse_idle(options, options.form in ("joint_ce", "kl"), ("logit_scale",),
                f"with form={options.form}")


def _scale(text: str) -> Any:
    if text in SCALES:
        return text
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    check(0.0 < number < float("inf"), f"option logit_scale='{text}'",
          "must be a number above 0, or " + " or ".join(SCALES))
    return number
