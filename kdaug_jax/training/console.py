"""What a run says of itself on the console."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

import jax
from clu import parameter_overview

from kdaug_jax.evaluation.predictors import Predictor, Selection, main_network
from kdaug_jax.experiment.program import Program
from kdaug_jax.runtime.writer import Writer, table
from kdaug_jax.training.estimate import Estimate, duration
from kdaug_jax.training.intervals import plan_intervals
from kdaug_jax.training.population import Member
from kdaug_jax.training.setup import Setup
from kdaug_jax.types import TrainState

Results = dict[str, dict[str, float]]
# Metrics that have a place of their own on the console.
ALWAYS = ("accuracy", "nll")


class Console:
    """Prints from process 0; rows of progress go through the writer once it is open."""

    _estimate: Estimate

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self.writer: Writer | None = None
        self._step, self._seconds, self._wall = 0, 0.0, time.perf_counter()
        self._first_step = 0

    def say(self, text: str) -> None:
        """Prints a line."""
        if self.writer is not None:
            self.writer.say(text)
        elif jax.process_index() == 0:
            print(text, file=self._stream, flush=True)

    def start(self, setup: Setup, state: TrainState, step: int) -> None:
        """Says what runs, on what, and how large the networks are."""
        first = setup.first
        config = first.config
        splits = ", ".join(f"{len(s.label):,} {use}" for use, s in setup.dataset.splits.items())
        rows = [
            ("data", f"{config['data']['source']}: {splits}; {first.info.num_classes} classes, "
                     f"{first.info.size[0]}×{first.info.size[1]} pixels"),
            ("devices", f"{setup.mesh.size} × {jax.devices()[0].device_kind}, "
                        f"batch {config['data']['batch_size']}, {config['precision']}"),
            ("length", f"{config['train']['epochs']:g} epochs of {first.steps_per_epoch} steps"
                       f" = {first.total_steps:,} steps"),
        ]
        rows += [(f"view {name}", section["ops"] or "(as stored)")
                 for name, section in config["views"].items()]
        for name, one in first.networks.items():
            origin = "trained" if one.trainable else f"frozen, from {one.checkpoint}"
            rows.append((f"network {name}", f"{one.model.name}, {origin}"))
        for spec in first.term_specs:
            weight = float(spec.weight.base)
            rows.append((f"term {spec.name}", f"{weight:g} × {config['terms'][spec.name]['loss']}"
                         f" on {', '.join(spec.views)}"))
        if len(setup.members) > 1:
            rows.append(("population", f"{len(setup.members)} runs through one compiled step"))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * len(setup.members)
        free = shutil.disk_usage(setup.directory).free
        rows.append(("checkpoint", f"{size / 1e6:,.1f} MB each, {free / 1e6:,.0f} MB free"))
        kept = config["checkpoint"]["keep"] + bool(config["checkpoint"]["best"])
        self._estimate = Estimate(plan_intervals(setup.programs), step, size, kept)
        if step == first.total_steps:
            rows.append(("finished", f"before, at step {step:,}"))
        elif step:
            rows.append(("resumed", f"at step {step:,}"))
        width = max(len(name) for name, _ in rows)
        self.say("\n".join(f"{name.ljust(width)}  {text}" for name, text in rows))
        for name in first.trainable:
            self.say(f"parameters of {name} ({first.networks[name].model.name})")
            self.say(parameter_overview.get_parameter_overview(
                state.params[name], include_stats=False
            ))

    def measures(self, step: int) -> bool:
        """Says whether the estimate needs to know when the devices are done with a step."""
        return self._estimate.wants(step)

    def measure(self, step: int, seconds: float) -> None:
        """Prints how long the run is going to take, once that is known and if it takes long.

        Args:
          step: steps taken, which the devices are done with.
          seconds: see `speed`.
        """
        line = self._estimate.measure(step, seconds)
        if line:
            self.say(line)

    def clock(self, step: int, seconds: float) -> None:
        """Starts measuring speed at a step, `seconds` of stepping after the start."""
        self._step = self._first_step = step
        self._seconds, self._wall = seconds, time.perf_counter()

    def speed(self, step: int, seconds: float, examples: int) -> float:
        """Gives images a second since the last call, without compiling and evaluating.

        Args:
          step: steps taken.
          seconds: seconds of stepping and waiting for data since the start of the run.
          examples: images a step, over all members.
        """
        speed = examples * (step - self._step) / max(seconds - self._seconds, 1e-9)
        self._step, self._seconds = step, seconds
        return speed

    def progress(
        self,
        program: Program,
        step: int,
        means: Sequence[Mapping[str, float]],
        perf: Mapping[str, float],
    ) -> None:
        """Prints one line: step, epoch, loss, images a second, time left."""
        done = step - self._first_step
        wall = time.perf_counter() - self._wall
        left = wall / done * (program.total_steps - step) if done else 0.0
        loss = sum(values["train/loss"] for values in means) / len(means)
        self.writer.progress(
            step / program.total_steps,
            f"step {step:,}/{program.total_steps:,}  epoch {step / program.steps_per_epoch:.1f}"
            f"  loss {loss:.4f}  {perf['perf/images_per_second']:,.0f} images/s"
            f"  {duration(left)} left",
        )

    def evaluation(
        self, step: int, members: Sequence[Member], found: Sequence[Mapping[str, float]]
    ) -> None:
        """Prints one line of evaluation, means over the population where there is one."""
        names = sorted(set.intersection(*(set(values) for values in found)))
        means = {name: sum(values[name] for values in found) / len(found) for name in names}
        # Of branches and ensembles the accuracy alone: the line is to be read.
        fronts = {name: name.split("/")[2:-1] for name in names}
        shown = [
            name for name in names
            if name.endswith("/accuracy") or name.endswith("/nll") and not fronts[name]
        ]
        text = "  ".join(f"{name.removeprefix('eval/')} {means[name]:.4f}" for name in shown)
        if len(shown) < len(names):
            text += f"  ({len(names) - len(shown)} more in metrics.jsonl)"
        average = f"  (mean of {len(members)} runs)" if len(members) > 1 else ""
        self.say(f"evaluation at step {step:,}: {text}{average}")

    def results(
        self,
        setup: Setup,
        results: Results,
        teachers: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Prints the table at the end: accuracies, and where everything lies."""
        names = {name: one.model.name for name, one in setup.first.networks.items()}
        self.say(results_table(names, setup.evaluator.predictors, setup.selections, results, teachers))
        more = measures_table(results)
        if more:
            self.say(more)
        self.say(
            f"checkpoints, metrics.jsonl, tensorboard/, config.json, results.json: "
            f"{setup.directory}"
        )


def results_table(
    architectures: Mapping[str, str],
    predictors: Sequence[Predictor],
    selections: Sequence[Selection],
    results: Results,
    teachers: Mapping[str, Mapping[str, float]],
) -> str:
    """Writes final accuracies as a table.

    Args:
      architectures: architecture of each network.
      answers: who was evaluated.
      choices: what was chosen among.
      results: metrics by member.
      teachers: metrics by frozen network.

    Returns:
      Lines of text.
    """
    rows = [("network", "validation accuracy", "test accuracy", "test nll")]

    def row(label: str, name: str, values: Mapping[str, float], member: str = ""):
        middle = f"{name}/" if name else ""
        cells = []
        for split in ("validation", "test"):
            value = values.get(f"eval/{split}/{middle}accuracy")
            cells.append("-" if value is None else f"{100 * value:.2f} %")
        nll = values.get(f"eval/test/{middle}nll")
        return (f"{label} {member}".rstrip(), *cells, "-" if nll is None else f"{nll:.4f}")

    for name, values in teachers.items():
        rows.append(row(f"{name} ({architectures[name]})", name, values))
    for member, values in results.items():
        for one in predictors:
            network = one.members[0][0]
            label = f"{network} ({architectures[network]})"
            if one.term:
                weights = [values.get(f"eval/test/{one.name}/weight_{i}")
                           for i in range(len(one.members))]
                told = [f"{weight:.2f}" for weight in weights if weight is not None]
                label = f"{one.name} of {len(weights)}" + (f" ({' '.join(told)})" if told else "")
            elif "branch_" in one.name:
                label = f"  {network}, BatchNorm branch {one.members[0][1]}"
            rows.append(row(label, one.name, values, member))
        for selection in selections:
            number = int(values[f"eval/validation/{selection.name}/number"])
            option = selection.options[number] or main_network(list(architectures))
            rows.append(row(f"chosen on validation: {option}", selection.name, values, member))
    return table(rows)


def measures_table(results: Results) -> str:
    """Writes final metrics beside accuracy and NLL as a table, "" where there are none."""
    rows = [("metric", "validation", "test")]
    for member, values in results.items():
        names = dict.fromkeys(name.split("/", 2)[2] for name in values)
        for name in names:
            last = name.rpartition("/")[2]
            if last in ALWAYS or last == "number" or last.startswith("weight_"):
                continue
            found = [values.get(f"eval/{split}/{name}") for split in ("validation", "test")]
            cells = ["-" if value is None else f"{value:.4f}" for value in found]
            rows.append((f"{name} {member}".rstrip(), *cells))
    return table(rows) if len(rows) > 1 else ""
