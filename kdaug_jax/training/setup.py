"""Everything before the first step: data, programs, devices, frozen networks, teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from kdaug_jax import data
from kdaug_jax.data.options import no_bar
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.build import build_evaluators
from kdaug_jax.evaluation.eval_step import Moment
from kdaug_jax.evaluation.run import Evaluator, evaluate_split, make_network_evaluator
from kdaug_jax.evaluation.sets import EvalSet, build_sets
from kdaug_jax.experiment.frozen import compatibility, tables
from kdaug_jax.experiment.frozen.stored import absolute, load
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding, workdir
from kdaug_jax.training import population
from kdaug_jax.training.cropping import host_crops
from kdaug_jax.training.intervals import Intervals, plan_intervals
from kdaug_jax.training.plan import plan_run, teacher_label


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
        workdir.record(self.directory, self.record, self.dataset.class_names)

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
      record: whether a config that the directory holds must be this one.
      untrained: whether frozen networks without a checkpoint are left out instead of refused.
      progress: shows a bar while a data set is indexed.

    Returns:
      What the loop works with.

    Raises:
      UserError: whatever does not fit.
    """
    planned = plan_run(
        config, directory, say, allow_config_change=allow_config_change, record=record,
        progress=progress,
    )
    first, section = planned.programs[0], planned.full["data"]
    mesh = sharding.make_mesh(
        planned.full["mesh"]["data"], section["batch_size"], planned.full["train"]["accumulate"]
    )
    platform = mesh.devices.flat[0].platform
    for line in crossing_mixes(planned.programs, mesh.size, platform):
        say(line)
    frozen = {
        name: sharding.put_whole(mesh, load(f"networks.{name}", network, first.info, say))
        for name, network in first.networks.items()
        if not network.trainable and (network.checkpoint or not untrained)
    }
    split = planned.dataset.splits["train"]
    feed = data.make_feed(
        split, section["seed"], section["batch_size"],
        device_bytes=round(1e9 * section["device_gb"]), workers=section["workers"],
        rows=sharding.local_rows(mesh, section["batch_size"]),
        crops=host_crops(planned.programs, planned.hparams, split), platform=platform,
    )
    evaluators = build_evaluators(
        planned.full, planned.programs, first.networks, first.info, mesh, planned.human
    )
    return Setup(
        record=planned.record,
        directory=directory,
        dataset=planned.dataset,
        programs=planned.programs,
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
    splits = setup.dataset.splits
    chance = 1.0 / info.num_classes
    for name, variables in setup.frozen.items():
        network, use = setup.first.networks[name], "validation"
        for line in compatibility.describe(network, info):
            say(f"{teacher_label(name)}: {line}")
        if network.is_table:
            use = "train"
            accuracy = tables.check(f"networks.{name}", absolute(network.checkpoint), info)
            metrics[name] = {f"eval/{use}/{name}/accuracy": accuracy}
        else:
            evaluator = make_network_evaluator(setup.evaluator, name)
            metrics[name] = evaluate_split(
                evaluator, {name: variables}, {}, splits, use, check
            ).numbers
        accuracy = metrics[name][f"eval/{use}/{name}/accuracy"]
        shown = "validation accuracy" if use == "validation" else "accuracy on the training split"
        say(f"{teacher_label(name)}: {shown} {100 * accuracy:.2f} %")
        size = len(splits[use].label)
        if accuracy > chance + 3.0 * (chance * (1.0 - chance) / size) ** 0.5:
            continue
        what = f"its {shown} {accuracy:.3f} is near chance ({chance:.3f})"
        if not setup.first.config["train"]["allow_weak_teacher"]:
            raise ConfigError(
                f"networks.{name}", what,
                "check its normalisation and class order, or set train.allow_weak_teacher",
            )
        say(f"warning: networks.{name}: {what}")
    return metrics
