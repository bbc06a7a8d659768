"""Everything before the first step: data, programs, devices, frozen networks, teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from kdaug_jax import data, models
from kdaug_jax.augment.engine import slow_ops
from kdaug_jax.data.options import no_bar
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.build import build_evaluators, lowest_is_best
from kdaug_jax.evaluation.eval_step import Moment
from kdaug_jax.evaluation.run import (
    Evaluator,
    check_images,
    evaluate_split,
    first_images,
    make_network_evaluator,
)
from kdaug_jax.evaluation.sets import EvalSet, build_sets
from kdaug_jax.experiment.frozen import compatibility, tables
from kdaug_jax.experiment.frozen.inputs import load_input
from kdaug_jax.experiment.frozen.probing import IMAGES, permuted_accuracy, probe
from kdaug_jax.experiment.frozen.stored import table_of
from kdaug_jax.experiment.network import Network
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import records, sharding, weight_cuts
from kdaug_jax.runtime.agreement import agree
from kdaug_jax.training import hosting, population
from kdaug_jax.training.intervals import Intervals, plan_intervals
from kdaug_jax.training.plan import plan_run, teacher_label
from kdaug_jax.types import Info

# Classes of the largest confusion matrix that is counted of a teacher.
MOST_COUNTED = 4096


class Setup(NamedTuple):
    """What the loop works with.

    Attributes:
      record: what `write_record` writes to config.json.
      directory: the working directory, absolute.
      dataset: the splits.
      programs: one a phase.
      members: the runs of the population.
      mesh: the devices.
      feed: training batches; its constants are on the devices, and it has to be closed.
      frozen: variables of the frozen networks, on the devices.
      hparams: for each phase each member's traced hparams, on the devices.
      numbers: the same on the host, where some are more exact.
      evaluators: of the trained networks, their branches and ensembles; one a phase.
      intervals: what happens how often.
      sets: the data sets of `eval.sets`.
    """

    record: dict[str, Any]
    directory: Path
    dataset: data.Dataset
    programs: tuple[Program, ...]
    members: tuple[population.Member, ...]
    mesh: Mesh
    feed: data.Feed
    frozen: dict[str, Any]
    hparams: list[list[dict[str, Any]]]
    numbers: list[list[dict[str, np.ndarray]]]
    evaluators: tuple[Evaluator, ...]
    intervals: Intervals
    sets: tuple[EvalSet, ...]

    def write_record(self) -> None:
        """Writes config.json, once nothing can refuse the run any more."""
        records.record(self.directory, self.record, self.dataset.class_names)

    @property
    def criterion(self) -> dict[str, Any]:
        """What the best checkpoint is chosen by, as `Checkpoints` takes it."""
        name = self.first.config["checkpoint"]["best"]
        return {"best": name, "lowest": lowest_is_best(self.evaluator, name)}

    @property
    def first(self) -> Program:
        """The first phase."""
        return self.programs[0]

    @property
    def names(self) -> list[str]:
        """Names of the members, by number."""
        return [member.name for member in self.members]

    @property
    def evaluator(self) -> Evaluator:
        """That of the first phase."""
        return self.evaluators[0]

    def moment(self, step: int, member: int) -> tuple[Evaluator, Moment]:
        """Returns what a member is evaluated with after some steps.

        Args:
          step: steps taken; the last of them decides phase and epoch.
          member: its number.
        """
        last = max(step - 1, 0)
        phase = self.intervals.phase(last)
        epoch = last // self.first.steps_per_epoch
        return self.evaluators[phase], Moment(self.numbers[phase][member], epoch)


def prepare(
    config: Mapping[str, Any],
    directory: Path,
    say: Callable[[str], None],
    *,
    allow_config_change: bool = False,
    verify_data: bool = False,
    record: bool = True,
    untrained: bool = False,
    progress: Callable[[float, str], None] = no_bar,
) -> Setup:
    """Resolves a config and brings data and frozen networks to the devices.

    Args:
      config: a complete config whose frozen networks have checkpoints.
      directory: the working directory, which exists.
      say: prints a line.
      allow_config_change: whether the directory may hold another config.
      verify_data: whether the contents of all images are read and compared.
      record: whether a config that the directory holds must be this one.
      untrained: whether frozen networks without a checkpoint are left out instead of refused.
      progress: shows a bar while a data set is indexed.

    Returns:
      What the loop works with.

    Raises:
      UserError: whatever does not fit.
    """
    planned = plan_run(
        config, directory, say, allow_config_change=allow_config_change,
        verify_data=verify_data, record=record, progress=progress,
    )
    first, section = planned.programs[0], planned.full["data"]
    mesh = sharding.make_mesh(
        planned.full["mesh"]["data"], section["batch_size"],
        planned.full["train"]["accumulate"], group=planned.full["mesh"]["model"],
    )
    platform = mesh.devices.flat[0].platform
    split = planned.dataset.splits["train"]
    programs = hosting.place_views(planned.programs, split, platform)
    for line in notices(programs, mesh):
        say(line)
    evaluators = build_evaluators(
        planned.full, planned.programs, first.networks, first.info, mesh, planned.human
    )
    for evaluator in evaluators:
        check_images(evaluator, {
            f"data.{use}": split for use, split in planned.dataset.splits.items() if use != "train"
        })
    frozen, inputs = {}, {}
    for name, network in first.networks.items():
        if not network.trainable and (network.checkpoint or not untrained):
            recorded = planned.record["frozen"].get(name)
            variables, inputs[name] = load_input(
                f"networks.{name}", network, planned.full["networks"][name]["checkpoint"],
                directory, first.info, say, recorded=None if allow_config_change else recorded,
                unfinished=not record,
            )
            if recorded and recorded["digest"] != inputs[name]["digest"]:
                say(f"config changed: networks.{name}: other weights (steps {recorded['steps']} -> "
                    f"{inputs[name]['steps']})")
            agree({f"networks.{name}": inputs[name]["digest"]})
            frozen[name] = weight_cuts.put(mesh, network.shard, variables)
    feed = hosting.make_feed(
        programs, planned.hparams, split, sharding.local_rows(mesh, section["batch_size"]), platform
    )
    return Setup(
        record={**planned.record, "frozen": inputs},
        directory=directory,
        dataset=planned.dataset,
        programs=programs,
        members=planned.members,
        mesh=mesh,
        feed=feed._replace(constants=sharding.put_whole(mesh, feed.constants)),
        frozen=frozen,
        hparams=[
            [sharding.put_whole(mesh, hparams) for hparams in phase] for phase in planned.hparams
        ],
        numbers=planned.hparams,
        evaluators=evaluators,
        # They are evaluated at the end.
        sets=build_sets(planned.full, evaluators[-1], planned.sets),
        intervals=plan_intervals(planned.programs, feed.item_bytes, platform),
    )


def data_line(setup: Setup) -> str:
    """Returns a line on the data of a run: its source, splits, classes and sizes."""
    info, splits = setup.first.info, ", ".join(
        f"{len(split.label):,} {use}" for use, split in setup.dataset.splits.items()
    )
    height, width = info.size
    sizes = "images of several sizes" if info.mixed else f"{width}×{height} pixels"
    source = setup.first.config["data"]["source"]
    return f"{source}: {splits}; {info.num_classes} classes, {sizes}"


def notices(programs: Sequence[Program], mesh: Mesh) -> list[str]:
    """Returns warnings of what is slow on the devices that programs are built for.

    Args:
      programs: one a phase.
      mesh: the devices.
    """
    platform = mesh.devices.flat[0].platform
    return [*crossing_mixes(programs, mesh.size, platform), *slow_policies(programs, platform)]


def slow_policies(programs: Sequence[Program], platform: str) -> list[str]:
    """Returns a warning for each op of a policy that a TPU computes outside the kernel, and why.

    Args:
      programs: one a phase, whose views are placed; what the host carries out is left out.
      platform: of the devices; others have no such kernel.
    """
    if platform != "tpu":
        return []
    return list(dict.fromkeys(
        f"warning: views.{spec.name}.{call.role}: {line}, so a TPU augments images that draw it "
        "about a thousand times more slowly"
        for program in programs for spec in program.view_specs
        for call in spec.calls[spec.hosted.calls if spec.hosted else 0 :]
        if call.stage.form == "policy"
        for line in slow_ops(
            call.bound.static["policy"].ops, call.size, call.bound.static["policy"].variant
        )
    ))


def crossing_mixes(programs: Sequence[Program], devices: int, platform: str) -> list[str]:
    """Returns a warning for each mixing stage whose partners lie on other devices.

    Which examples are mixed never depends on the devices, so their images then have to be sent
    between these. Between the devices of a CPU that costs nothing.

    Args:
      programs: one a phase.
      devices: of the mesh.
      platform: of the devices.
    """
    first = programs[0]
    batch = first.config["data"]["batch_size"] // first.accumulate
    group = first.config["train"]["replica_batch_size"] or batch
    most = batch // devices
    if platform == "cpu" or group <= most and most % group == 0:
        return []
    stages = dict.fromkeys(
        f"views.{spec.name}.{call.role}"
        for program in programs for spec in program.view_specs for call in spec.calls
        if call.stage.form == "group"
    )
    return [
        f"warning: {stage} mixes groups of {group} images, and a device holds {most}: images are "
        f"sent between devices; train.replica_batch_size={most} keeps them apart"
        for stage in stages
    ]


def check_teachers(
    setup: Setup, say: Callable[[str], None], check: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Evaluates the frozen networks; raises ConfigError for one that is not better than chance.

    Wrong normalisation, class order or channel order show here. Chance is 1/C plus three standard
    errors on the validation split. A table of logits is compared with the labels of the training
    split instead, since it holds logits of no other examples.

    Args:
      setup: the run.
      say: prints a line.
      check: called before each batch; may raise to end the evaluation.

    Returns:
      Metrics by network.

    Raises:
      ConfigError: near chance, and `train.allow_weak_teacher` is off.
    """
    info, metrics = setup.first.info, {}
    counts = ("confusion",) if info.num_classes <= MOST_COUNTED else ()
    splits = setup.dataset.splits
    chance = 1.0 / info.num_classes
    for name, variables in setup.frozen.items():
        network, use = setup.first.networks[name], "validation"
        for line in compatibility.describe(network, info):
            say(f"{teacher_label(name)}: {line}")
        if network.is_table:
            use = "train"
            numbers, confusion = _of_table(network, name, info)
        else:
            _probe(setup, f"networks.{name}", network, variables)
            evaluator = make_network_evaluator(setup.evaluator, name, counts)
            evaluated = evaluate_split(evaluator, {name: variables}, {}, splits, use, check)
            numbers = evaluated.numbers
            confusion = evaluated.arrays.get(f"eval/{use}/{name}/confusion")
        metrics[name] = numbers
        accuracy, nll = (
            numbers.get(f"eval/{use}/{name}/{score}", math.nan) for score in ("accuracy", "nll")
        )
        shown = "validation accuracy" if use == "validation" else "accuracy on the training split"
        say(f"{teacher_label(name)}: {shown} {100 * accuracy:.2f} %, NLL {nll:.4f} "
            f"(chance {100 * chance:.2f} %, {math.log(info.num_classes):.4f})")
        reordered = None if confusion is None else permuted_accuracy(confusion)
        permuted = "" if reordered is None else (
            f"its classes look permuted: {100 * reordered:.0f} % if reordered"
        )
        size = len(splits[use].label)
        if accuracy > chance + 3.0 * (chance * (1.0 - chance) / size) ** 0.5:
            if permuted:
                say(f"warning: networks.{name}: {permuted}")
            continue
        what = f"its {shown} {accuracy:.3f} is near chance ({chance:.3f})"
        what += f"; {permuted}" if permuted else ""
        if not setup.first.config["train"]["allow_weak_teacher"]:
            raise ConfigError(
                f"networks.{name}", what,
                "train it longer, check its normalisation and class order, or set "
                "train.allow_weak_teacher",
            )
        say(f"warning: networks.{name}: {what}")
    return metrics


def _of_table(
    network: Network, name: str, info: Info
) -> tuple[dict[str, float], np.ndarray | None]:
    """Returns accuracy and NLL of a table of logits on the training split, and its confusions."""
    logits = tables.check(f"networks.{name}", str(network.checkpoint), table_of(network), info)
    wide, label = logits.astype(np.float64), info.labels
    predicted, rows = wide.argmax(1), np.arange(len(wide))
    shifted = wide - wide.max(1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(1)) - shifted[rows, label]
    confusion = None
    if info.num_classes <= MOST_COUNTED:
        confusion = np.zeros((info.num_classes,) * 2)
        np.add.at(confusion, (label, predicted), 1)
    return {
        f"eval/train/{name}/accuracy": float((predicted == label).mean()),
        f"eval/train/{name}/nll": float(nll.mean()),
    }, confusion


def _probe(setup: Setup, where: str, network: Network, variables: Mapping[str, Any]) -> None:
    """Tries the networks that are not of this package on a few validation images."""
    for number, member in enumerate(network.members):
        parts = {part: tree.get(str(number), {}) for part, tree in variables.items()}
        _probe(setup, f"{where} ({member.checkpoint})", member, parts)
    foreign = network.facts.get("kind") == "function" or models.is_foreign(
        str(network.facts.get("name", ""))
    )
    if network.members or not foreign:
        return
    mesh = setup.mesh

    def logits(variables, image):
        return network.model.apply(variables, image, train=False)[0].logits

    run = jax.jit(
        sharding.within(mesh, logits), out_shardings=sharding.replicated(mesh)
    )

    def answer(images: np.ndarray) -> np.ndarray:
        return np.asarray(run(variables, sharding.put_whole(mesh, images)))

    images = first_images(setup.evaluator, setup.dataset.splits["validation"], IMAGES)
    probe(where, answer, images, network.facts.get("outputs") == "probabilities")
