"""The programs of a run, and the shapes of what they are called with; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from kdaug_jax import data
from kdaug_jax.compile import assumed
from kdaug_jax.evaluation.build import build_evaluators, check_evaluation
from kdaug_jax.evaluation.eval_step import Moment
from kdaug_jax.evaluation.run import Evaluator, params_of, variables_of
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks, views
from kdaug_jax.experiment.frozen.places import absolute, checkpoints_of, located
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import sharding, weight_cuts
from kdaug_jax.training import hosting, population
from kdaug_jax.training.intervals import Intervals, plan_intervals
from kdaug_jax.types import Batch


class Work(NamedTuple):
    """A program to compile.

    Attributes:
      name: "training" or "evaluation"; of a phase, with the epoch at which it begins.
      function: jitted.
      arguments: trees of shapes with shardings.
      steps: batches that a call takes.
      batch_size: examples of a batch.
      beside: what lies on the devices too while it runs, trees of shapes with shardings.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    steps: int
    batch_size: int
    beside: Any


class Job(NamedTuple):
    """A run that is not there.

    Attributes:
      mesh: its devices.
      programs: one a phase.
      members: size of the population.
      hosts: processes that feed the devices.
      feed: training batches, whose images have no pixels.
      validation: examples of the validation split.
      intervals: what happens how often.
      evaluator: of the trained networks.
      built_by_name: frozen networks whose checkpoint is not there.
    """

    mesh: Mesh
    programs: tuple[Program, ...]
    members: int
    hosts: int
    feed: data.Feed
    validation: int
    intervals: Intervals
    evaluator: Evaluator
    built_by_name: tuple[str, ...]

    @property
    def first(self) -> Program:
        """The first phase."""
        return self.programs[0]


def plan(
    config: Mapping[str, Any], dataset: data.Dataset, devices: Sequence[jax.Device],
    directory: Path,
) -> Job:
    """Resolves a config for devices that need not be there.

    Args:
      config: a complete config.
      dataset: splits, of whose images only the sizes are used.
      devices: to choose from.
      directory: the working directory, in which checkpoints may lie.

    Raises:
      UserError: whatever does not fit.
    """
    section, train = config["data"], config["train"]
    mesh = sharding.make_mesh(
        config["mesh"]["data"], section["batch_size"], train["accumulate"], devices,
        config["mesh"]["model"],
    )
    dataset = assumed.without_pixels(dataset)
    info = views.with_crops(assumed.facts(dataset), configs.view_texts(config), section["crop"])
    full, built_by_name = _with_checkpoints(config, directory)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        programs = build_programs(full, info)
    first = programs[0]
    check_evaluation(full, programs, info, first.networks)
    members = population.members(full["population"])
    hparams = population.hparams(programs, members)
    split = dataset.splits["train"]
    hosts = len({device.process_index for device in mesh.devices.flat})
    platform = mesh.devices.flat[0].platform
    programs = hosting.place_views(programs, split, platform)
    feed = hosting.make_feed(
        programs, hparams, split, slice(section["batch_size"] // hosts), platform
    )
    return Job(
        mesh, programs, len(members), hosts, feed, len(dataset.splits["validation"]),
        plan_intervals(programs, feed.item_bytes, platform),
        build_evaluators(full, programs, first.networks, info, mesh, None)[0], built_by_name,
    )


def _with_checkpoints(
    config: Mapping[str, Any], directory: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Locates checkpoints; a frozen network without its own is built from its name."""
    full, by_name = {**config, "networks": dict(config["networks"])}, []
    for name, section in config["networks"].items():
        checkpoint = located(section["checkpoint"], directory)
        if section["checkpoint"] and section["name"]:
            if not all(absolute(path).exists() for path in checkpoints_of(checkpoint)):
                by_name.append(name)
                checkpoint = ""
        # Statistics of pixels are made up, and class names may be.
        trust = section["trust"] or not section["trainable"]
        full["networks"][name] = {**section, "checkpoint": checkpoint, "trust": trust}
    return full, tuple(by_name)


def shaped(tree: Any, where: Any) -> Any:
    """Returns shapes and dtypes of arrays, laid out as a sharding, or a tree of them, says."""
    return jax.tree.map(
        lambda array, where: jax.ShapeDtypeStruct(
            np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype), sharding=where
        ),
        tree, jax.tree.broadcast(where, tree),
    )


def training(job: Job) -> list[Work]:
    """Returns the training calls of all phases, as the loop makes them."""
    whole = sharding.replicated(job.mesh)
    state = shaped(job.first.state_shapes(), job.first.state_shardings(job.mesh))
    # Members take turns, and the batches of the next call are staged while one runs.
    others = [state] * (job.members - 1)
    work = []
    for program in job.programs:
        steps = job.intervals.call_length(program.start_step)
        items = _items(job, program, steps)
        arguments = (
            state, frozen_shapes(job), shaped(job.feed.constants, whole), items,
            shaped(program.hparams, whole),
        )
        epoch = program.start_step / program.steps_per_epoch
        work.append(Work(
            "training" if not program.start_step else f"from epoch {epoch:g}",
            population.make_call(program, job.feed, steps, whole), arguments, steps,
            program.config["data"]["batch_size"], (others, items),
        ))
    return work


def _items(job: Job, program: Program, steps: int) -> Any:
    """Returns the shapes of what is sent for the steps of a call."""
    rows = sharding.rows(job.mesh, 1)
    size = program.config["data"]["batch_size"]
    if jax.tree.leaves(job.feed.constants):
        return jax.ShapeDtypeStruct((steps, size), np.int32, sharding=rows)
    batch = views.batch_shapes(program.made, size, program.info)
    item = {"image": batch.image, "crops": batch.crops, "label": batch.label, "index": batch.index}
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((steps, *array.shape), array.dtype, sharding=rows), item
    )


def frozen_shapes(job: Job) -> dict[str, Any]:
    """Returns the shapes of the variables of the frozen networks."""
    shapes = {
        name: networks.variable_shapes(network, job.first.info.size)
        for name, network in job.first.networks.items() if not network.trainable
    }
    return {
        name: shaped(variables, weight_cuts.shardings(
            job.mesh, weight_cuts.cuts_of(job.mesh, job.first.networks[name].shard, variables),
            variables,
        ))
        for name, variables in shapes.items()
    }


def evaluation(job: Job, trained: Work) -> Work:
    """Returns the evaluation of one batch of the validation split, after a call of training.

    Args:
      job: the run.
      trained: whose state is evaluated, and stays.
    """
    evaluator, mesh = job.evaluator, job.mesh
    whole = sharding.replicated(mesh)
    spec = evaluator.spec
    state, frozen = trained.arguments[:2]
    variables = {
        name: variables_of(state, name) if spec.networks[name].trainable else frozen[name]
        for name in spec.needed_networks
    }
    params = params_of(state)
    size = -(-min(evaluator.batch_size, job.validation) // mesh.size) * mesh.size
    batch = _evaluated(job, size)
    number = jax.ShapeDtypeStruct((), np.int32, sharding=whole)
    arguments = (variables, params, (batch, batch if spec.mixes else None), None, number)
    state, frozen, constants, _, hparams = trained.arguments
    moment = Moment({path: hparams[path] for path in spec.numbers}, number)
    before = {}
    if spec.metrics_of(human=False, first=True):
        before = shaped(jax.eval_shape(evaluator.first_pass, *arguments, {}, moment), whole)
    kept = _without((state, frozen, constants, hparams), (variables, params)), trained.beside
    return Work("evaluation", evaluator.step, (*arguments, before, moment), 1, size, kept)


def _evaluated(job: Job, size: int) -> Batch:
    spec = job.evaluator.spec
    rows = sharding.rows(job.mesh)
    batch = views.batch_shapes(spec.chains[0][:1], size, spec.info)
    crops = {}
    for number, chain in enumerate(spec.chains):
        made = views.batch_shapes(chain, size, spec.info)
        crops |= {f"{number}/{name}": array for name, array in made.crops.items()}
    stored = any(cutter.stored for cutter in spec.cutters)
    image = jax.ShapeDtypeStruct((size, *spec.info.size, 3), np.uint8) if stored else None
    return shaped(batch.replace(image=image, crops=crops), rows)


def _without(tree: Any, other: Any) -> list[Any]:
    """Returns the leaves of a tree that another one does not share."""
    shared = {id(leaf) for leaf in jax.tree.leaves(other)}
    return [leaf for leaf in jax.tree.leaves(tree) if id(leaf) not in shared]
