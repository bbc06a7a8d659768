"""`build(config, info)`: everything resolved and planned, so that the step only executes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdaug_jax import rng
from kdaug_jax.errors import ConfigError, near
from kdaug_jax.experiment import networks as network_room
from kdaug_jax.experiment import optim, terms, views
from kdaug_jax.experiment.config import SEED, natural
from kdaug_jax.types import Batch, Clock, Hparams, Info, Outputs, Range, TrainState, View


@dataclasses.dataclass(frozen=True)
class Program:
    """An experiment, or one phase of it, ready to be executed.

    Attributes:
      config: the complete plain config.
      info: facts of the training split.
      steps_per_epoch, total_steps, start_step: steps of the whole run, and where a phase begins.
      groups: into how many groups the batch is split.
      accumulate: into how many micro-batches a step splits the batch, each with whole groups.
      view_plans, branches: the views in order, and the BatchNorm branch of each.
      networks: by name, in order.
      term_plans: the terms in order.
      optimizer: the resolved optimiser.
      hparams, ranges: every traced number and its legal values, by config path.
      overridden: config paths that this phase or an earlier one has set.
    """

    config: dict[str, Any]
    info: Info
    steps_per_epoch: int
    total_steps: int
    start_step: int
    groups: int
    accumulate: int
    view_plans: tuple[views.Plan, ...]
    branches: dict[str, int]
    networks: dict[str, network_room.Network]
    term_plans: tuple[terms.Plan, ...]
    optimizer: optim.Optimizer
    hparams: dict[str, np.ndarray]
    ranges: dict[str, Range]
    overridden: frozenset[str] = frozenset()

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the trained networks."""
        return tuple(name for name, one in self.networks.items() if one.trainable)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms, in the order of the step's raw values."""
        return tuple(plan.name for plan in self.term_plans)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (network, view) pairs that the terms need."""
        return terms.pairs(self.term_plans)

    def clock(self, step: jax.Array, hparams: Hparams) -> Clock:
        """Gives the position in the run at a step."""
        return Clock(hparams["seed"], step // self.steps_per_epoch, step)

    def make_views(self, clock: Clock, batch: Batch, hparams: Hparams) -> dict[str, View]:
        """Makes all views of a batch."""
        return views.make(self.view_plans, clock, batch, hparams, self.info, self.groups)

    def run_networks(
        self,
        params: Mapping[str, Any],
        network_state: Mapping[str, Any],
        frozen: Mapping[str, Any],
        made: Mapping[str, View],
        clock: Clock,
        given: Mapping[str, Outputs],
    ) -> tuple[dict[str, Outputs], dict[str, Any]]:
        """Runs every needed pair that is not given; returns outputs and new running statistics."""
        variables = {
            name: {"params": params[name], "batch_stats": network_state[name]}
            if one.trainable
            else frozen[name]
            for name, one in self.networks.items()
        }
        return network_room.run(
            self.networks, self.pairs, variables, made, self.branches, clock, given
        )

    def compute_terms(self, params, state, outputs, made, clock, hparams):
        """Computes all terms, see `experiment.terms.apply`; sums are by the optimiser's groups."""
        sums, raw, state, metrics = terms.apply(
            self.term_plans, params, state, outputs, made, clock, hparams, self.info,
            max(self.groups // self.accumulate, 1),
        )
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
        unit = self.config["train"]["group_size"] or 1
        count = self.accumulate

        def one(array: jax.Array) -> jax.Array:
            parts = array.reshape(-1, count, unit, *array.shape[1:])
            return jnp.moveaxis(parts, 1, 0).reshape(count, -1, *array.shape[1:])

        return jax.tree.map(one, tree)

    def transformation(self, hparams: Hparams, clock: Clock) -> optax.GradientTransformation:
        """Makes the optax chain of a step."""
        no_decay = {plan.name: plan.term.no_decay for plan in self.term_plans}
        return optim.transformation(self.optimizer, hparams, clock.step, clock.epoch, no_decay)

    def learning_rate(self, hparams: Hparams, step: jax.Array) -> jax.Array:
        """Gives the learning rate of a step, `f32[]`."""
        return optim.learning_rate(self.optimizer, hparams, step)

    def average(self, hparams: Hparams, state: TrainState) -> dict[str, Any]:
        """Gives the averaged weights after an update, see `experiment.optim.average`."""
        return optim.average(self.optimizer, hparams, state)

    def init(self, hparams: Hparams, frozen: Mapping[str, Any]) -> TrainState:
        """Makes the state of step 0; to be jitted at top level by `training.state`.

        Args:
          hparams: traced numbers by path; the seed decides.
          frozen: `{network: variables}`, arrays or shapes; only shapes are used.
        """
        seed = hparams["seed"]
        made = {
            name: self.networks[name].model.init(
                rng.init_key(seed, "networks/" + name), self.info.size
            )
            for name in self.trainable
        }
        params = {name: variables["params"] for name, variables in made.items()}
        network_state = {name: variables["batch_stats"] for name, variables in made.items()}
        outputs, views_made = self._shapes(params, network_state, frozen, hparams)
        params["terms"], term_state = terms.init(
            self.term_plans, seed, outputs, views_made, hparams, self.info
        )
        step = jnp.zeros((), jnp.int32)
        chain = self.transformation(hparams, self.clock(step, hparams))
        ema = {"params": params, "network_state": network_state}
        return TrainState(
            step, params, network_state, term_state, chain.init(params),
            ema if self.optimizer.averages else {},
        )

    def state_shapes(self) -> TrainState:
        """Gives shapes and dtypes of the state, without computing anything."""
        frozen = self._frozen_shapes()
        return jax.eval_shape(lambda hparams: self.init(hparams, frozen), self.hparams)

    def _frozen_shapes(self) -> dict[str, Any]:
        return {
            name: jax.eval_shape(lambda key, one=one: one.model.init(key, self.info.size),
                                 jax.random.key(0))
            for name, one in self.networks.items()
            if not one.trainable
        }

    def check_terms(self) -> None:
        """Traces the terms, without computing anything.

        Raises:
          ConfigError: an unknown tap, or shapes that a term refuses.
        """
        state, frozen = self.state_shapes(), self._frozen_shapes()
        outputs, made = self._shapes(state.params, state.network_state, frozen, self.hparams)
        jax.eval_shape(
            lambda state, outputs, made, hparams: self.compute_terms(
                state.params["terms"], state.term_state, outputs, made,
                self.clock(state.step, hparams), hparams,
            ),
            state, outputs, made, self.hparams,
        )

    def _shapes(self, params, network_state, frozen, hparams):
        size = self.config["data"]["batch_size"]
        channels = len(self.info.mean)
        batch = Batch(
            jax.ShapeDtypeStruct((size, *self.info.size, channels), jnp.uint8),
            *(jax.ShapeDtypeStruct((size,), kind) for kind in (jnp.int32, jnp.int32, jnp.bool_)),
        )

        def forward(params, network_state, frozen, hparams, batch):
            clock = self.clock(jnp.zeros((), jnp.int32), hparams)
            made = self.make_views(clock, batch, hparams)
            return self.run_networks(params, network_state, frozen, made, clock, {})[0], made

        return jax.eval_shape(forward, params, network_state, frozen, hparams, batch)


def build_phase(full: dict[str, Any], info: Info, start_step: int) -> Program:
    """Resolves one phase of an experiment.

    Args:
      full: the complete plain config of the phase.
      info: facts of the training split.
      start_step: where the phase begins.

    Returns:
      Its program.

    Raises:
      ConfigError: whatever does not fit, named by its config path.
    """
    size, batch_size = len(info.labels), full["data"]["batch_size"]
    if batch_size > size:
        raise ConfigError(
            "data.batch_size", f"{batch_size} is more than the {size} training examples",
            f"at most {size}",
        )
    steps_per_epoch = size // batch_size
    total_steps = max(round(full["train"]["epochs"] * steps_per_epoch), 1)
    if total_steps > np.iinfo(np.int32).max:
        raise ConfigError(
            "train.epochs", f"are {total_steps:,} steps", f"at most {np.iinfo(np.int32).max:,}"
        )
    group_size = full["train"]["group_size"]
    plans = natural(full["views"])
    view_plans = views.parse_all(
        {name: full["views"][name]["ops"] for name in plans}, info,
        max(math.ceil(full["train"]["epochs"]), 1),
    )
    branches = {name: full["views"][name]["branch"] for name in plans}
    names = natural(full["networks"])
    term_plans = tuple(
        terms.build(
            name, full["terms"][name], list(plans), names, steps_per_epoch, total_steps, info
        )
        for name in natural(full["terms"])
    )
    needed = terms.pairs(term_plans)
    networks = {}
    for name in names:
        used = [branches[view] for network, view in needed if network == name]
        if not used:
            raise ConfigError(f"networks.{name}", "no term uses it", "remove it or add a term")
        if full["networks"][name]["trainable"] and 0 not in used:
            raise ConfigError(
                f"networks.{name}", "no view of it uses BatchNorm branch 0, which is evaluated",
                "number branches from 0",
            )
        networks[name] = network_room.build(
            name, full["networks"][name], info, 1 + max(used), group_size, full["precision"]
        )
    for plan in term_plans:
        for network in {pair.split("@")[0] for pair in plan.student}:
            if not networks[network].trainable:
                raise ConfigError(
                    f"terms.{plan.name}.student", f"'{network}' is frozen",
                    near("", [name for name, one in networks.items() if one.trainable]),
                )
        _check_group(plan, full)
    optimizer = optim.build(full["optim"], steps_per_epoch, total_steps, info)
    hparams: dict[str, np.ndarray] = {"seed": np.asarray(full["seed"], np.uint32)}
    ranges: dict[str, Range] = {"seed": SEED}
    for values, legal in (
        views.hparams(view_plans), terms.hparams(term_plans),
        (optimizer.hparams, optimizer.ranges),
    ):
        hparams |= values
        ranges |= legal
    # What every later reader needs to build the networks again without the data.
    resolved = {**full, "networks": {
        name: {**full["networks"][name], "mean": one.facts["mean"], "std": one.facts["std"]}
        for name, one in networks.items()
    }}
    program = Program(
        config=resolved,
        info=info,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        start_step=start_step,
        groups=batch_size // group_size if group_size else 1,
        accumulate=full["train"]["accumulate"],
        view_plans=view_plans,
        branches=branches,
        networks=networks,
        term_plans=term_plans,
        optimizer=optimizer,
        hparams=hparams,
        ranges=ranges,
    )
    if not all(plan.term.plain for plan in term_plans):
        program.check_terms()
    return program


def _check_group(plan: terms.Plan, full: Mapping[str, Any]) -> None:
    """Refuses groups that are too small for a loss that compares examples."""
    group = full["train"]["group_size"]
    size = group or full["data"]["batch_size"] // full["train"]["accumulate"]
    if size < plan.term.least:
        path = "train.group_size" if group else "data.batch_size"
        raise ConfigError(
            f"terms.{plan.name}", f"'{full['terms'][plan.name]['loss']}' compares examples and "
            f"{path} gives it groups of {size}", f"it needs at least {plan.term.least}",
        )
