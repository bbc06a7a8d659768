"""Shared by the experiments: options after the colon, data, recipes, the smoke form."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kdaug_jax.augment.policies import WEI2020
from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.sections import default, network, optimizer, term
from kdaug_jax.training.plan import teacher_config

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
SMOKE_EPOCHS = 2.0
SMOKE_BATCH = 16


class OneOf(NamedTuple):
    """The legal values of an option, its default first."""

    values: tuple[Any, ...]


def one_of(*values: Any) -> OneOf:
    """Returns the legal values of an option for `parse_arg`, its default first."""
    return OneOf(values)


def parse_arg(arg: str, **choices: Any) -> ConfigDict:
    """Reads the options `smoke,magnitude=3` after the colon of `--config=FILE:...`.

    Args:
      arg: the text; a name alone means True.
      **choices: default of each option, or `one_of(...)` its legal values; every experiment also
        has `smoke`.

    Returns:
      The options by name, and in `given` the names that the text contains.

    Raises:
      ConfigError: an unknown option, or a value that is not legal or not of its default's type.
    """
    choices = {"smoke": False, **choices}
    options = {
        name: choice.values[0] if isinstance(choice, OneOf) else choice
        for name, choice in choices.items()
    }
    given = []
    for word in filter(None, (part.strip() for part in arg.split(","))):
        name, equals, text = word.partition("=")
        if name not in options:
            raise ConfigError("--config", f"has no option '{name}'", suggest(name, options))
        options[name] = _value(name, text if equals else "True", choices[name])
        given.append(name)
    return ConfigDict({**options, "given": tuple(given)})


def _value(name: str, text: str, choice: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    default = choice.values[0] if isinstance(choice, OneOf) else choice
    if isinstance(default, str):
        value = text  # a name may look like a number
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise ConfigError("--config", f"option {name}={value!r}", f"must be a {kind}")
    if isinstance(choice, OneOf) and value not in choice.values:
        remedy = "must be one of " + ", ".join(map(str, choice.values))
        if isinstance(value, str):
            remedy = suggest(value, choice.values)
        raise ConfigError("--config", f"option {name}={value!r}", remedy)
    return value


def check(condition: bool, what: str, remedy: str) -> None:
    """Raises ConfigError unless a condition on the options holds."""
    if not condition:
        raise ConfigError("--config", what, remedy)


def refuse_idle(options: ConfigDict, when: bool, names: tuple[str, ...], because: str) -> None:
    """Raises ConfigError if options were given that change nothing.

    Args:
      options: of `parse_arg`.
      when: whether the options change nothing.
      names: names of the options.
      because: the reason, such as "with kd=False".
    """
    for name in names:
        check(not (when and name in options.given), f"option {name} changes nothing {because}",
              "drop one of them")


def check_runs(options: ConfigDict) -> None:
    """Raises ConfigError unless there is a run for each of a number of seeds, at least one."""
    check(options.runs >= 1, f"option runs={options.runs}", "at least 1")


def repeat(config: ConfigDict, runs: int) -> None:
    """Makes a config that of several runs, with seeds 0 to runs - 1, through one compiled step.

    Each is the run of its seed, the order of the examples included unless `data.seed` gives one to
    all; what a config has drawn with its seed is that of seed 0.
    """
    if runs > 1:
        config.population = (("seed", tuple(range(runs))),)


def teacher_alone(config: ConfigDict) -> ConfigDict:
    """Returns the config that trains the teacher of an experiment by itself, as its run would.

    Args:
      config: an experiment with a frozen network "teacher", which has a recipe.
    """
    return ConfigDict(teacher_config(configs.validate(config), "teacher")).lock()


def read_splits(
    config: ConfigDict, source: str, test: str, holdout: bool, classes: int = 1000
) -> None:
    """Sets data source and splits: all of the training split, as in the papers, or 98 % of it.

    Args:
      config: changed in place.
      source: a data source.
      test: split whose accuracy is reported.
      holdout: whether 2 % of each class are kept for validation, where choices may be made.
        Otherwise the test split is evaluated during training, as in the papers, and no checkpoint
        is chosen by it.
      classes: of the data that the experiment is of.
    """
    config.data.source, config.data.test, config.data.classes = source, test, classes
    if holdout:
        config.data.train = "stratified(train[:98%])"
        config.data.validation = "stratified(train[98%:])"
    else:
        config.data.train, config.data.validation = "train", test
        config.checkpoint.best = ""


def put_cross_entropy(config: ConfigDict, weight: float) -> None:
    """Puts the term of cross entropy on the labels of view x, in the gradient group of the task."""
    config.terms.ce = term("cross_entropy", on=("x",), weight=weight, gradient_group="task")


def put_distillation(
    config: ConfigDict, name: str, loss: str, weight: Any, on: tuple[str, ...] = ("x",),
    **fields: Any,
) -> None:
    """Puts a term that compares the student with the teacher.

    Args:
      config: changed in place.
      name: of the term.
      loss: in `kdaug_jax.losses.LOSSES`.
      weight: a number or a schedule.
      on: its views.
      **fields: of the term, and options of the loss.
    """
    config.terms[name] = term(
        loss, on=on, weight=weight, **{"teacher": "teacher", "gradient_group": "distill", **fields}
    )


# Epochs, batch size, learning rate and weight decay of AutoAugment's code and its successors, by
# the beginning of the network's name and the number of classes (0: any).
AUTOAUGMENT_RECIPES = {
    ("wrn_28_10", 0): (200.0, 128, 0.1, 5e-4),
    ("wrn_40_2", 0): (200.0, 128, 0.1, 2e-4),  # Fast AutoAugment; AutoAugment and PBA: 5e-4
    ("shake26_2x32d", 0): (1800.0, 128, 0.01, 1e-3),
    ("shake26_2x96d", 10): (1800.0, 128, 0.01, 1e-3),
    ("shake26_2x96d", 100): (1800.0, 128, 0.01, 2.5e-3),  # PBA
    ("shake26_2x112d", 0): (1800.0, 128, 0.01, 1e-3),  # Fast AutoAugment: 2e-3
    ("pyramidnet272", 10): (1800.0, 64, 0.05, 5e-5),
    ("pyramidnet272", 100): (1800.0, 64, 0.025, 5e-4),  # PBA
}


def autoaugment_recipe(name: str, classes: int, clean_epochs: float = 0.0) -> dict[str, Any]:
    """Returns the recipe of AutoAugment's CIFAR code for a network, by config path.

    SGD with Nesterov momentum 0.9, cosine to 0 step by step, gradients clipped to norm 5, weight
    decay on every parameter.

    Args:
      name: of the network.
      classes: of the data set.
      clean_epochs: epochs after the cosine.

    Returns:
      `{path: value}`.
    """
    epochs, batch_size, rate, decay = next(
        row for (start, row_classes), row in AUTOAUGMENT_RECIPES.items()
        if name.startswith(start) and row_classes in (0, classes)
    )
    schedule = dict(name="cosine", base=rate, unit="epoch", warmup=0.0, end=0.0)
    if clean_epochs:
        schedule["until"] = epochs
    return {
        "train.epochs": epochs + clean_epochs,
        "data.batch_size": batch_size,
        "optim": optimizer(
            "sgd", schedule, momentum=0.9, nesterov=True, weight_decay=decay, clip_norm=5.0
        ),
    }


def autoaugment_view(policy: str, side: int = 32, cutout: int = 16) -> str:
    """Returns the view of AutoAugment's CIFAR code: policy, crop, flip, Cutout.

    Args:
      policy: a stage, "" for none.
      side: of the images in pixels; padding and Cutout are in proportion.
      cutout: side of Cutout's square at 32 pixels, 0 for none.

    Returns:
      The view. Its crop has offsets 0..7 and pads with the mean, because the code crops
      normalised images.
    """
    stages = [policy, f'pad_crop({side // 8}, "mean", False)', "flip"]
    if cutout:
        stages.append(f"cutout({cutout * side // 32})")
    return "|".join(filter(None, stages))


EFFICIENTNET_SIDES = {"b0": 224, "b4": 380, "b7": 600, "b8": 672}
# What the blocks recompute in the backward pass to save memory; results are the same.
REMAT = {"b0": "none", "b4": "none", "b7": "blocks", "b8": "blocks"}
SMALL_EFFICIENTNETS = {
    f"efficientnet_{name}": (f"efficientnet_{name}", dict(width=0.25, depth=0.1)) for name in REMAT
}
SMOKE_SIDE, SMOKE_CLASSES = 32, 60  # more classes than the K = 50 of the large networks
EFFICIENTNET_OPTIONS = dict(
    kd=True, epochs=500.0, holdout=False, policy=one_of("randaugment", "autoaugment"),
    space=one_of("tpu_clean", "tpu"), ops=one_of("tpu", "wei2020"), replica_batch=0,
    teacher_policy=one_of("autoaugment", "same", "none"),
)
# Policies that an EfficientNet may be trained on, beside RandAugment.
IMAGENET_POLICIES = {"autoaugment": 'autoaugment("imagenet_v0")', "none": ""}
RECIPE_BATCH = 4096


def efficientnet(
    variant: str, options: ConfigDict, teacher: Mapping[str, Any], devices: int
) -> ConfigDict:
    """Returns the config of paper 000's training of an EfficientNet on ImageNet.

    Args:
      variant: "b0" to "b8".
      options: of `parse_arg`: `EFFICIENTNET_OPTIONS`, magnitude, k, weight and smoke.
      teacher: complete section of the teacher.
      devices: number of devices in the paper; with the batch of 4,096 they set the groups of
        BatchNorm by the cited code's rule, unless option replica_batch gives their size.
    """
    refuse_idle(options, not options.kd, ("k", "weight", "teacher_policy"), "with kd=False")
    draws = options.policy == "randaugment" or (options.kd and options.teacher_policy == "same")
    refuse_idle(options, not draws, ("magnitude", "space", "ops"), f"with policy={options.policy}")
    refuse_idle(options, options.magnitude == 0, ("space", "ops"), "with magnitude=0, no policy")
    _check_replicas(options)
    check(options.k >= 1, f"option k={options.k}", "at least 1")
    check(options.weight >= 0.0, f"option weight={options.weight}", "0 or more")
    check(options.magnitude >= 0, f"option magnitude={options.magnitude}", "0 or more")
    check(options.epochs > 0.0, f"option epochs={options.epochs}", "more than 0")
    side = efficientnet_side(variant, options)
    batch = SMOKE_BATCH if options.smoke else RECIPE_BATCH
    config = default()
    read_splits(config, "folder:data/imagenet", "validation", options.holdout)
    config.data.batch_size = RECIPE_BATCH
    config.views.x = imagenet_view(side, imagenet_policy(options.policy, options, side))
    config.eval.view = f"efficientnet_crop({side})"
    config.networks.student = imagenet_network(
        f"efficientnet_{variant}", trainable=True, options=dict(remat=REMAT[variant])
    )
    config.terms.ce = term("cross_entropy", on=("x",), label_smoothing=0.1, gradient_group="task")
    if options.kd:
        config.networks.teacher = teacher
        config.terms.kd = term(
            "topk_kl", on=("x",), teacher="teacher", k=options.k, weight=options.weight,
            gradient_group="distill",
        )
    config.optim = optimizer(
        "rmsprop",
        dict(name="exponential", base=0.016 * batch / 256, unit="epoch", warmup=5.0, every=2.4,
             factor=0.97, staircase=True),
        rho=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5, decay="not_batchnorm", ema=0.9999,
        ema_ramp=True,
    )
    config.train.epochs = options.epochs
    # BatchNorm of one replica up to 8 devices, else over groups of max(8, devices / 8).
    shards = max(8, devices // 8) if devices > 8 else 1
    recipe = RECIPE_BATCH // devices * shards
    config.train.replica_batch_size = options.replica_batch or recipe
    config.train.recipe_replica_batch_size = recipe
    config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
    if options.smoke:
        shrink_imagenet(config, SMALL_EFFICIENTNETS)
    return config


def _check_replicas(options: ConfigDict) -> None:
    size = options.replica_batch
    check(size >= 0, f"option replica_batch={size}", "0 for the recipe's, or more")
    check(not size or RECIPE_BATCH % size == 0, f"option replica_batch={size}",
          f"must divide the batch of {RECIPE_BATCH:,}")


def efficientnet_side(variant: str, options: ConfigDict) -> int:
    """Returns the side of the views in pixels."""
    return SMOKE_SIDE if options.smoke else EFFICIENTNET_SIDES[variant]


def efficientnet_teacher(variant: str, options: ConfigDict) -> dict[str, Any]:
    """Returns a teacher of the student's architecture, trained without distillation.

    Args:
      variant: see `efficientnet`.
      options: see `efficientnet`; `teacher_policy` is the augmentation of its training.

    Returns:
      A complete section.
    """
    side = efficientnet_side(variant, options)
    policy = imagenet_policy(options.teacher_policy, options, side)
    return imagenet_network(
        f"efficientnet_{variant}",
        options=dict(remat=REMAT[variant]),
        recipe=(
            ("views.x", imagenet_view(side, policy)),
            ("terms.ce.label_smoothing", 0.1),
        ),
    )


def imagenet_network(name: str, **fields: Any) -> dict[str, Any]:
    """Returns the section of a network that normalises with ImageNet's statistics."""
    return network(name, mean=IMAGENET_MEAN, std=IMAGENET_STD, **fields)


def imagenet_view(side: int, policy: str) -> str:
    """Returns the view of EfficientNet's code: crop, flip, policy."""
    return "|".join(filter(None, (f"inception_crop({side})", "flip", policy)))


def imagenet_policy(name: str, options: ConfigDict, side: int) -> str:
    """Returns the stage of a policy, "" for none.

    Args:
      name: in `IMAGENET_POLICIES`; any other is EfficientNet's RandAugment, its distances in
        proportion for small images. At magnitude 0 that is no policy: level 0 of the code's
        tables inverts and darkens images, while the paper has "no augmentation".
      options: see `efficientnet`.
      side: of the images in pixels.
    """
    if name in IMAGENET_POLICIES:
        return IMAGENET_POLICIES[name]
    if options.magnitude == 0:
        return ""
    chosen = f", ops={WEI2020}" if options.ops == "wei2020" else ""
    pixels = "" if side >= 224 else f", translate_const={side // 2}.0, cutout_const={side // 6}.0"
    return f'randaugment(2, {options.magnitude}, "{options.space}"{chosen}{pixels})'


def finish_cifar(
    config: ConfigDict, options: ConfigDict, networks: Mapping[str, Any], side: int
) -> ConfigDict:
    """Sets the intervals of long runs, makes the smoke form if wanted, and locks the config.

    Args:
      config: changed in place.
      options: of `parse_arg`.
      networks: see `shrink`.
      side: of the smoke form's images in pixels.

    Returns:
      The config.
    """
    config.eval.every_epochs = config.checkpoint.every_epochs = 10.0
    config.log.every_steps = 100
    if options.smoke:
        shrink(config, networks, f"synthetic:{side}x{side},10,64")
    return config.lock()


def shrink(config: ConfigDict, networks: Mapping[str, Any], source: str) -> None:
    """Turns a config into its smoke form: synthetic data, two short epochs, small networks.

    Times of schedules and phases shrink in proportion, in the recipes of teachers too.

    Args:
      config: changed in place.
      networks: `{architecture: smaller one of the family, or (smaller one, its options)}`.
      source: a synthetic data source with images like the experiment's.
    """
    factor = SMOKE_EPOCHS / config.train.epochs
    splits = {"train": "train", "validation": "validation", "test": "test"}
    config.data.update({"source": source, "batch_size": SMOKE_BATCH, "classes": 0, **splits})
    config.train.epochs = SMOKE_EPOCHS
    config.train.allow_weak_teacher = True
    if config.train.replica_batch_size:
        config.train.replica_batch_size = SMOKE_BATCH // 2
    if config.train.recipe_replica_batch_size:
        config.train.recipe_replica_batch_size = SMOKE_BATCH // 2
    config.log.every_steps = 2
    config.eval.every_epochs = config.checkpoint.every_epochs = 1.0
    config.optim.schedule = _sooner(config.optim.schedule, factor)
    for section in config.terms.values():
        section.weight = _sooner(section.weight, factor)
    config.phases = tuple(
        (epoch * factor, {path: _sooner(value, factor) for path, value in changes.items()})
        for epoch, changes in config.phases
    )
    for name, section in config.networks.items():
        config.networks[name] = _small(section.to_dict(), networks, factor)


def shrink_imagenet(config: ConfigDict, networks: Mapping[str, Any]) -> None:
    """Turns a config of ImageNet into its smoke form, see `shrink`."""
    shrink(config, networks, f"synthetic:40x40,{SMOKE_CLASSES},64")
    config.data.test = "validation"  # so that ImageNet's own folders may replace the source


def _small(section: dict[str, Any], networks: Mapping[str, Any], factor: float) -> dict[str, Any]:
    small = networks.get(section["name"], section["name"])
    name, options = (small, {}) if isinstance(small, str) else small
    recipe = dict(section["recipe"])
    if "train.epochs" in recipe:
        factor = SMOKE_EPOCHS / recipe["train.epochs"]
    return {
        **section, "name": name, "options": {**section["options"], **options},
        "recipe": tuple(
            (path, _small_value(path, value, networks, factor)) for path, value in recipe.items()
        ),
    }


def _small_value(path: str, value: Any, networks: Mapping[str, Any], factor: float) -> Any:
    if path == "networks":
        return {name: _small(section, networks, factor) for name, section in value.items()}
    if path == "optim":
        return {**value, "schedule": _sooner(value["schedule"], factor)}
    fixed = {"train.epochs": SMOKE_EPOCHS, "data.batch_size": SMOKE_BATCH}
    return fixed.get(path, _sooner(value, factor))


def _sooner(schedule: Any, factor: float) -> Any:
    """Returns a schedule with its times multiplied; any other value as it is."""
    if not isinstance(schedule, Mapping | ConfigDict) or "base" not in schedule:
        return schedule
    times = {
        name: schedule[name] * factor for name in ("warmup", "every", "until") if name in schedule
    }
    if "at" in schedule:
        times["at"] = tuple(time * factor for time in schedule["at"])
    return {**dict(schedule), **times}
