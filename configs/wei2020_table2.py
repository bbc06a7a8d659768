"""AutoAugment's policies with and without distillation on CIFAR-10 and CIFAR-100.

Wei et al. 2020, "Circumventing Outliers of AutoAugment with Knowledge Distillation" (paper 000),
Table 2: errors in %, one run each, no spread.

| data | network | NA | AA | FAA | PBA | RA | ours |
|---|---|---|---|---|---|---|---|
| CIFAR-10 | wrn_28_10 | 3.9 | 2.6 | 2.7 | 2.6 | 2.7 | 2.4 |
| | shake26_2x32d | 3.6 | 2.5 | 2.5 | 2.5 | - | 2.3 |
| | shake26_2x96d | 2.9 | 2.0 | 2.0 | 2.0 | 2.0 | 1.8 |
| | shake26_2x112d | 2.8 | 1.9 | 1.9 | 2.0 | - | 1.9 |
| | pyramidnet272 | 2.7 | 1.5 | 1.7 | 1.5 | 1.5 | 1.5 |
| CIFAR-100 | wrn_28_10 | 18.8 | 17.1 | 17.3 | 16.7 | 16.7 | 16.2 |
| | shake26_2x96d | 17.1 | 14.3 | 14.6 | 15.3 | - | 13.8 |
| | pyramidnet272 | 14.0 | 10.7 | 11.7 | 10.9 | - | 10.6 |

    python main.py --config=configs/wei2020_table2.py:dataset=cifar100,network=wrn_28_10 \
      --workdir=runs/table2_wrn --config.data.source=cifar100:/data

Columns: ours is the default; NA `policy=none,kd=False` (crop and flip, AutoAugment's baseline); AA
`kd=False`; FAA `policy=file,file=F,kd=False` with Fast AutoAugment's published policies; PBA
`policy=schedule,file=F,kd=False` with PBA's published schedule; RA `policy=randaugment,kd=False`.
All but ours are quoted in the paper. The files are not part of this repository: the rows
look for FAA_FILE and PBA_FILE below, as they were published: of the first, whose functions are
not executed, `subset` names the one that returns the policies (fa_reduced_cifar10). Schedules are
stretched to the run. PBA found its schedule on CIFAR-10 and used it for CIFAR-100.

| Section 3.4, WRN-28-10 on CIFAR-100 | options | error |
|---|---|---|
| 50 more epochs on clean images | `clean=ce,kd=False` | 16.8 |
| distillation in the clean epochs alone | `clean=kd` | 16.2 |

The rate of the clean epochs is not given; here it is constant, 0.001 of the first.

Options: `dataset`, `network`, `policy`, `file`, `kd`, `clean`; `n` and `magnitude` of RandAugment,
of 30, 0 for no policy, by default what RandAugment found for the network: N 3, M 5 (wrn_28_10), 9
(shake26_2x96d), 10 (pyramidnet272) on CIFAR-10, 2 and 14 (wrn_28_10) on CIFAR-100, for other rows
they must be given; `subpolicies`, `cifar10` (25, the paper's) or `cifar10_released` (95, the
code's); `variant=aa`, the networks of AutoAugment's code instead (not said which the authors had);
`holdout`, to keep 2 % of the training split for choices; `smoke`. The network `wrn_40_2` is not in
the table: it is for the rows of paper 002 that a2aug_cifar.py quotes.

In the paper: K = 3 on CIFAR-10, 5 on CIFAR-100, λ = 1; the teacher is a WRN-28-10 trained with
AutoAugment (2.6 and 17.1 %), but for PyramidNet on CIFAR-100, which teaches itself. It is trained
first, into <workdir>/teacher, unless --config.networks.teacher.checkpoint names its directory. The
recipe is that of AutoAugment's code, by network: see AUTOAUGMENT_RECIPES in common.py.

Cost in multiply-adds with a WRN-28-10 teacher: WRN-28-10 2.1e17, Shake-Shake 2x96d 1.5e18,
PyramidNet 1.7e18 a run. It has not been run here.
"""

from __future__ import annotations

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
from kdaug_jax.experiment.rows import Row
from kdaug_jax.experiment.sections import ConfigDict, default, network, term

NETWORKS = {
    "wrn_28_10": "wrn_28_10",
    "wrn_40_2": "wrn_40_2",
    "shake26_2x32d": "shake26_2x32d",
    "shake26_2x96d": "shake26_2x96d",
    "shake26_2x112d": "shake26_2x112d",
    "pyramidnet272": "pyramidnet272_a200_shakedrop",
}
OF_DATASET = {
    "cifar10": tuple(NETWORKS),
    "cifar100": ("wrn_28_10", "wrn_40_2", "shake26_2x96d", "pyramidnet272"),
}
CLASSES = {"cifar10": 10, "cifar100": 100}
TOP_K = {"cifar10": 3, "cifar100": 5}
SMALL = {
    "wrn_28_10": "wrn_10_1",
    "wrn_28_10_aa": "wrn_10_1_aa",
    "wrn_40_2": "wrn_10_1",
    "wrn_40_2_aa": "wrn_10_1_aa",
    "pyramidnet272_a200_shakedrop": "pyramidnet11_a6_shakedrop",
    **{f"shake26_2x{width}d{kind}": f"shake26_2x4d{kind}"
       for width in (32, 96, 112) for kind in ("", "_aa")},
}
CLEAN_EPOCHS = 50.0
# N and M of RandAugment's authors (Cubuk et al. 2020, appendix), M of 30.
RANDAUGMENT = {
    ("cifar10", "wrn_28_10"): (3, 5),
    ("cifar10", "shake26_2x96d"): (3, 9),
    ("cifar10", "pyramidnet272"): (3, 10),
    ("cifar100", "wrn_28_10"): (2, 14),
}
UNSET = -1

FAA_TABLE = "fa_reduced_cifar10"
FAA_FILE, PBA_FILE = "data/policies/archive.py", "data/policies/rcifar10_16_wrn.txt"
COLUMNS = {
    "na": "policy=none,kd=False",
    "aa": "kd=False",
    "faa": f"policy=file,file={FAA_FILE},kd=False",
    "pba": f"policy=schedule,file={PBA_FILE},kd=False",
    "ra": "policy=randaugment,kd=False",
    "ours": "",
}
ERRORS = {
    ("cifar10", "wrn_28_10"): (3.9, 2.6, 2.7, 2.6, 2.7, 2.4),
    ("cifar10", "shake26_2x32d"): (3.6, 2.5, 2.5, 2.5, None, 2.3),
    ("cifar10", "shake26_2x96d"): (2.9, 2.0, 2.0, 2.0, 2.0, 1.8),
    ("cifar10", "shake26_2x112d"): (2.8, 1.9, 1.9, 2.0, None, 1.9),
    ("cifar10", "pyramidnet272"): (2.7, 1.5, 1.7, 1.5, 1.5, 1.5),
    ("cifar100", "wrn_28_10"): (18.8, 17.1, 17.3, 16.7, 16.7, 16.2),
    ("cifar100", "shake26_2x96d"): (17.1, 14.3, 14.6, 15.3, None, 13.8),
    ("cifar100", "pyramidnet272"): (14.0, 10.7, 11.7, 10.9, None, 10.6),
}
PAPER = "000"
ROWS = (
    *(Row("Table 2", f"table2-{dataset}-{name}-{column}",
          ",".join(filter(None, (f"dataset={dataset},network={name}", options))),
          {"error": error}, note="" if column == "ours" else "quoted by the paper")
      for (dataset, name), errors in ERRORS.items()
      for (column, options), error in zip(COLUMNS.items(), errors, strict=True)
      if error is not None),
    Row("Section 3.4", "section3.4-clean-ce", "clean=ce,kd=False", {"error": 16.8}),
    Row("Section 3.4", "section3.4-clean-kd", "clean=kd", {"error": 16.2}),
)
CELLS: dict = {}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config of this experiment."""
    options = parse_arg(
        arg, dataset=one_of("cifar100", "cifar10"), network=one_of(*NETWORKS),
        policy=one_of("autoaugment", "none", "randaugment", "file", "schedule"), file="",
        subset="", n=UNSET, magnitude=UNSET, kd=True, clean=one_of("no", "ce", "kd"),
        subpolicies=one_of("cifar10", "cifar10_released"), variant=one_of("plain", "aa"),
        holdout=False,
    )
    _check(options)
    if options.policy == "randaugment":
        _choose_strength(options)
    side = 16 if options.smoke else 32
    cutout = 0 if options.policy == "none" else 16
    student, teacher = _networks(options)
    classes = CLASSES[options.dataset]
    extra = 0.0 if options.clean == "no" else CLEAN_EPOCHS
    recipe = autoaugment_recipe(student, classes, extra)
    config = default()
    with config.unlocked():
        read_splits(config, f"{options.dataset}:data", "test", options.holdout, classes)
        config.update_from_flattened_dict(recipe)
        config.views.x = autoaugment_view(_policy(options), side, cutout)
        config.networks.student = network(student, trainable=True)
        config.terms.ce = term("cross_entropy", on=("x",), weight=1.0, gradient_group="task")
        if options.kd:
            config.networks.teacher = network(teacher, recipe=(
                ("views.x", autoaugment_view(f'autoaugment("{options.subpolicies}")', side)),
                *autoaugment_recipe(teacher, classes).items(),
            ))
            config.terms.kd = term(
                "topk_kl", on=("x",), teacher="teacher", k=TOP_K[options.dataset],
                weight=0.0 if options.clean == "kd" else 1.0, gradient_group="distill",
            )
        if extra:
            config.phases = (_clean_phase(options, recipe, side),)
        return finish_cifar(config, options, SMALL, side)


def _check(options: ConfigDict) -> None:
    rows = OF_DATASET[options.dataset]
    check(options.network in rows, f"{options.dataset} has no row of {options.network}",
          "use " + ", ".join(rows))
    from_file = options.policy in ("file", "schedule")
    check(bool(options.file) == from_file, f"option file={options.file!r}",
          "policy=file and policy=schedule need one, the others none")
    check(not options.subset or options.file.endswith(".py"), f"option subset={options.subset}",
          "is of a file of Python, such as Fast AutoAugment's archive.py")
    check(options.clean != "kd" or options.kd, "option clean=kd distils", "drop kd=False")
    check(options.clean != "ce" or not options.kd, "option clean=ce does not distil",
          "add kd=False")
    refuse_idle(options, options.policy != "randaugment", ("n", "magnitude"),
                f"with policy={options.policy}")
    refuse_idle(options, options.policy != "autoaugment" and not options.kd, ("subpolicies",),
                f"with policy={options.policy} and kd=False")
    aa = options.variant == "aa"
    check(not aa or "pyramid" not in options.network, "option variant=aa",
          "there is one PyramidNet")


def _choose_strength(options: ConfigDict) -> None:
    """Puts RandAugment's published N and M where they are not given."""
    known = RANDAUGMENT.get((options.dataset, options.network))
    for name, value in zip(("n", "magnitude"), known or (UNSET, UNSET), strict=True):
        if name not in options.given:
            check(known is not None, f"RandAugment's {name} for {options.network} on "
                  f"{options.dataset} is not published", f"give {name}=...")
            options[name] = value
        check(options[name] >= 0, f"option {name}={options[name]}", "0 or more")


def _networks(options: ConfigDict) -> tuple[str, str]:
    """Returns the architectures of student and teacher."""
    suffix = "_aa" if options.variant == "aa" else ""
    student, teacher = NETWORKS[options.network] + suffix, NETWORKS["wrn_28_10"] + suffix
    teaches_itself = options.network == "pyramidnet272" and options.dataset == "cifar100"
    return student, student if teaches_itself else teacher


def _policy(options: ConfigDict) -> str:
    levels = ', levels="released_scaled"' if options.smoke else ""
    python = options.file.endswith(".py")
    table = f', table="{options.subset or FAA_TABLE}"' if python else ""
    drawn = f"randaugment({options.n}, {options.magnitude})" if options.magnitude else ""
    return {
        "autoaugment": f'autoaugment("{options.subpolicies}")',
        "none": "",
        "randaugment": drawn,
        "file": f'autoaugment("{options.file}"{table})',
        "schedule": f'schedule("{options.file}"{levels})',
    }[options.policy]


def _clean_phase(options: ConfigDict, recipe: dict, side: int) -> tuple[float, dict]:
    """Returns the phase on clean images, crop and flip, which follows the cosine."""
    schedule = recipe["optim"]["schedule"]
    changes = {
        "views.x": autoaugment_view("", side, 0),
        "optim.schedule": dict(name="constant", base=1e-3 * schedule["base"]),
    }
    if options.clean == "kd":
        changes["terms.kd.weight"] = 1.0
    return schedule["until"], changes
