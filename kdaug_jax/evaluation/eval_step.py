"""The eval step: one batch through all networks, then sums for every predictor and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdaug_jax import rng
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.evaluation.metric_table import ON_VIEWS, Metric, MetricInputs, Settings
from kdaug_jax.evaluation.predictors import Member, Predictor
from kdaug_jax.experiment import views
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.experiment.networks import Network
from kdaug_jax.runtime import sharding
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Batch, Clock, Info, Outputs, View, select_features

# What `eval.view` and partners draw is the same for every run and at every time.
SEED, EPOCH = 0, 0

# Sums by predictor, then by metric and the suffix of its name.
Sums = dict[str, dict[tuple[str, str], Any]]


class Moment(NamedTuple):
    """A member of a population at a time of its run, as which training views are made.

    Attributes:
      hparams: its traced numbers by path, the seed among them, on the host.
      epoch: that of its last step.
    """

    hparams: Mapping[str, np.ndarray]
    epoch: int | np.ndarray


class TrainingView(NamedTuple):
    """A view of training on which predictors are compared too.

    Attributes:
      specs: the view, after those that it is made from.
      branch: its BatchNorm branch.
    """

    specs: tuple[views.ViewSpec, ...]
    branch: int


class EvalSpec(NamedTuple):
    """What an evaluation computes.

    Attributes:
      networks: by name; they run in inference mode.
      predictors: what is evaluated.
      metrics: by the name in `eval.metrics`.
      settings: of the metrics.
      view: how evaluation images are made, see `eval.view`.
      training_views: see `eval.views`.
      info: facts of the training split.
      mesh: the devices.
      human: `f32[N,C]`, people's answers by position in the test split's base split, or None.
      classes: which classes of the networks the labels count, in their order; empty for all.
      batch_statistics: whether networks that are no teachers run in training mode instead, with the
        BatchNorm statistics of each batch; examples of a batch that is not full do not count then.
    """

    networks: Mapping[str, Network]
    predictors: tuple[Predictor, ...]
    metrics: Mapping[str, Metric]
    settings: Settings
    view: views.ViewSpec
    training_views: tuple[TrainingView, ...]
    info: Info
    mesh: Mesh
    human: np.ndarray | None = None
    classes: tuple[int, ...] = ()
    batch_statistics: bool = False

    @property
    def chains(self) -> tuple[tuple[views.ViewSpec, ...], ...]:
        """What each view that networks are run on is made from, itself last."""
        return ((self.view,), *(view.specs for view in self.training_views))

    @property
    def cutters(self) -> tuple[views.Cutter, ...]:
        """What each of `chains` needs from the host."""
        return tuple(views.cutter(specs) for specs in self.chains)

    @property
    def mixes(self) -> bool:
        """Whether a training view mixes examples, so that each needs a partner."""
        return any(view.specs[-1].mixes for view in self.training_views)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Paths of the traced numbers that the step takes."""
        paths = ["seed"] if self.training_views else []
        for spec in (spec for view in self.training_views for spec in view.specs):
            for call in spec.calls[spec.leading.calls if spec.leading else 0 :]:
                paths += [f"views.{spec.name}.{call.role}.{name}" for name in call.bound.traced]
        for predictor in self.predictors:
            paths += [f"terms.{predictor.term}.{name}" for name in predictor.traced]
        return tuple(dict.fromkeys(paths))

    def cutters_at(self, moment: Moment) -> tuple[views.Cutter, ...]:
        """Returns `cutters` with the numbers of a member."""
        first, *training = self.cutters
        return (first, *(cutter.with_numbers(moment.hparams) for cutter in training))

    def crops(
        self, moment: Moment, cutters: Sequence[views.Cutter], index: np.ndarray, sizes: np.ndarray
    ) -> dict[str, Any]:
        """Draws the boxes of all leading crops of a batch.

        Args:
          moment: whose training views they are, and when; `eval.view` has no seed and epoch.
          cutters: see `cutters_at`.
          index: `i32[n]`, positions of the examples in their base split.
          sizes: `i32[n,2]`, height and width of their images.

        Returns:
          Crop plans and boxes by chain and view, as `make_view` looks for them.
        """
        drawn = {}
        for number, cutter in enumerate(cutters):
            seed, epoch = (moment.hparams["seed"], moment.epoch) if number else (SEED, EPOCH)
            crops = cutter.crops(int(seed), int(epoch), index, sizes)
            drawn |= {f"{number}/{name}": crop for name, crop in crops.items()}
        return drawn

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the networks that predictors are compared with, if a metric compares."""
        if not any(metric.needs == "teacher" for metric in self.metrics.values()):
            return ()
        names = (name for predictor in self.predictors for name in predictor.teachers)
        return tuple(dict.fromkeys(names))

    @property
    def needed_networks(self) -> tuple[str, ...]:
        """Names of the networks whose variables are needed."""
        members = {name for predictor in self.predictors for name, _ in predictor.members}
        return tuple(name for name in self.networks if name in members | set(self.teachers))

    @property
    def embeds(self) -> bool:
        """Whether a metric needs activations."""
        return any(metric.needs == "embedding" for metric in self.metrics.values())

    def metrics_of(self, human: bool, first: bool = False) -> dict[str, Metric]:
        """Returns the metrics of a split.

        Args:
          human: whether people's answers are known for the split.
          first: whether to return only those that need a first pass.
        """
        return {
            name: metric for name, metric in self.metrics.items()
            if (human or metric.needs != "human") and (metric.first or not first)
        }


class ViewOutputs(NamedTuple):
    """Outputs of networks on one view.

    Attributes:
      logits: `f32[B,C]` by (network, BatchNorm branch).
      embedding: `[B,...]` likewise, empty where no metric needs it.
      label: `i32[B]` of the view.
      mask: `bool[B]` of the view.
      human: `f32[B,C]`, shares of people's answers, or None.
    """

    logits: dict[Member, jax.Array]
    embedding: dict[Member, jax.Array]
    label: jax.Array
    mask: jax.Array
    human: jax.Array | None


def make_eval_step(spec: EvalSpec, first: bool = False) -> Callable[..., Sums]:
    """Makes the jitted function that evaluates one batch.

    Args:
      spec: what to compute.
      first: whether this is the first pass, which gathers what some metrics need beforehand.

    Returns:
      `f(variables, params, batches, human, number, before, moment) -> sums`; `variables` and
      `params` by network and term, `batches` the examples and, where a training view mixes, the
      partner of each, else None; `human` `f32[B,C]` or None where people's answers are not known,
      `number` `i32[]` of the batch, `before` the joined first pass or `{}`, `moment` with the
      numbers `spec.numbers`.
    """

    def evaluate_batch(
        variables, params, batches: tuple[Batch, Batch | None], human, number, before,
        moment: Moment,
    ) -> Sums:
        metrics = spec.metrics_of(human is not None, first)
        view = make_view(spec, batches[0], number)
        members = [member for predictor in spec.predictors for member in predictor.members]
        outputs = [run_networks(spec, variables, view, [*members, *_teachers(spec)], human)]
        for chain, (_, branch) in () if first else enumerate(spec.training_views, 1):
            view = _make_training_view(spec, chain, batches, moment)
            after = Ordering(number, outputs[-1].logits.values()).after(view.image)
            members = [_on_branch(spec, predictor, branch) for predictor in _main(spec)]
            members = [*members, *_teachers(spec)]
            outputs.append(run_networks(spec, variables, view.replace(image=after), members, None))
        # Every metric is then the same sum in the same order on every device.
        outputs = everywhere(spec.mesh, outputs)
        if first:
            return {
                predictor.name: {key: metric.first(inputs) for key, metric, inputs in rows}
                for predictor, rows, _ in _measured(spec, outputs[0], params, metrics, moment)
            }
        sums: Sums = {}
        for predictor, rows, facts in _measured(spec, outputs[0], params, metrics, moment):
            known = before.get(predictor.name, {})
            sums[predictor.name] = {
                key: metric.sums(inputs, spec.settings, known.get(key))
                for key, metric, inputs in rows
            } | {("", name): (value, jnp.float32(1)) for name, value in facts.items()}
        for (specs, branch), on_view in zip(spec.training_views, outputs[1:], strict=True):
            sums |= _on_view(spec, on_view, specs[-1].name, branch, metrics)
        return sums

    whole = sharding.replicated(spec.mesh)
    return jax.jit(sharding.within(spec.mesh, evaluate_batch), out_shardings=whole)


def make_view(spec: EvalSpec, batch: Batch, number) -> View:
    """Returns the view that evaluation images are put through, the same at every time.

    Args:
      spec: of the evaluation.
      batch: its examples.
      number: `i32[]` of the batch.
    """
    clock = Clock(np.asarray(SEED, np.uint32), np.asarray(EPOCH, np.int32), number)
    values, _ = views.hparams((spec.view,))
    made = views.make((spec.view,), clock, _of_chain(spec, 0, batch), values, spec.info, 1)
    return made[spec.view.name]


def _make_training_view(
    spec: EvalSpec, chain: int, batches: tuple[Batch, Batch | None], moment: Moment
) -> View:
    """Returns the last view of a chain, as a member makes it in the epoch of its last step."""
    specs, numbers = spec.chains[chain], moment.hparams
    # What is drawn for an example does not depend on the step.
    clock = Clock(numbers["seed"], moment.epoch, np.zeros((), np.int32))
    examples, partners = (
        None if batch is None else _of_chain(spec, chain, batch) for batch in batches
    )
    if specs[-1].mixes:
        return views.make_in_pairs(specs, clock, examples, partners, numbers, spec.info)
    return views.make(specs, clock, examples, numbers, spec.info, 1)[specs[-1].name]


def _of_chain(spec: EvalSpec, chain: int, batch: Batch) -> Batch:
    return batch.replace(crops={
        view.name: batch.crops[f"{chain}/{view.name}"]
        for view in spec.chains[chain] if view.leading is not None
    })


def _teachers(spec: EvalSpec) -> list[Member]:
    return [(name, 0) for name in spec.teachers]


def _main(spec: EvalSpec) -> list[Predictor]:
    """Returns one predictor for each network: no single branches and no ensembles."""
    main = {
        predictor.members[0][0]: predictor
        for predictor in reversed(spec.predictors) if not predictor.term
    }
    return list(reversed(main.values()))


def _on_branch(spec: EvalSpec, predictor: Predictor, branch: int) -> Member:
    network = predictor.members[0][0]
    return network, min(branch, spec.networks[network].model.num_branches - 1)


def run_networks(
    spec: EvalSpec, variables: Mapping[str, Any], view: View, members: Sequence[Member], human
) -> ViewOutputs:
    """Runs each network once on a view, all its branches side by side.

    Args:
      spec: of the evaluation.
      variables: by network.
      view: its images, B of them.
      members: (network, BatchNorm branch) pairs that are run.
      human: `f32[B,C]`, shares of people's answers, or None.
    """
    logits, embedding = {}, {}
    image, mask = view.image, view.mask
    trained = {name for predictor in spec.predictors for name, _ in predictor.members}
    if spec.batch_statistics:  # rows that only fill a batch up would be part of its statistics
        mask = mask & jnp.all(mask)
    for name in dict.fromkeys(network for network, _ in members):
        branches = tuple(dict.fromkeys(branch for network, branch in members if network == name))
        shape = (image.shape[0], len(branches), *image.shape[1:])
        rows = jnp.broadcast_to(image[:, None], shape).reshape(-1, *image.shape[1:])
        train = spec.batch_statistics and name in trained
        key = rng.init_key(np.uint32(SEED), "evaluation") if train else None
        outputs, _ = spec.networks[name].model.apply(
            variables[name], rows, train=train, branches=branches, key=key
        )
        parts = [(logits, outputs.logits)]
        if spec.embeds:
            parts.append((embedding, embedding_of(name, outputs, spec.settings)))
        for by_member, array in parts:
            if by_member is logits and spec.classes:
                array = array[:, np.asarray(spec.classes)]
            apart = array.reshape(-1, len(branches), *array.shape[1:])
            by_member |= {(name, branch): apart[:, i] for i, branch in enumerate(branches)}
    return ViewOutputs(logits, embedding, view.label, mask, human)


def embedding_of(network: str, outputs: Outputs, settings: Settings) -> jax.Array:
    """Returns the activations that `eval.embedding` names.

    Raises:
      ConfigError: the network has no such feature.
    """
    try:
        return select_features(outputs, (settings.embedding,), (network,))[0]
    except ArgumentError as error:
        raise ConfigError("eval.embedding", error.what, error.remedy) from None


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """Copies all rows to all devices in one array: integers below 2^24 stay exact as float32."""
    leaves, structure = jax.tree.flatten(tree)
    rows = leaves[0].shape[0]
    flat = [leaf.reshape(rows, -1).astype(jnp.float32) for leaf in leaves]
    together = jax.lax.with_sharding_constraint(
        jnp.concatenate(flat, axis=1), sharding.replicated(mesh)
    )
    ends = np.cumsum([part.shape[1] for part in flat])[:-1]
    apart = jnp.split(together, ends, axis=1)
    return structure.unflatten([
        part.reshape(leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(apart, leaves, strict=True)
    ])


Rows = list[tuple[tuple[str, str], Metric, MetricInputs]]


def _measured(
    spec: EvalSpec, outputs: ViewOutputs, params: Mapping[str, Any],
    metrics: Mapping[str, Metric], moment: Moment,
) -> Iterator[tuple[Predictor, Rows, dict[str, jax.Array]]]:
    """Yields each predictor, its metrics with their inputs, and facts of its ensemble."""
    for predictor in spec.predictors:
        member = predictor.members[0]
        logits, embedding = outputs.logits[member], outputs.embedding.get(member)
        facts: dict[str, jax.Array] = {}
        if predictor.term:
            stacked = jnp.stack([outputs.logits[member] for member in predictor.members])
            loss = resolve(predictor.term, predictor.loss)[0]
            traced = {
                name: moment.hparams[f"terms.{predictor.term}.{name}"] for name in predictor.traced
            }
            logits, facts = loss.predict_ensemble(
                params.get(predictor.term, {}), stacked, **{**predictor.options, **traced}
            )
            embedding = None
        inputs = MetricInputs(
            logits, outputs.label, outputs.mask, None, outputs.human, embedding
        )
        yield predictor, _rows(outputs, predictor.teachers, inputs, metrics), facts


def _rows(
    outputs: ViewOutputs, teachers: Sequence[str], inputs: MetricInputs,
    metrics: Mapping[str, Metric],
) -> Rows:
    """Lists what is measured: a metric and the suffix of its name, its row, its inputs."""
    rows: Rows = []
    for name, metric in metrics.items():
        if metric.needs == "teacher":
            for teacher in teachers:
                compared = inputs._replace(teacher=outputs.logits[teacher, 0])
                suffix = "" if len(teachers) == 1 else f"_{teacher}"
                rows.append(((name, suffix), metric, compared))
        elif not metric.needs or getattr(inputs, metric.needs) is not None:
            rows.append(((name, ""), metric, inputs))
    return rows


def _on_view(
    spec: EvalSpec, outputs: ViewOutputs, name: str, branch: int, metrics: Mapping[str, Metric]
) -> Sums:
    """Computes the metrics that need no label, of networks on a view of training."""
    metrics = {key: metric for key, metric in metrics.items() if key in ON_VIEWS}
    rows_of = [
        (predictor.name, _on_branch(spec, predictor, branch), predictor.teachers)
        for predictor in _main(spec)
    ]
    rows_of += [(teacher, (teacher, 0), ()) for teacher in spec.teachers]
    sums: Sums = {}
    for front, member, teachers in rows_of:
        inputs = MetricInputs(outputs.logits[member], outputs.label, outputs.mask)
        sums["/".join(filter(None, (f"view_{name}", front)))] = {
            key: metric.sums(compared, spec.settings, None)
            for key, metric, compared in _rows(outputs, teachers, inputs, metrics)
        }
    return sums
