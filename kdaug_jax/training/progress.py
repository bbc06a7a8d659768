"""Console lines of a training run: what is trained, progress, evaluations, results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence

import jax
from clu import parameter_overview

from kdaug_jax.evaluation.run import Results
from kdaug_jax.evaluation.tables import results_tables
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime import records, weight_cuts
from kdaug_jax.runtime.console import Console
from kdaug_jax.training.estimate import Estimate, duration
from kdaug_jax.training.setup import Setup, data_line
from kdaug_jax.types import TrainState

# Numbers on the line of an evaluation; fifteen corruptions of five severities have 150.
MOST_SHOWN = 12


def places(programs: Sequence[Program]) -> list[tuple[str, str]]:
    """Returns where views are made that the host has a part in, and from which epoch on.

    Args:
      programs: one a phase.

    Returns:
      Views and texts such as "flip on the host, mixup(0.2) on the devices"; those of later phases
      where they differ from the phase before.
    """
    rows, before = [], {}
    for program in programs:
        epoch = program.start_step / program.steps_per_epoch
        since = f", from epoch {epoch:g}" if program.start_step else ""
        for view in {**before, **program.places}:
            text = program.places.get(view, "all on the devices")
            if text != before.get(view):
                rows.append((view, text + since))
        before = program.places
    return rows


class Progress:
    """Prints what a training run does, and measures its speed."""

    _estimate: Estimate

    def __init__(self, console: Console):
        self._console, self.say = console, console.say
        self._step, self._seconds, self._wall = 0, 0.0, time.perf_counter()
        self._first_step = 0

    def start(self, setup: Setup, state: TrainState, step: int) -> None:
        """Prints what is trained, on which devices, and the parameters of the networks."""
        first = setup.first
        config = first.config
        rows = [
            ("data", data_line(setup)),
            ("devices", f"{setup.mesh.size} × {jax.devices()[0].device_kind}, "
                        f"batch {config['data']['batch_size']}, {config['precision']}"),
            ("length", f"{config['train']['epochs']:g} epochs of {first.steps_per_epoch} steps"
                       f" = {first.total_steps:,} steps"),
        ]
        sent = setup.feed.item_bytes
        if sent:
            per_call = setup.intervals.per_call
            rows.append(("batches", f"{sent / 1e6:,.1f} MB a step sent to the devices, "
                         f"{per_call:,} step{'s' * (per_call > 1)} a call"))
        if groups := configs.batch_norm_groups(config):
            rows.append(
                ("BatchNorm", f"over {groups['images']:,} images, recipe {groups['recipe']:,}")
            )
        rows += [(f"view {name}", section["ops"] or "(as stored)")
                 for name, section in config["views"].items()]
        rows += [(f"place {view}", text) for view, text in places(setup.programs)]
        for name, network in first.networks.items():
            origin = "trained" if network.trainable else f"frozen, from {network.checkpoint}"
            weights = state.params[name] if network.trainable else setup.frozen[name]
            cut = weight_cuts.describe(setup.mesh, network.shard, weights)
            text = ", ".join(filter(None, (network.model.name, origin, cut)))
            rows.append((f"network {name}", text))
        for spec in first.term_specs:
            weight = float(spec.weight.base)
            left_out = ", left out" if spec.name in first.left_out else ""
            rows.append((f"term {spec.name}", f"{weight:g} × {config['terms'][spec.name]['loss']}"
                         f" on {', '.join(spec.views)}{left_out}"))
        if len(setup.members) > 1:
            rows.append(("population", f"{len(setup.members)} runs through one compiled step"))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * len(setup.members)
        free = shutil.disk_usage(setup.directory).free
        rows.append(("checkpoint", f"{size / 1e6:,.1f} MB each, {free / 1e6:,.0f} MB free"))
        kept = config["checkpoint"]["keep"] + bool(config["checkpoint"]["best"])
        self._estimate = Estimate(setup.intervals, step, size, kept)
        if step == first.total_steps:
            rows.append(("finished", f"before, at step {step:,}"))
        elif step:
            rows.append(("resumed", f"at step {step:,}"))
            if line := records.environment_change(setup.directory):
                self.say(line)
        width = max(len(name) for name, _ in rows)
        self.say(*(f"{name.ljust(width)}  {text}" for name, text in rows))
        for name in first.trainable:
            self.say(f"parameters of {name} ({first.networks[name].model.name})")
            overview = parameter_overview.get_parameter_overview(
                state.params[name], include_stats=False
            )
            self.say(*overview.split("\n"))

    def needs_time(self, step: int) -> bool:
        """Returns whether `estimate` is to be called once the devices are done with a step."""
        return self._estimate.due(step)

    def estimate(self, step: int, seconds: float) -> None:
        """Prints how long the run will take, once that is known and if it takes long.

        Args:
          step: steps taken, which the devices are done with.
          seconds: see `speed`.
        """
        line = self._estimate.measure(step, seconds)
        if line:
            self.say(line)

    def start_clock(self, step: int, seconds: float) -> None:
        """Starts measuring speed at a step, `seconds` of stepping after the start."""
        self._step = self._first_step = step
        self._seconds, self._wall = seconds, time.perf_counter()

    def speed(self, step: int, seconds: float, examples: int) -> float:
        """Returns images per second since the last call, without compiling and evaluating.

        Args:
          step: steps taken.
          seconds: seconds of stepping and waiting for data since the start of the run.
          examples: images per step, over all members.
        """
        speed = examples * (step - self._step) / max(seconds - self._seconds, 1e-9)
        self._step, self._seconds = step, seconds
        return speed

    def log(
        self,
        program: Program,
        step: int,
        means: Sequence[Mapping[str, float]],
        perf: Mapping[str, float],
    ) -> None:
        """Prints one line: step, epoch, loss, images per second, remaining time."""
        done = step - self._first_step
        wall = time.perf_counter() - self._wall
        remaining = wall / done * (program.total_steps - step) if done else 0.0
        loss = sum(values["train/loss"] for values in means) / len(means)
        self._console.progress(
            step / program.total_steps,
            f"step {step:,}/{program.total_steps:,}  epoch {step / program.steps_per_epoch:.1f}"
            f"  loss {loss:.4f}  {perf['perf/images_per_second']:,.0f} images/s"
            f"  {duration(remaining)} left",
        )

    def evaluation(self, step: int, numbers: Sequence[Mapping[str, float]]) -> None:
        """Prints one line of evaluation, means over the population where there is one."""
        names = sorted(set.intersection(*map(set, numbers)))
        means = {name: sum(values[name] for values in numbers) / len(numbers) for name in names}
        # Of branches and ensembles the accuracy alone, to keep the line short.
        fronts = {name: name.split("/")[2:-1] for name in names}
        shown = [
            name for name in names
            if name.endswith("/accuracy") or name.endswith("/nll") and not fronts[name]
        ]
        shown = shown[:MOST_SHOWN]
        text = "  ".join(f"{name.removeprefix('eval/')} {means[name]:.4f}" for name in shown)
        if len(shown) < len(names):
            text += f"  ({len(names) - len(shown)} more in metrics.jsonl)"
        average = f"  (mean of {len(numbers)} runs)" if len(numbers) > 1 else ""
        self.say(f"evaluation at step {step:,}: {text}{average}")

    def results(
        self, setup: Setup, results: Results, teachers: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Prints the tables of final results, and where the files of the run are."""
        for table in results_tables(setup.evaluators[-1], results, teachers):
            self.say(*table.split("\n"))
        self.say(
            f"checkpoints, metrics.jsonl, tensorboard/, config.json, results.json: "
            f"{setup.directory}"
        )
