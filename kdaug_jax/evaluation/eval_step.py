"""One batch of an evaluation: networks are asked, what they say is brought together and summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdaug_jax.errors import ConfigError
from kdaug_jax.evaluation.metric_table import METRICS, ON_VIEWS, Metric, MetricInputs, Settings
from kdaug_jax.evaluation.predictors import Member, Predictor
from kdaug_jax.experiment import views
from kdaug_jax.experiment.loss_registry import resolve
from kdaug_jax.experiment.networks import Network
from kdaug_jax.runtime import sharding
from kdaug_jax.runtime.ordering import Ordering
from kdaug_jax.types import Batch, Clock, Info, Outputs, View

# Sums by answer, then by metric and what is added to its name.
Sums = dict[str, dict[tuple[str, str], Any]]
# The feature that every network has.
LOGITS = "logits"


class Evaluator(NamedTuple):
    """What evaluates some answers.

    Attributes:
      networks: by name; all run in inference mode.
      answers: who is asked.
      names: of the metrics, see `scores.METRICS`.
      settings: of the metrics.
      view: what is done to the images first, see `eval.view`.
      more: other views on which answers are compared, each after those that it is made from, and
        its BatchNorm branch.
      info: facts of the training split.
      mesh: the devices.
      human: `f32[N,C]`, people's answers by position in the test split's base split, or None.
    """

    networks: Mapping[str, Network]
    predictors: tuple[Predictor, ...]
    names: tuple[str, ...]
    settings: Settings
    view: views.ViewSpec
    more: tuple[tuple[tuple[views.ViewSpec, ...], int], ...]
    info: Info
    mesh: Mesh
    human: np.ndarray | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names the networks that answers are compared with, if a metric does."""
        if not any(METRICS[name].needs == "teacher" for name in self.names):
            return ()
        return tuple(dict.fromkeys(name for one in self.predictors for name in one.teachers))

    @property
    def asked(self) -> tuple[str, ...]:
        """Names the networks whose variables are needed."""
        own = {network for predictor in self.predictors for network, _ in predictor.members}
        return tuple(name for name in self.networks if name in own | set(self.teachers))

    def metrics_of(self, human: bool, first: bool = False) -> dict[str, Metric]:
        """Gives the metrics of a split of which people's answers are known or not.

        Args:
          human: whether they are known.
          first: whether only those that need a pass before are wanted.
        """
        return {
            name: METRICS[name] for name in self.names
            if (human or METRICS[name].needs != "human") and (METRICS[name].first or not first)
        }

    @property
    def embeds(self) -> bool:
        """Whether a metric looks at activations."""
        return any(METRICS[name].needs == "embedding" for name in self.names)


class ViewOutputs(NamedTuple):
    """What networks say of one view: logits and embeddings by member, and the view's own."""

    logits: dict[Member, jax.Array]
    embedding: dict[Member, jax.Array]
    label: jax.Array
    mask: jax.Array
    human: jax.Array | None


def make_eval(evaluator: Evaluator, human: bool, first: bool = False) -> Callable[..., Sums]:
    """Makes the jitted function that evaluates one batch.

    Args:
      evaluator: who is asked for what.
      human: whether people's answers are known.
      first: whether only what has to be known before is gathered.

    Returns:
      `f(variables, params, batch, human, number, before) -> sums`; `variables` and `params` by
      network and term, `human` `f32[B,C]` or None, `number` `i32[]` of the batch, `before` the
      joined first pass or `{}`.
    """
    every = evaluator.metrics_of(human, first)

    def one(variables, params, batch: Batch, human, number, before) -> Sums:
        view = _views((evaluator.view,), batch, evaluator.info, number)
        wanted = [member for predictor in evaluator.predictors for member in predictor.members]
        said = [_ask(evaluator, variables, view, [*wanted, *_compared(evaluator)], human)]
        for specs, branch in () if first else evaluator.more:
            view = _views(specs, batch, evaluator.info, number)
            after = Ordering(number, said[-1].logits.values()).after(view.image)
            wanted = [_on_branch(evaluator, predictor, branch) for predictor in _networks(evaluator)]
            wanted = [*wanted, *_compared(evaluator)]
            said.append(_ask(evaluator, variables, view.replace(image=after), wanted, None))
        # Every metric is then the same sum in the same order on every device.
        said = _everywhere(evaluator.mesh, said)
        if first:
            return {
                predictor.name: {key: score.first(inputs) for key, score, inputs in rows}
                for predictor, rows, _ in _measured(evaluator, said[0], params, every)
            }
        sums: Sums = {}
        for predictor, rows, facts in _measured(evaluator, said[0], params, every):
            known = before.get(predictor.name, {})
            sums[predictor.name] = {
                key: score.sums(inputs, evaluator.settings, known.get(key))
                for key, score, inputs in rows
            } | {("", name): (value, jnp.float32(1)) for name, value in facts.items()}
        for (specs, branch), own in zip(evaluator.more, said[1:], strict=True):
            sums |= _on_view(evaluator, own, specs[-1].name, branch, every)
        return sums

    whole = sharding.replicated(evaluator.mesh)
    return jax.jit(sharding.within(evaluator.mesh, one), out_shardings=whole)


def _views(specs: Sequence[views.ViewSpec], batch: Batch, info: Info, number) -> View:
    """Makes the last of some views, the same in every epoch and for every seed."""
    values, _ = views.hparams(specs)
    clock = Clock(np.zeros((), np.uint32), np.zeros((), np.int32), number)
    return views.make(specs, clock, batch, values, info, 1)[specs[-1].name]


def _compared(evaluator: Evaluator) -> list[Member]:
    return [(name, 0) for name in evaluator.teachers]


def _networks(evaluator: Evaluator) -> list[Predictor]:
    """Gives one answer a network: no single branches and no ensembles."""
    found = {one.members[0][0]: one for one in reversed(evaluator.predictors) if not one.term}
    return list(reversed(found.values()))


def _on_branch(evaluator: Evaluator, predictor: Predictor, branch: int) -> Member:
    network = predictor.members[0][0]
    return network, min(branch, evaluator.networks[network].model.num_branches - 1)


def _ask(
    evaluator: Evaluator, variables: Mapping[str, Any], view: View, wanted: Sequence[Member], human
) -> ViewOutputs:
    """Runs each network once on a view, all its branches side by side."""
    logits, embedding = {}, {}
    image = view.image
    for name in dict.fromkeys(network for network, _ in wanted):
        branches = tuple(dict.fromkeys(branch for network, branch in wanted if network == name))
        shape = (image.shape[0], len(branches), *image.shape[1:])
        rows = jnp.broadcast_to(image[:, None], shape).reshape(-1, *image.shape[1:])
        outputs, _ = evaluator.networks[name].model.apply(
            variables[name], rows, train=False, branches=branches
        )
        parts = [(logits, outputs.logits)]
        if evaluator.embeds:
            parts.append((embedding, embedding_of(name, outputs, evaluator.settings)))
        for found, array in parts:
            apart = array.reshape(-1, len(branches), *array.shape[1:])
            found |= {(name, branch): apart[:, i] for i, branch in enumerate(branches)}
    return ViewOutputs(logits, embedding, view.label, view.mask, human)


def embedding_of(network: str, outputs: Outputs, settings: Settings) -> jax.Array:
    """Gives the activations that classes are told apart in.

    Raises:
      ConfigError: the network has no such feature.
    """
    features = {LOGITS: outputs.logits, **outputs.features}
    if settings.embedding not in features:
        raise ConfigError(
            "eval.embedding", f"{network} has no feature '{settings.embedding}'",
            "it has " + ", ".join(features),
        )
    return features[settings.embedding]


def _everywhere(mesh: Mesh, tree: Any) -> Any:
    """Brings all rows to all devices, in one piece: whole numbers below 2^24 stay what they are."""
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
    evaluator: Evaluator, said: ViewOutputs, params: Mapping[str, Any], every: Mapping[str, Metric]
) -> Iterator[tuple[Predictor, Rows, dict[str, jax.Array]]]:
    """Gives each answer, what is to be measured of it, and facts told with it."""
    for predictor in evaluator.predictors:
        logits, embedding = said.logits[predictor.members[0]], said.embedding.get(predictor.members[0])
        facts: dict[str, jax.Array] = {}
        if predictor.term:
            together = jnp.stack([said.logits[member] for member in predictor.members])
            loss, own = resolve(predictor.term, predictor.loss)[0], params.get(predictor.term, {})
            logits, facts = loss.predict_ensemble(own, together, **dict(predictor.options))
            embedding = None
        inputs = MetricInputs(logits, said.label, said.mask, None, said.human, embedding)
        yield predictor, _rows(evaluator, said, predictor.teachers, inputs, every), facts


def _rows(
    evaluator: Evaluator, said: ViewOutputs, teachers: Sequence[str], inputs: MetricInputs,
    every: Mapping[str, Metric],
) -> Rows:
    """Lists what is measured: a metric and what is added to its name, its row, its arguments."""
    found: Rows = []
    for name, score in every.items():
        if score.needs == "teacher":
            for teacher in teachers:
                own = inputs._replace(teacher=said.logits[teacher, 0])
                suffix = "" if len(teachers) == 1 else f"_{teacher}"
                found.append(((name, suffix), score, own))
        elif not score.needs or getattr(inputs, score.needs) is not None:
            found.append(((name, ""), score, inputs))
    return found


def _on_view(
    evaluator: Evaluator, said: ViewOutputs, name: str, branch: int, every: Mapping[str, Metric]
) -> Sums:
    """Measures what needs no label, of networks on a view of training."""
    every = {metric: score for metric, score in every.items() if metric in ON_VIEWS}
    asked = [
        (predictor.name, _on_branch(evaluator, predictor, branch), predictor.teachers)
        for predictor in _networks(evaluator)
    ]
    asked += [(teacher, (teacher, 0), ()) for teacher in evaluator.teachers]
    sums: Sums = {}
    for front, member, teachers in asked:
        inputs = MetricInputs(said.logits[member], said.label, said.mask)
        sums["/".join(filter(None, (f"view_{name}", front)))] = {
            key: score.sums(given, evaluator.settings, None)
            for key, score, given in _rows(evaluator, said, teachers, inputs, every)
        }
    return sums
