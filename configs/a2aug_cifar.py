"""Several augmented views, each with its own BatchNorm, taught by their ensemble (paper 002).

Li et al. 2021, "A2-Aug: Adaptive Automated Data Augmentation", Table 2: accuracies in %, mean and
deviation of 3 runs.

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

A2-Aug is the default, with 4 views; `only=baseline` (crop and flip), `cutout`, `aa`, `pba`, `faa`
and `ra` are the other columns, which the paper quotes: one view each, AutoAugment's published
policies, the files FAA_FILE and PBA_FILE of wei2020_table2.py, which are not part of this
repository, and RandAugment's published N and M. DADA is not here. Two of Table 2's cells are also
in Table 1, whose third is ImageNet's:

| Table 1 | options | Baseline | AA | Fast AA | PBA | RA | A2-Aug |
|---|---|---|---|---|---|---|---|
| CIFAR-10 | `dataset=cifar10,network=pyramidnet272` | 97.3 | 98.5 | 98.3 | 98.3 | 98.5 | 98.9 |
| CIFAR-100 | `network=wrn_28_10` | 81.2 | 82.9 | 82.7 | 83.3 | 83.3 | 85.2 |

Figure 4, wrn_40_2 with 1 to 6 views and 10 seeds, each of which draws views of its own, is the
experiment `figure-4` of several runs; the paper prints bars. The ablations are ImageNet's in the
paper, see a2aug_imagenet.py, and choices here too: Table 5 `networks=independent` and `bn=shared`,
Table 7 `ensemble=average`, Table 8 `form=joint_ce`, `l2_norm`, `kl`, `kl_norm`. The run reports
every branch, the ensemble and its weights (Table 6); the branch is chosen on 2 % of the training
split that are kept for it, as the paper keeps some.

Other options: `dataset`; `logit_scale`, the length of normalised logits, `sqrt_classes`,
`mean_norm` or a number: 1.0 as printed makes the KL vanish; `draw`, seed of the views' strengths,
`seed` (--config.seed) or a number; `runs`, seeds through one compiled step, each with the views and
the order of the examples of its seed; `smoke`.

In the paper: 4 views on CIFAR, N augmentations sampled from RandAugment's space, "the settings of
AA and RA". Our readings: view i keeps its (n, m), drawn once from n of 1, 2, 3 and m of 3, 6, ...
30; each has its own crop and flip; the three parts of the loss weigh the same and are summed over
views; mu starts at 0 and does not decay. Recipe by network: AUTOAUGMENT_RECIPES in common.py; decay
of wrn_40_2 is 2e-4 (Fast AutoAugment) there, 5e-4 in AutoAugment.

Cost: 4 x 3 x 0.33 billion multiply-adds an image for wrn_40_2, 3.9e16 a run; the paper gives 1.8
times the time of one view with 3 views (ImageNet). It has not been run here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import FieldReference

from configs.common import (
    autoaugment_recipe,
    autoaugment_view,
    check,
    check_runs,
    finish_cifar,
    one_of,
    parse_arg,
    read_splits,
    refuse_idle,
    repeat,
)
from configs.wei2020_table2 import FAA_FILE, FAA_TABLE, PBA_FILE, RANDAUGMENT
from kdaug_jax.augment.policies import randaugment_candidates
from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, term
from kdaug_jax.losses.ensemble import FORMS, SCALES

NETWORKS = {
    "wrn_40_2": "wrn_40_2",
    "wrn_28_10": "wrn_28_10",
    "shake26_2x32d": "shake26_2x32d",
    "shake26_2x96d": "shake26_2x96d",
    "pyramidnet272": "pyramidnet272_a200_shakedrop",
}
OF_DATASET = {"cifar10": tuple(NETWORKS), "cifar100": ("wrn_40_2", "wrn_28_10", "shake26_2x96d")}
CLASSES = {"cifar10": 10, "cifar100": 100}
SMALL = {
    "wrn_40_2": "wrn_10_1",
    "wrn_28_10": "wrn_10_1",
    "shake26_2x32d": "shake26_2x4d",
    "shake26_2x96d": "shake26_2x4d",
    "pyramidnet272_a200_shakedrop": "pyramidnet11_a6_shakedrop",
}
# Of the columns with one published policy; files that users have to bring.
POLICIES, FILES = ("aa", "pba", "faa", "ra"), {"pba": PBA_FILE, "faa": FAA_FILE}
COLUMNS = ("baseline", "cutout", "aa", "pba", "faa", "ra", "dada", "a2aug")
TABLE_2 = {
    ("cifar10", "wrn_40_2"): (94.4, 95.9, 96.3, None, 96.4, None, 96.4, (96.7, 0.2)),
    ("cifar10", "wrn_28_10"): (96.1, 96.9, 97.4, 97.4, 97.3, 97.3, 97.3, (98.0, 0.3)),
    ("cifar10", "shake26_2x32d"): (96.4, 97.0, 97.5, 97.5, 97.5, None, 97.3, (97.7, 0.1)),
    ("cifar10", "shake26_2x96d"): (97.1, 97.4, 98.0, 98.0, 98.0, 98.0, 98.0, (98.5, 0.1)),
    ("cifar10", "pyramidnet272"): (97.3, None, 98.5, 98.3, 98.3, 98.5, 98.3, (98.9, 0.2)),
    ("cifar100", "wrn_40_2"): (74.0, 74.8, 79.3, None, 79.4, None, 79.1, (81.3, 0.3)),
    ("cifar100", "wrn_28_10"): (81.2, 81.6, 82.9, 83.3, 82.7, 83.3, 82.5, (85.2, 0.4)),
    ("cifar100", "shake26_2x96d"): (82.9, 84.0, 85.7, 84.7, 85.4, None, 84.7, (86.8, 0.3)),
}
TABLE_1 = {
    ("cifar10", "pyramidnet272"): (97.3, None, 98.5, 98.3, 98.3, 98.5, None, 98.9),
    ("cifar100", "wrn_28_10"): (81.2, None, 82.9, 83.3, 82.7, 83.3, None, 85.2),
}


def _row(table: str, dataset: str, name: str, column: str, figure: Any) -> Row:
    mean, deviation = figure if isinstance(figure, tuple) else (figure, None)
    runs = f"dataset={dataset},network={name}"
    note = f"quoted by the paper; it needs {FILES[column]}" if column in FILES else (
        "quoted by the paper" if column in POLICIES else "")
    return Row(
        table, f"{table.lower().replace(' ', '')}-{dataset}-{name}-{column}",
        {"a2aug": runs, "dada": None}.get(column, f"{runs},only={column}"),
        {"accuracy": mean}, {} if deviation is None else {"accuracy": deviation},
        {"a2aug": "3 runs", "dada": "quoted; DADA is not here"}.get(column, note),
    )


PAPER = "002"
ROWS = tuple(
    _row(table, dataset, name, column, figure)
    for table, results in (("Table 1", TABLE_1), ("Table 2", TABLE_2))
    for (dataset, name), figures in results.items()
    for column, figure in zip(COLUMNS, figures, strict=True) if figure is not None
)
SEEDS, COUNTS = range(10), range(1, 7)
CELLS = {
    "figure-4": tuple(
        Cell(f"views{count}-seed{seed}", f"network=wrn_40_2,n_views={count}", {"seed": seed})
        for count in COUNTS for seed in SEEDS
    ),
}
FIGURES = {"Figure 4": "figure-4"}


class _Computed(NamedTuple):
    """A function of a reference, in the form that `FieldReference` takes."""

    fn: Callable[[str], str]
    args: tuple = ()


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of("cifar100", "cifar10"), network=one_of(*NETWORKS),
        n_views=one_of(4, 1, 2, 3, 5, 6), form=one_of("kl_norm", *FORMS),
        logit_scale="sqrt_classes", ensemble=one_of("adaptive", "average"),
        bn=one_of("split", "shared"),
        networks=one_of("joint", "independent"),
        only=one_of("a2aug", "baseline", "cutout", *POLICIES), draw="seed", runs=1,
    )
    _check(options)
    side = 16 if options.smoke else 32
    config = default()
    with config.unlocked():
        classes = CLASSES[options.dataset]
        read_splits(config, f"{options.dataset}:data", "test", True, classes)
        config.update_from_flattened_dict(autoaugment_recipe(NETWORKS[options.network], classes))
        _put_views(config, options, side)
        put_networks(
            config, options, lambda: network(NETWORKS[options.network], trainable=True)
        )
        repeat(config, options.runs)
        draw_each(config, options)
        return finish_cifar(config, options, SMALL, side)


def _put_views(config: ConfigDict, options: ConfigDict, side: int) -> None:
    if options.only != "a2aug":
        cutout = 0 if options.only == "baseline" else 16
        config.views.a0 = autoaugment_view(_published(options), side, cutout)
        return
    for number in range(options.n_views):
        config.views[f"a{number}"] = dict(
            ops=drawn(config, options.draw, number, lambda text: autoaugment_view(text, side)),
            branch=branch_of(number, options),
        )


def _published(options: ConfigDict) -> str:
    """Returns the stage of a column of one policy, "" where it has none."""
    if options.only == "ra":
        known = RANDAUGMENT.get((options.dataset, options.network))
        check(known is not None, f"RandAugment's N and M for {options.network} on "
              f"{options.dataset} are not published", "drop only=ra")
        return f"randaugment({known[0]}, {known[1]})"
    levels = ', levels="released_scaled"' if options.smoke else ""
    return {
        "aa": 'autoaugment("cifar10")',
        "faa": f'autoaugment("{FAA_FILE}", table="{FAA_TABLE}")',
        "pba": f'schedule("{PBA_FILE}"{levels})',
    }.get(options.only, "")


def branch_of(number: int, options: ConfigDict) -> int:
    """Returns the BatchNorm branch of a view: its own, unless BatchNorm or no network is shared."""
    return number if options.bn == "split" and options.networks == "joint" else 0


def drawn(config: ConfigDict, draw: str, number: int, view: Callable[[str], str]) -> Any:
    """Returns a view whose RandAugment has the (n, m) that a seed draws.

    Args:
      config: of the run; its "seed" may be set later, on the command line.
      draw: "seed" for that seed, or a number.
      number: of the view, from 0.
      view: makes the view of the stage.

    Returns:
      The text, or a reference to it that follows `config.seed`.
    """

    def text(seed: str) -> str:
        n, m = randaugment_candidates(int(seed), number + 1)[number]
        return view(f"randaugment({n}, {m})")

    if draw != "seed":
        return text(draw)
    return FieldReference(config.get_ref("seed").to_str(), field_type=str, op=_Computed(text))


def draw_each(config: ConfigDict, options: ConfigDict) -> None:
    """Gives each of several runs the (n, m) of its views that its seed draws, unless all share one.

    Args:
      config: whose population is of seeds; changed in place.
      options: only, draw and n_views of `parse_arg`.
    """
    if not config.population or options.only != "a2aug" or options.draw != "seed":
        return
    ((_, seeds),) = config.population
    views = range(options.n_views)
    paths = (f"views.a{number}.randaugment.{name}" for number in views for name in ("n", "m"))
    rows = (
        (seed, *itertools.chain(*randaugment_candidates(seed, len(views)))) for seed in seeds
    )
    config.population = ((("seed", *paths), tuple(rows)),)


def check_draw(draw: str) -> None:
    """Raises ConfigError unless option draw is "seed" or a seed."""
    check(draw == "seed" or draw.isascii() and draw.isdigit() and int(draw) < 2**32,
          f"option draw={draw!r}", "must be seed or a number of at least 0")


def put_networks(
    config: ConfigDict, options: ConfigDict, make: Callable[[], dict[str, Any]]
) -> None:
    """Adds one network for all views, or a network for each view, and the terms.

    Args:
      config: with its views; changed in place.
      options: networks, form, logit_scale and ensemble of `parse_arg`.
      make: the section of a network.
    """
    views = tuple(f"a{number}" for number in range(len(config.views)))
    shared = options.networks == "joint" or len(views) == 1
    names = ("student",) if shared else tuple(f"n{number}" for number in range(len(views)))
    for name in names:
        config.networks[name] = make()
    students = names[0] if shared else names
    config.terms.ce = term(
        "cross_entropy", on=views, student=students, weight=1.0, gradient_group="task"
    )
    if len(views) > 1:
        config.terms.ensemble = term(
            "a2aug", on=views, student=students, form=options.form,
            logit_scale=read_scale(options.logit_scale), adaptive=options.ensemble == "adaptive",
            weight=1.0, gradient_group="distill",
        )


def _check(options: ConfigDict) -> None:
    rows = OF_DATASET[options.dataset]
    check(options.network in rows, f"{options.dataset} has no row of {options.network}",
          "use " + ", ".join(rows))
    check_ensemble(options)


def check_ensemble(options: ConfigDict) -> None:
    """Raises ConfigError unless the options of an experiment with A2-Aug fit each other."""
    check_runs(options)
    check_draw(options.draw)
    ensembles = ("form", "logit_scale", "ensemble", "bn", "networks")
    refuse_idle(options, options.only != "a2aug", ("n_views", "draw", *ensembles),
                f"with only={options.only}")
    refuse_idle(options, options.n_views == 1, ensembles, "with n_views=1")
    refuse_idle(options, options.networks == "independent", ("bn",), "with networks=independent")
    refuse_idle(options, options.form in ("joint_ce", "kl"), ("logit_scale",),
                f"with form={options.form}")


def read_scale(text: str) -> Any:
    """Returns the length of normalised logits that option logit_scale gives."""
    if text in SCALES:
        return text
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    check(0.0 < number < float("inf"), f"option logit_scale='{text}'",
          "must be a number above 0, or " + " or ".join(SCALES))
    return number
