"""Every field of a config: its default, its legal values and its meaning, in one table.

Defaults (`experiment.sections`), checks (`experiment.config`) and docs/config.md
(`experiment.reference`) are made from it. `*` in a path stands for a name that the user chooses.
The options of a loss, an optimiser, a schedule or a stage are not here: they are the arguments of
its function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.types import Range

SEED = Range(np.uint32, 0, 2**32 - 1)
COUNT = Range(np.int64, 0)
POSITIVE_COUNT = Range(np.int64, 1)
# No interval of time or data is longer, in whatever it is counted.
LONGEST = 1e9
INTERVAL = Range(np.float64, 0.0, LONGEST)
# Marks a field that must be given.
REQUIRED = type("Required", (), {"__repr__": lambda self: "required"})()


class Field(NamedTuple):
    """One field of a config.

    Attributes:
      default: its value where the config gives none, or `REQUIRED`.
      meaning: one sentence.
      legal: range of a number, or the values that a text may have; None for any.
      off: a value outside the range that switches the field off.
      type: the type in words, where it is not that of the default; such a field is checked by
        whoever reads it.
    """

    default: Any
    meaning: str
    legal: Range | tuple[str, ...] | None = None
    off: Any = None
    type: str = ""


FIELDS: dict[str, Field] = {
    "mode": Field(
        "train", "What main.py does with the experiment.",
        ("train", "search", "evaluate", "preview", "export", "compile"),
    ),
    "seed": Field(0, "Seed of initial weights, augmentation and dropout.", SEED),
    "teachers": Field(
        "", "Directory in which several runs share the frozen networks that they train first: one "
        "of equal recipe, data, class names, seeds, precision and ops is trained once; empty: each "
        "run trains its teachers below its own working directory. A run that could be such a "
        "teacher is trained there itself; its working directory is a link."
    ),
    "data.source": Field(
        "digits", "Data set: `NAME`, `NAME:ARGUMENT` or `package.module:function:ARGUMENT`."
    ),
    "data.seed": Field(
        -1, "Seed of the order of examples; -1: that of `seed`, so that the members of a sweep of "
        "`seed` have orders of their own; a number: all members have that order and share what is "
        "read.", Range(np.int64, -1, 2**32 - 1),
    ),
    "data.batch_size": Field(
        64, "Examples of a step over all devices; at most the training split.", POSITIVE_COUNT
    ),
    "data.workers": Field(
        -1, "Processes that read and decode; 0: threads of this process; -1: threads up to 4 "
        "cores, above that a process for each core but one. A resumed run may change it.",
        Range(np.int64, -1),
    ),
    "data.device_gb": Field(
        2.0, "Data sets of at most so many gigabytes are kept on the devices. A resumed run may "
        "change it.", INTERVAL,
    ),
    "data.stage_gb": Field(
        1.0, "Gigabytes of batches that a process stages on its devices at most, where "
        "`train.steps_per_call` is chosen; at least one batch a call. A resumed run may change it.",
        INTERVAL,
    ),
    "data.crop": Field(
        "auto", "Where the leading crops of views run: `host`, while images are decoded, or "
        "`device`; `auto`: on the host where images have several sizes, which the device cannot "
        "take. It changes no pixel. A resumed run may change it.", ("auto", "host", "device"),
    ),
    "data.exif": Field(
        "ignore", "Whether the orientation that EXIF notes is applied; the loaders of the papers "
        "ignore it.", ("ignore", "apply"),
    ),
    "data.alpha": Field(
        "refuse", "What is done with transparent images: refused, or laid on `white` or `black`.",
        ("refuse", "white", "black"),
    ),
    "data.bad_images": Field(
        "refuse", "What is done with images that cannot be decoded; `skip` takes the next good one "
        "in their place, for which all images are decoded once when the data set is indexed.",
        ("refuse", "skip"),
    ),
    "data.image": Field("", "Column of the images in a table; empty: the only one."),
    "data.label": Field("", "Column of the labels in a table; empty: the only one."),
    "data.classes": Field(
        0, "Classes that the data set must have, for which a recipe is meant; 0: any. A resumed "
        "run may change it.", COUNT,
    ),
    "data.train": Field(
        "train", "Split that is trained on, such as `stratified(train[:98%])` or `holdout(2%)`."
    ),
    "data.validation": Field("validation", "Split that choices are made on."),
    "data.test": Field(
        "test", "Split whose accuracy is reported at the end; empty: none, the validation split is "
        "reported."
    ),
    "views.*.ops": Field(
        REQUIRED, "Stages of the view, such as `pad_crop(4)|flip`; a text alone may stand for the "
        "section.", type="str",
    ),
    "views.*.branch": Field(
        0, "BatchNorm branch of the trained networks for this view; branch 0 is evaluated.", COUNT
    ),
    "views.*.place": Field(
        "auto", "Where stages run that change one image by itself, before the first that mixes, "
        "repeats or picks: on the `device`, or ahead of the step on the CPUs of the `host`, which "
        "then sends their result; `auto`: on the host where a TPU is slow at an op and images are "
        "streamed. It changes no pixel. A resumed run may change it.", ("auto", "host", "device"),
    ),
    "networks.*.name": Field(
        REQUIRED, "Architecture, see `kdaug_jax.models.names()`; may be empty for a frozen "
        "network, whose checkpoint holds it.", type="str",
    ),
    "networks.*.trainable": Field(
        False, "Whether it is trained; a frozen one runs in inference mode."
    ),
    "networks.*.checkpoint": Field(
        "", "What a frozen network is loaded from, see `kdaug_jax.experiment.frozen.stored`: a "
        "working or teacher directory, a serialised function, a table of logits, or several, whose "
        "probabilities are averaged; empty: it is trained first, with `recipe`. Of a run, `DIR` is "
        "its last checkpoint, `DIR@best` the kept best, `DIR@STEP` that step, `DIR@MEMBER` that "
        "member of a sweep and `DIR@branch=N` that BatchNorm branch.",
        type="str or tuple of str",
    ),
    "networks.*.class_order": Field(
        "as_given", "Whether the classes of a frozen network must stand in the data's order, or "
        "its logits are reordered by the names of its classes.", ("as_given", "by_name"),
    ),
    "networks.*.outputs": Field(
        "logits", "What a frozen network returns; of `probabilities` the logarithm is taken.",
        ("logits", "probabilities"),
    ),
    "networks.*.sha256": Field(
        "", "SHA-256 that the file must have which `checkpoint` names, in hexadecimal digits; "
        "empty: not compared."
    ),
    "networks.*.source": Field(
        "", "Name of the network in the run that `checkpoint` names; empty: `student` or the only "
        "one."
    ),
    "networks.*.init": Field(
        "", "Frozen network of this experiment whose weights a trained network starts from."
    ),
    "networks.*.mean": Field(
        (), "Mean of each channel that inputs are normalised with, in pixel units; empty: the "
        "training split's.", Range(np.float32, 0.0, 255.0),
    ),
    "networks.*.std": Field(
        (), "Standard deviation of each channel, in pixel units; empty: the training split's.",
        Range(np.float32, 0.0, open=True),
    ),
    "networks.*.options": Field({}, "Options of the architecture, such as `dict(dropout=0.3)`."),
    "networks.*.recipe": Field(
        (), "Changes to this config, `((path, value), ...)`, with which a frozen network without "
        "checkpoint is trained.", type="tuple of pairs",
    ),
    "networks.*.trust": Field(
        False, "Whether a frozen network is used although its class names, image size or "
        "normalisation differ from the data's.",
    ),
    "networks.*.shard": Field(
        "", "Over which devices its large weights are cut, with their averages and the optimiser's "
        "state: `auto`, those of a group of `mesh.model`, or all where that is 1; `data`: over the "
        "groups; empty: every device holds all. A resumed run may change it.",
        ("", "auto", "data"),
    ),
    "terms.*.loss": Field(
        REQUIRED, "A loss of the table below, or `package.module:function`.", type="str"
    ),
    "terms.*.on": Field(
        REQUIRED, "Views that the loss is computed on and summed over.", type="tuple of str, or str"
    ),
    "terms.*.student": Field(
        "student", "Network that learns, or one for each view.", type="str or tuple of str"
    ),
    "terms.*.teacher": Field(
        "", "Teacher: `network` or `network@view`, or several, which are averaged, see "
        "`teacher_average`.",
        type="str or tuple of str",
    ),
    "terms.*.teacher_average": Field(
        "probabilities", "What is averaged of several teachers: `probabilities` at temperature 1, "
        "which the loss softens afterwards, or `softened` ones, at the loss's temperature.",
        ("probabilities", "softened"),
    ),
    "terms.*.weight": Field(
        1.0, "Factor of the loss: a number or a schedule.", Range(np.float32, 0.0),
        type="float or schedule",
    ),
    "terms.*.gradient_group": Field(
        "task", "Group of gradients that `optim.combine` takes it into.", ("task", "distill")
    ),
    "terms.*.detach": Field(True, "Whether no gradient reaches the teacher."),
    "terms.*.features": Field(
        (), "Activations that a loss on features compares: names that student and teacher share, "
        "`a:b` for the student's a and the teacher's b, or `logits`. Only losses on features have "
        "it.", type="tuple of str, or str",
    ),
    "optim.name": Field("sgd", "An optimiser of the table below, which lists its options."),
    "optim.schedule": Field(
        dict(name="constant", base=0.1, unit="epoch", warmup=0.0),
        "Learning rate: a number or a schedule.", Range(np.float32, 0.0), type="float or schedule",
    ),
    "optim.weight_decay": Field(
        0.0, "Factor of the weights that is added to their gradient.", Range(np.float32, 0.0)
    ),
    "optim.decay": Field(
        "all", "Which parameters decay: `all`, `kernels` or `not_batchnorm`."
    ),
    "optim.clip_norm": Field(
        0.0, "Largest global norm of a gradient.", Range(np.float32, 0.0, open=True), off=0
    ),
    "optim.combine": Field("sum()", "How gradient groups are combined, see the table below."),
    "optim.ema": Field(
        0.0, "Decay of the averaged weights, which are then evaluated.",
        Range(np.float32, 0.0, 0.999999, open=True), off=0,
    ),
    "optim.ema_ramp": Field(
        True, "Whether that decay is at most (1 + step) / (10 + step), so that it starts small."
    ),
    "optim.restart": Field(
        False, "Whether each phase that has it begins with a new state of the optimiser, such as "
        "momenta of 0; a phase keeps what the one before set."
    ),
    "train.epochs": Field(
        1.0, "Length of the run in passes over the training split.",
        Range(np.float64, 0.0, LONGEST, open=True),
    ),
    "train.replica_batch_size": Field(
        0, "Examples that one replica of the paper saw: BatchNorm statistics, mixing, `pick` and "
        "relational losses stay within so many; 0: the whole batch. Divides `data.batch_size`.",
        COUNT,
    ),
    "train.recipe_replica_batch_size": Field(
        0, "Examples that a replica of the recipe saw, where `replica_batch_size` is less to save "
        "memory; the console says both. 0: the same.", COUNT,
    ),
    "train.accumulate": Field(
        1, "Micro-batches of a step, whose gradients are averaged to save memory.", POSITIVE_COUNT
    ),
    "train.steps_per_call": Field(
        0, "Steps of one compiled call; 0: chosen to fit the intervals of logging, evaluation and "
        "checkpoints.", COUNT
    ),
    "train.reduce": Field(
        "float32", "Type in which TPUs make the gradients of kernels and biases and add them up "
        "over devices; `bfloat16` halves what is sent. Other devices take that of `precision`.",
        ("float32", "bfloat16"),
    ),
    "train.share_teacher": Field(
        False, "Whether the frozen networks of a sweep run once for all members that see the same "
        "views (of one seed, order and numbers of views) instead of once a member. They are then "
        "compiled apart from the step, so that last bits may differ from those of a plain run."
    ),
    "train.allow_weak_teacher": Field(
        False, "Whether a teacher may be no better than chance on the validation split."
    ),
    "train.max_minutes": Field(
        0.0, "Minutes after its start at which a run saves and ends with status 75, so that the "
        "same command goes on; 0: none. A resumed run may change it.", INTERVAL,
    ),
    "train.profile": Field(
        (), "Steps `(first, last)` of which a trace is written for TensorBoard's profiler, into "
        "`tensorboard/`; it begins and ends between calls. Empty: none. A resumed run may change "
        "it.", COUNT,
    ),
    "eval.every_epochs": Field(1.0, "Interval of evaluations; 0: only at the end.", INTERVAL),
    "eval.batch_size": Field(0, "Examples of a batch; 0: `data.batch_size`.", COUNT),
    "eval.view": Field("", "Stages that evaluated images go through, without randomness."),
    "eval.metrics": Field(("accuracy", "nll"), "Metrics, each once."),
    "eval.views": Field(
        (), "Training views that are evaluated as well, each once: with the member's numbers, as "
        "its phase makes them in the epoch of its last step.",
    ),
    "eval.bins": Field(15, "Bins of confidence of `ece` and `mce`.", POSITIVE_COUNT),
    "eval.embedding": Field("pooled", "Feature that metrics of the embedding look at."),
    "eval.table5": Field(
        False, "Whether `discrimination` is as in Table 5 of Das et al. 2020, of half the mean "
        "adhesion."
    ),
    "eval.batch_statistics": Field(
        False, "Whether trained networks are evaluated as in training, with the BatchNorm "
        "statistics of each batch; a last batch that is not full is left out."
    ),
    "eval.human": Field("", "File of people's answers to the test images, for the metric `human`."),
    "eval.sets": Field(
        (), "Further data sets, evaluated at the end and by `--mode=evaluate`, never used for a "
        'choice: `(("fog_3", "cifar10c:DIR?corruption=fog&severity=3"),)`; `SOURCE,PART` takes a '
        "part of a split, such as `cinic10:DIR,stratified(test[20000:])`.", type="tuple of pairs",
    ),
    "checkpoint.every_epochs": Field(1.0, "Interval of checkpoints in epochs; 0: none.", INTERVAL),
    "checkpoint.every_steps": Field(0, "Interval of checkpoints in steps; 0: none.", COUNT),
    "checkpoint.every_minutes": Field(
        0.0, "Interval of checkpoints in minutes; 0: none.", INTERVAL
    ),
    "checkpoint.keep": Field(
        2, "How many of the last checkpoints are kept. A resumed run may change it.",
        Range(np.int64, 2),
    ),
    "checkpoint.retry_minutes": Field(
        10.0, "How long a run goes on while saving fails, as on a disk without rights or room for "
        "files; it is tried again with each row of the log, as is a row that the disk refuses. A "
        "resumed run may change it.", INTERVAL,
    ),
    "checkpoint.best": Field(
        "eval/validation/accuracy", "Metric whose best checkpoint is kept too, of a population by "
        "its mean over the members; empty: none."
    ),
    "log.every_steps": Field(
        20, "Interval of the metrics of training in steps. A resumed run may change it.",
        POSITIVE_COUNT,
    ),
    "precision": Field(
        "float32", "Type of the computation; parameters, statistics and losses stay float32.",
        ("float32", "bfloat16"),
    ),
    "mesh.data": Field(
        -1, "Groups of devices; -1: of all devices. All devices of the mesh share a batch. A "
        "resumed run may change it.", Range(np.int64, -1),
    ),
    "mesh.model": Field(
        1, "Devices of a group, over which weights may be cut, see `networks.*.shard`. A resumed "
        "run may change it.", POSITIVE_COUNT,
    ),
    "search.name": Field(
        "", "What `--mode=search` does, see docs/search.md: `pba`, population based augmentation; "
        "empty: nothing.", ("", "pba"),
    ),
    "search.members": Field(
        16, "Runs of a search; their seeds are `seed` and the numbers after it.",
        Range(np.int64, 2),
    ),
    "search.interval": Field(
        3, "Epochs after which members are evaluated and copied.", POSITIVE_COUNT
    ),
    "search.path": Field(
        "views.x.pba.policy", "Traced policy that is searched: of a stage `pba` of a view."
    ),
    "search.validation": Field(
        "", "Split that members are compared on, such as `validation[:500]`; empty: "
        "`data.validation`."
    ),
    "search.seed": Field(0, "Seed of what a search draws.", SEED),
    "phases": Field(
        (), 'Changes from an epoch on, of views, terms and the optimiser: '
        '`((200, {"views.x": "flip"}),)`; none of a number that `population` sweeps.',
        type="tuple of pairs",
    ),
    "population": Field(
        (), 'Sweep: `(("terms.kd.weight", (0.0, 1.0)), ("seed", (0, 1, 2)))` trains each '
        "combination through one compiled step; numbers that change together are a row: "
        '`((("seed", "views.x.randaugment.n"), ((0, 1), (1, 3))),)`.', type="tuple of pairs",
    ),
}


def section_fields(section: str) -> dict[str, Field]:
    """Returns the fields of a section by name: `section_fields("networks.*")`."""
    return {
        path.removeprefix(f"{section}."): field
        for path, field in FIELDS.items() if path.rpartition(".")[0] == section
    }


def defaults(section: str, **given: Any) -> dict[str, Any]:
    """Returns a section with defaults for all fields that are not given and need not be."""
    fields = section_fields(section)
    return {
        **{name: field.default for name, field in fields.items() if field.default is not REQUIRED},
        **given,
    }


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """Returns the value of a plain config at a path."""
    for name in path.split("."):
        config = config[name]
    return config


def check_known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises ConfigError at the first given field that is not known, with the nearest names."""
    for name in given:
        if name not in known:
            raise ConfigError(f"{where}.{name}", "is not a field", suggest(name, known))
