"""A program: an experiment with every name resolved and every number planned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.sharding import Mesh

from kdaug_jax import rng
from kdaug_jax.experiment import networks, optim, terms, views
from kdaug_jax.experiment.context import StepContext
from kdaug_jax.experiment.view_metrics import disagreement
from kdaug_jax.models.gradients import reduced_in
from kdaug_jax.runtime import sharding, weight_cuts
from kdaug_jax.types import Batch, Clock, Hparams, Info, Outputs, Range, TrainState, View


@dataclasses.dataclass(frozen=True)
class Program:
    """An experiment, or one phase of it, ready for the training step.

    Attributes:
      config: the complete plain config.
      info: facts of the training split.
      steps_per_epoch, total_steps, start_step: steps of the whole run, and where a phase begins.
      groups: number of groups of `train.replica_batch_size` in the batch; 1 for the whole batch.
      accumulate: number of micro-batches of a step; none of them cuts a group.
      view_specs, branches: the views in order, and the BatchNorm branch of each.
      networks: by name, in order.
      term_specs: the terms in order.
      optimizer: the resolved optimiser.
      hparams, ranges: every traced number and its legal values, by config path.
      left_out: names of the terms that are not computed, see `terms.left_out`.
      overridden: config paths that this phase or an earlier one has set.
    """

    config: dict[str, Any]
    info: Info
    steps_per_epoch: int
    total_steps: int
    start_step: int
    groups: int
    accumulate: int
    view_specs: tuple[views.ViewSpec, ...]
    branches: dict[str, int]
    networks: dict[str, networks.Network]
    term_specs: tuple[terms.TermSpec, ...]
    optimizer: optim.Optimizer
    hparams: dict[str, np.ndarray]
    ranges: dict[str, Range]
    left_out: frozenset[str] = frozenset()
    overridden: frozenset[str] = frozenset()

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the trained networks."""
        return tuple(name for name, network in self.networks.items() if network.trainable)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms, in order."""
        return tuple(spec.name for spec in self.term_specs)

    @property
    def active_names(self) -> tuple[str, ...]:
        """Names of the terms that are computed, in the order of the step's raw values."""
        return tuple(spec.name for spec in self.active)

    @property
    def active(self) -> tuple[terms.TermSpec, ...]:
        """The terms that are computed."""
        return tuple(spec for spec in self.term_specs if spec.name not in self.left_out)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (network, view) pairs that the computed terms need."""
        return terms.pairs(self.active)

    @property
    def made(self) -> tuple[views.ViewSpec, ...]:
        """The views to make."""
        return views.views_to_make(self.view_specs, self.pairs)

    @property
    def places(self) -> dict[str, str]:
        """Where the views are made that the host has a part in, see `views.describe`."""
        texts = {name: section["ops"] for name, section in self.config["views"].items()}
        return views.describe(self.made, texts)

    @property
    def cutter(self) -> views.Cutter:
        """What the views need from the host while images are decoded."""
        return views.cutter(self.made)

    def clock(self, step: jax.Array, hparams: Hparams) -> Clock:
        """Returns the position in the run at a step."""
        return Clock(hparams["seed"], step // self.steps_per_epoch, step)

    def variables(
        self, params: Mapping[str, Any], network_state: Mapping[str, Any], frozen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns `{network: {"params", "batch_stats"}}` of trained and frozen networks."""
        return {
            name: {"params": params[name], "batch_stats": network_state[name]}
            if network.trainable
            else frozen[name]
            for name, network in self.networks.items()
        }

    def context(
        self, views_made: Mapping[str, View], clock: Clock, hparams: Hparams
    ) -> StepContext:
        """Returns what networks and terms are computed with for the views of a micro-batch."""
        groups = max(self.groups // self.accumulate, 1)
        return StepContext(
            views_made, self.branches, clock, hparams, self.info, groups, self.accumulate
        )

    def make_views(
        self, clock: Clock, batch: Batch, hparams: Hparams, variables: Mapping[str, Any],
        given: Mapping[str, Outputs],
    ) -> tuple[dict[str, View], dict[str, Outputs], dict[str, Any]]:
        """Makes all views of a batch.

        Args:
          clock: position in the run.
          batch: the stored examples.
          hparams: traced numbers by path.
          variables: see `variables`; only those of networks that `pick` names are used.
          given: outputs of `network@view` pairs that are not to be run.

        Returns:
          The views; `given` and the outputs that `pick` computed; metrics as (sum, count).
        """
        scorer = views.Scorer(self.networks, variables, self.branches, clock)
        made = views.make_all(
            self.made, clock, batch, hparams, self.info, self.groups, scorer
        )
        return made.views, {**made.given, **given}, made.metrics

    def run_networks(
        self,
        params: Mapping[str, Any],
        network_state: Mapping[str, Any],
        frozen: Mapping[str, Any],
        given: Mapping[str, Outputs],
        context: StepContext,
    ) -> tuple[dict[str, Outputs], dict[str, Any]]:
        """Runs every needed pair that is not given; returns outputs and new running statistics."""
        variables = self.variables(params, network_state, frozen)
        with reduced_in(self.config["train"]["reduce"]):
            return networks.run(self.networks, self.pairs, variables, given, context)

    def run_frozen(
        self, clock: Clock, batch: Batch, hparams: Hparams, frozen: Mapping[str, Any]
    ) -> dict[str, Outputs]:
        """Runs the frozen networks on the views of a batch.

        Args:
          clock: position in the run.
          batch: the stored examples.
          hparams: traced numbers by path; those of the views are used.
          frozen: variables of the frozen networks.

        Returns:
          `{"network@view": Outputs}` with the features that terms compare.
        """
        pairs = [pair for pair in self.pairs if not self.networks[pair[0]].trainable]
        views_made, _, _ = self.make_views(clock, batch, hparams, {}, {})
        context = self.context(views_made, clock, hparams)
        outputs, _ = networks.run(
            {name: self.networks[name] for name, _ in pairs}, pairs, frozen, {}, context
        )
        compared = {teacher for spec in self.active for _, teacher in spec.features}
        return {
            name: output.replace(features={
                feature: value for feature, value in output.features.items() if feature in compared
            })
            for name, output in outputs.items()
        }

    def compute_terms(self, params, state, outputs, context: StepContext):
        """Computes the terms, see `experiment.terms.apply`; sums are by the optimiser's groups."""
        sums, raw, state, metrics = terms.apply(self.active, params, state, outputs, context)
        metrics |= disagreement(self.view_specs, self.active, outputs, context.views)
        grouped: dict[str, jax.Array] = {
            group: jnp.zeros((), jnp.float32) for group in self.optimizer.groups.values()
        }
        for group, value in sums.items():
            grouped[self.optimizer.groups[group]] += value
        return grouped, raw, state, metrics

    def split(self, tree: Any) -> Any:
        """Splits arrays `[B,...]` into micro-batches `[accumulate,B/accumulate,...]`.

        Groups stay whole. Neighbours go to different micro-batches, so that each device keeps its
        own examples.
        """
        count, grouped = self.accumulate, self.config["train"]["replica_batch_size"] > 0

        def split_array(array: jax.Array) -> jax.Array:
            group = array.shape[0] // self.groups if grouped else 1
            return rearrange(
                array, "(unit part group) ... -> part (unit group) ...", part=count, group=group
            )

        return jax.tree.map(split_array, tree)

    def transformation(
        self, hparams: Hparams, clock: Clock, moving: Any = None
    ) -> optax.GradientTransformation:
        """Returns the optax chain of a step; `moving` is what `reached.completed` returned."""
        no_decay = {spec.name: spec.term.no_decay for spec in self.term_specs}
        return optim.transformation(
            self.optimizer, hparams, clock.step, clock.epoch, no_decay, moving, self.start_step
        )

    def gradient_norms(
        self, hparams: Hparams, clock: Clock, grads: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        """Returns norms of the combined gradient and of its groups, see `experiment.optim`."""
        return optim.gradient_norms(self.optimizer, hparams, clock.epoch, grads)

    def learning_rate(self, hparams: Hparams, step: jax.Array) -> jax.Array:
        """Returns the learning rate of a step, `f32[]`."""
        return optim.learning_rate(self.optimizer, hparams, step)

    def average(self, hparams: Hparams, state: TrainState) -> dict[str, Any]:
        """Returns the averaged weights after an update, see `experiment.optim.average`."""
        return optim.average(self.optimizer, hparams, state)

    @property
    def sources(self) -> tuple[str, ...]:
        """Frozen networks whose values decide the initial state: others' origins, and teachers."""
        origins = [network.init for network in self.networks.values() if network.init]
        teachers = [
            name for name in terms.teachers_read(self.term_specs)
            if not self.networks[name].trainable
        ]
        return tuple(dict.fromkeys([*origins, *teachers]))

    def init(self, hparams: Hparams, frozen: Mapping[str, Any]) -> TrainState:
        """Returns the state of step 0; `training.state` jits it at top level.

        Args:
          hparams: traced numbers by path; the seed decides.
          frozen: `{network: variables}`, arrays or shapes; values are used only of `sources`.
        """
        seed = hparams["seed"]
        variables = {
            name: networks.start(
                self.networks[name], rng.init_key(seed, "networks/" + name), self.info.size, frozen
            )
            for name in self.trainable
        }
        params = {name: parts["params"] for name, parts in variables.items()}
        network_state = {name: parts["batch_stats"] for name, parts in variables.items()}
        outputs, views_made = self._complete()._shapes(params, network_state, frozen, hparams)
        params["terms"], term_state = terms.init(
            self.term_specs, seed, outputs, views_made, hparams, self.info, frozen
        )
        step = jnp.zeros((), jnp.int32)
        chain = self.transformation(hparams, self.clock(step, hparams))
        ema = {"params": params, "network_state": network_state}
        return TrainState(
            step, params, network_state, term_state, chain.init(params),
            ema if self.optimizer.averages else {},
        )

    def state_shardings(self, mesh: Mesh) -> Any:
        """Returns how the state lies on the devices: a tree of shardings, or one for all arrays."""
        if not any(self.networks[name].shard for name in self.trainable):
            return sharding.replicated(mesh)
        shapes = self.state_shapes()
        cuts = {
            (name, *path): cut
            for name in self.trainable
            for path, cut in weight_cuts.cuts_of(
                mesh, self.networks[name].shard, shapes.params[name]
            ).items()
        }
        return weight_cuts.shardings(mesh, cuts, shapes)

    def state_shapes(self) -> TrainState:
        """Returns shapes and dtypes of the state, without computing anything."""
        return jax.eval_shape(self.init, self.hparams, self._frozen_shapes())

    def _frozen_shapes(self) -> dict[str, Any]:
        return {
            name: networks.variable_shapes(network, self.info.size)
            for name, network in self.networks.items()
            if not network.trainable
        }

    def check_terms(self) -> None:
        """Traces the terms, so that shapes which do not fit are named before training.

        Raises:
          ConfigError: an unknown feature, or shapes that a term refuses.
        """
        state, frozen = self.state_shapes(), self._frozen_shapes()
        complete = self._complete()
        outputs, views_made = complete._shapes(
            state.params, state.network_state, frozen, self.hparams
        )
        jax.eval_shape(
            lambda state, outputs, views_made, hparams: complete.compute_terms(
                state.params["terms"], state.term_state, outputs,
                self.context(views_made, self.clock(state.step, hparams), hparams),
            ),
            state, outputs, views_made, self.hparams,
        )

    def _complete(self) -> Program:
        """Returns this program with all terms, which decide the state of every phase."""
        return dataclasses.replace(self, left_out=frozenset())

    def _shapes(self, params, network_state, frozen, hparams):
        batch = views.batch_shapes(self.made, self.config["data"]["batch_size"], self.info)

        def forward(params, network_state, frozen, hparams, batch):
            clock = self.clock(jnp.zeros((), jnp.int32), hparams)
            variables = self.variables(params, network_state, frozen)
            views_made, given, _ = self.make_views(clock, batch, hparams, variables, {})
            context = self.context(views_made, clock, hparams)
            return self.run_networks(params, network_state, frozen, given, context)[0], views_made

        return jax.eval_shape(forward, params, network_state, frozen, hparams, batch)
