"""Everything before the first step: data, programs, devices, frozen networks, teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from kdaug_jax import data
from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation import run
from kdaug_jax.evaluation.build import evaluator_alone, evaluator_of
from kdaug_jax.evaluation.eval_step import Evaluator
from kdaug_jax.evaluation.predictors import Selection, main_network, with_selected
from kdaug_jax.experiment.frozen import compatibility, tables
from kdaug_jax.experiment.frozen.stored import absolute, load
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding, workdir
from kdaug_jax.training import population
from kdaug_jax.training.plan import plan
from kdaug_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the loop works with.

    Attributes:
      record: what `write_record` writes to config.json.
      directory: the working directory, absolute.
      dataset: the splits.
      programs: one a phase.
      members: the runs of the population.
      mesh: the devices.
      feed: training batches; its constants lie on the devices, and it is to be closed.
      frozen: variables of the frozen networks, on the devices.
      hparams: for each phase each member's traced numbers, on the devices.
      evaluator: what evaluates the trained networks.
      choices: what is chosen among on the validation split.
      compiled: jitted evaluations, by who is evaluated.
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
    evaluator: Evaluator
    selections: tuple[Selection, ...]
    compiled: dict[str, dict[Any, Callable[..., Any]]]

    def write_record(self) -> None:
        """Writes down what the run is made with, once nothing can refuse it any more."""
        workdir.record(self.directory, self.record, self.dataset.class_names)

    @property
    def first(self) -> Program:
        """The first phase."""
        return self.programs[0]

    @property
    def student(self) -> str:
        """The network whose results carry no name of their own."""
        return main_network(self.first.trainable)

    def evaluate(
        self, state: TrainState, split: str, check: Callable[[], None],
        beside: Mapping[str, float],
    ) -> run.Evaluation:
        """Evaluates all trained networks, their branches and ensembles on one split.

        Args:
          state: of the run.
          split: "validation" or "test".
          check: called before each batch; may raise to end the evaluation.
          beside: the numbers of the validation split, by which branches are chosen, where this is
            another split.

        Returns:
          Values by full name, `eval/<split>/...`.
        """
        variables = {
            name: run.variables_of(state, name)
            if self.first.networks[name].trainable else self.frozen[name]
            for name in self.evaluator.asked
        }
        found = self._run("", self.evaluator, variables, run.params_of(state), split, check)
        numbers = with_selected({**beside, **found.numbers}, self.selections)
        front = f"eval/{split}/"
        return found._replace(
            numbers={name: one for name, one in numbers.items() if name.startswith(front)}
        )

    def evaluate_frozen(
        self, network: str, split: str, check: Callable[[], None]
    ) -> run.Evaluation:
        """Evaluates one frozen network on one split; see `evaluate`."""
        alone = evaluator_alone(self.evaluator, network)
        variables = {network: self.frozen[network]}
        return self._run(network, alone, variables, {}, split, check)

    def _run(self, who: str, evaluator: Evaluator, variables, params, split: str, check):
        config = self.first.config
        batch_size = config["eval"]["batch_size"] or config["data"]["batch_size"]
        found = run.evaluate_split(
            evaluator, self.compiled.setdefault(who, {}), variables, params,
            self.dataset.splits[split], batch_size, check, human=split == "test",
        )
        return run.Evaluation(*(
            {f"eval/{split}/{name}": one for name, one in part.items()} for part in found
        ))


def prepare(
    config: Mapping[str, Any],
    directory: Path,
    say: Callable[[str], None],
    *,
    allow_config_change: bool = False,
    record: bool = True,
    untrained: bool = False,
) -> Setup:
    """Resolves a config and brings data and frozen networks to the devices.

    Args:
      config: a complete config whose frozen networks have checkpoints.
      directory: the working directory, which exists.
      say: prints a line.
      allow_config_change: whether the directory may hold another config.
      record: whether a config that the directory holds must be this one.
      untrained: whether frozen networks without a checkpoint are left out instead of refused.

    Returns:
      What the loop works with.

    Raises:
      UserError: whatever does not fit.
    """
    planned = plan(
        config, directory, say, allow_config_change=allow_config_change, record=record
    )
    first, section = planned.programs[0], planned.full["data"]
    mesh = sharding.make_mesh(
        planned.full["mesh"]["data"], section["batch_size"], planned.full["train"]["accumulate"]
    )
    frozen = {
        name: sharding.put_whole(mesh, load(f"networks.{name}", one, first.info, say))
        for name, one in first.networks.items()
        if not one.trainable and (one.checkpoint or not untrained)
    }
    split = planned.dataset.splits["train"]
    feed = data.make_feed(
        split, section["seed"], section["batch_size"],
        device_bytes=round(1e9 * section["device_gb"]), workers=section["workers"],
        rows=sharding.local_rows(mesh, section["batch_size"]),
    )
    evaluator, selections = evaluator_of(
        planned.full, first.networks, first.info, mesh, planned.human
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
            [sharding.put_whole(mesh, own) for own in phase] for phase in planned.hparams
        ],
        evaluator=evaluator,
        selections=selections,
        compiled={},
    )


def check_teachers(
    setup: Setup, say: Callable[[str], None], check: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Evaluates the frozen networks and refuses one that is not better than chance.

    Wrong normalisation, class order or channel order show here. Chance is 1/C plus three standard
    errors on the validation split. A table of logits is compared with the labels of the training
    split instead, whose examples it knows.

    Args:
      setup: the run.
      say: prints a line.
      check: called before each batch; may raise to end the evaluation.

    Returns:
      Metrics by network.

    Raises:
      ConfigError: near chance, and `train.allow_weak_teacher` is off.
    """
    info, found = setup.first.info, {}
    chance = 1.0 / info.num_classes
    for name in setup.frozen:
        network, split = setup.first.networks[name], "validation"
        for line in compatibility.describe(network, info):
            say(f"teacher {name}: {line}")
        if network.is_table:
            split = "train"
            accuracy = tables.check(f"networks.{name}", absolute(network.checkpoint), info)
            found[name] = {f"eval/{split}/{name}/accuracy": accuracy}
        else:
            found[name] = setup.evaluate_frozen(name, split, check).numbers
        accuracy = found[name][f"eval/{split}/{name}/accuracy"]
        shown = "validation accuracy" if split == "validation" else "accuracy on the training split"
        say(f"teacher {name}: {shown} {100 * accuracy:.2f} %")
        size = len(setup.dataset.splits[split].label)
        if accuracy > chance + 3.0 * (chance * (1.0 - chance) / size) ** 0.5:
            continue
        what = f"its {shown} {accuracy:.3f} is near chance ({chance:.3f})"
        if not setup.first.config["train"]["allow_weak_teacher"]:
            raise ConfigError(
                f"networks.{name}", what,
                "check its normalisation and class order, or set train.allow_weak_teacher",
            )
        say(f"warning: networks.{name}: {what}")
    return found
