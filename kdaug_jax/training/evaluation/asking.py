"""One batch of an evaluation: networks are asked, what they say is brought together and summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.lifting import resolve
from kdaug_jax.experiment.networks import Network
from kdaug_jax.runtime import sharding
from kdaug_jax.training.evaluation.answers import Answer, Member
from kdaug_jax.training.evaluation.scores import ON_VIEWS, SCORES, Score, Seen, Settings
from kdaug_jax.types import Batch, Clock, Info, Outputs, View

# Sums by answer, then by metric and what is added to its name.
Sums = dict[str, dict[tuple[str, str], Any]]
# The tap that every network has.
LOGITS = "logits"


class Evaluator(NamedTuple):
    """What evaluates some answers.

    Attributes:
      networks: by name; all run in inference mode.
      answers: who is asked.
      names: of the metrics, see `scores.SCORES`.
      settings: of the metrics.
      view: what is done to the images first, see `eval.view`.
      more: other views on which answers are compared, each after those that it is made from, and
        its BatchNorm branch.
      info: facts of the training split.
      mesh: the devices.
      human: `f32[N,C]`, people's answers by position in the test split's base split, or None.
    """

    networks: Mapping[str, Network]
    answers: tuple[Answer, ...]
    names: tuple[str, ...]
    settings: Settings
    view: views.Plan
    more: tuple[tuple[tuple[views.Plan, ...], int], ...]
    info: Info
    mesh: Mesh
    human: np.ndarray | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names the networks that answers are compared with, if a metric does."""
        if not any(SCORES[name].needs == "teacher" for name in self.names):
            return ()
        return tuple(dict.fromkeys(name for one in self.answers for name in one.teachers))

    @property
    def asked(self) -> tuple[str, ...]:
        """Names the networks whose variables are needed."""
        own = {network for answer in self.answers for network, _ in answer.members}
        return tuple(name for name in self.networks if name in own | set(self.teachers))

    def scores(self, human: bool, first: bool = False) -> dict[str, Score]:
        """Gives the metrics of a split of which people's answers are known or not.

        Args:
          human: whether they are known.
          first: whether only those that need a pass before are wanted.
        """
        return {
            name: SCORES[name] for name in self.names
            if (human or SCORES[name].needs != "human") and (SCORES[name].first or not first)
        }

    @property
    def embeds(self) -> bool:
        """Whether a metric looks at activations."""
        return any(SCORES[name].needs == "embedding" for name in self.names)


class Said(NamedTuple):
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
    every = evaluator.scores(human, first)

    def one(variables, params, batch: Batch, human, number, before) -> Sums:
        view = _views((evaluator.view,), batch, evaluator.info, number)
        wanted = [member for answer in evaluator.answers for member in answer.members]
        said = [_ask(evaluator, variables, view, [*wanted, *_compared(evaluator)], human)]
        for plans, branch in () if first else evaluator.more:
            view = _views(plans, batch, evaluator.info, number)
            after = sharding.after(view.image, list(said[-1].logits.values()), number)
            wanted = [_on_branch(evaluator, answer, branch) for answer in _networks(evaluator)]
            wanted = [*wanted, *_compared(evaluator)]
            said.append(_ask(evaluator, variables, view.replace(image=after), wanted, None))
        # Every metric is then the same sum in the same order on every device.
        said = _everywhere(evaluator.mesh, said)
        if first:
            return {
                answer.name: {key: score.first(seen) for key, score, seen in rows}
                for answer, rows, _ in _measured(evaluator, said[0], params, every)
            }
        sums: Sums = {}
        for answer, rows, facts in _measured(evaluator, said[0], params, every):
            known = before.get(answer.name, {})
            sums[answer.name] = {
                key: score.sums(seen, evaluator.settings, known.get(key))
                for key, score, seen in rows
            } | {("", name): (value, jnp.float32(1)) for name, value in facts.items()}
        for (plans, branch), own in zip(evaluator.more, said[1:], strict=True):
            sums |= _on_view(evaluator, own, plans[-1].name, branch, every)
        return sums

    whole = sharding.replicated(evaluator.mesh)
    return jax.jit(sharding.within(evaluator.mesh, one), out_shardings=whole)


def _views(plans: Sequence[views.Plan], batch: Batch, info: Info, number) -> View:
    """Makes the last of some views, the same in every epoch and for every seed."""
    values, _ = views.hparams(plans)
    clock = Clock(np.zeros((), np.uint32), np.zeros((), np.int32), number)
    return views.make(plans, clock, batch, values, info, 1)[plans[-1].name]


def _compared(evaluator: Evaluator) -> list[Member]:
    return [(name, 0) for name in evaluator.teachers]


def _networks(evaluator: Evaluator) -> list[Answer]:
    """Gives one answer a network: no single branches and no ensembles."""
    found = {one.members[0][0]: one for one in reversed(evaluator.answers) if not one.term}
    return list(reversed(found.values()))


def _on_branch(evaluator: Evaluator, answer: Answer, branch: int) -> Member:
    network = answer.members[0][0]
    return network, min(branch, evaluator.networks[network].model.num_branches - 1)


def _ask(
    evaluator: Evaluator, variables: Mapping[str, Any], view: View, wanted: Sequence[Member], human
) -> Said:
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
    return Said(logits, embedding, view.label, view.mask, human)


def embedding_of(network: str, outputs: Outputs, settings: Settings) -> jax.Array:
    """Gives the activations that classes are told apart in.

    Raises:
      ConfigError: the network has no such tap.
    """
    taps = {LOGITS: outputs.logits, **outputs.taps}
    if settings.embedding not in taps:
        raise ConfigError(
            "eval.embedding", f"{network} has no tap '{settings.embedding}'",
            "it has " + ", ".join(taps),
        )
    return taps[settings.embedding]


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


Rows = list[tuple[tuple[str, str], Score, Seen]]


def _measured(
    evaluator: Evaluator, said: Said, params: Mapping[str, Any], every: Mapping[str, Score]
) -> Iterator[tuple[Answer, Rows, dict[str, jax.Array]]]:
    """Gives each answer, what is to be measured of it, and facts told with it."""
    for answer in evaluator.answers:
        logits, embedding = said.logits[answer.members[0]], said.embedding.get(answer.members[0])
        facts: dict[str, jax.Array] = {}
        if answer.term:
            together = jnp.stack([said.logits[member] for member in answer.members])
            loss, own = resolve(answer.term, answer.loss)[0], params.get(answer.term, {})
            logits, facts = loss.answer(own, together, **dict(answer.options))
            embedding = None
        seen = Seen(logits, said.label, said.mask, None, said.human, embedding)
        yield answer, _rows(evaluator, said, answer.teachers, seen, every), facts


def _rows(
    evaluator: Evaluator, said: Said, teachers: Sequence[str], seen: Seen,
    every: Mapping[str, Score],
) -> Rows:
    """Lists what is measured: a metric and what is added to its name, its row, its arguments."""
    found: Rows = []
    for name, score in every.items():
        if score.needs == "teacher":
            for teacher in teachers:
                own = seen._replace(teacher=said.logits[teacher, 0])
                suffix = "" if len(teachers) == 1 else f"_{teacher}"
                found.append(((name, suffix), score, own))
        elif not score.needs or getattr(seen, score.needs) is not None:
            found.append(((name, ""), score, seen))
    return found


def _on_view(
    evaluator: Evaluator, said: Said, name: str, branch: int, every: Mapping[str, Score]
) -> Sums:
    """Measures what needs no label, of networks on a view of training."""
    every = {metric: score for metric, score in every.items() if metric in ON_VIEWS}
    asked = [
        (answer.name, _on_branch(evaluator, answer, branch), answer.teachers)
        for answer in _networks(evaluator)
    ]
    asked += [(teacher, (teacher, 0), ()) for teacher in evaluator.teachers]
    sums: Sums = {}
    for front, member, teachers in asked:
        seen = Seen(said.logits[member], said.label, said.mask)
        sums["/".join(filter(None, (f"view_{name}", front)))] = {
            key: score.sums(given, evaluator.settings, None)
            for key, score, given in _rows(evaluator, said, teachers, seen, every)
        }
    return sums
