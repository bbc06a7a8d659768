"""`--mode=preview`: draws the views of each phase's first batch, with labels and predictions."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from kdaug_jax import rng
from kdaug_jax.analysis.pictures import image_grid
from kdaug_jax.errors import printable
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks
from kdaug_jax.experiment import views as view_room
from kdaug_jax.runtime import manifest, mark, records, sharding, workdir
from kdaug_jax.runtime.console import Console
from kdaug_jax.training.plan import WORKDIR, teacher_label
from kdaug_jax.training.setup import Setup, data_line, prepare

EXAMPLES = 8
# Rows of the picture; a large population has more views than anybody looks at.
MOST_ROWS = 40


def preview(
    config: Mapping[str, Any], directory: str | Path, *, stream: TextIO | None = None
) -> Path:
    """Writes `preview.png` into the working directory, and the mark of a run where there is none.

    Args:
      config: a ConfigDict or nested dicts; predictions of teachers that are not trained yet
        are left out.
      directory: the working directory.
      stream: console, by default standard output.

    Returns:
      The file: one row a view, one column an example of the first step of its phase; below each
      image its label and, for each frozen network that is run on the view, the two likeliest
      classes. A view has a row for each phase that changes it, and for all members whose numbers
      of it are the same.

    Raises:
      UserError: the config or the data do not fit.
    """
    console = Console(stream)
    with mark.made(directory) as directory:
        return _drawn(configs.validate(config), directory, console)


def _drawn(full: dict[str, Any], directory: Path, console: Console) -> Path:
    for name, section in full["networks"].items():
        if not section["trainable"] and not section["checkpoint"]:
            if manifest.steps(directory / name / "checkpoints"):
                section["checkpoint"] = WORKDIR + name
            else:
                console.say(
                    f"{teacher_label(name)} is not trained yet: its predictions are left out, and"
                    " views that it selects are selected with initial weights"
                )
    setup = prepare(
        full, directory, console.say, record=False, untrained=True, progress=console.progress
    )
    console.say(data_line(setup))
    names = setup.dataset.class_names
    titles, images, captions, rows = [], [], [], distinct_views(setup)
    if len(rows) > MOST_ROWS:
        console.say(f"{len(rows) - MOST_ROWS} further views of phases and members are left out")
    with contextlib.closing(setup.feed):
        for (phase, member), shown in itertools.groupby(rows[:MOST_ROWS], lambda row: row[:2]):
            views, predictions = first_batch(setup, phase, member)
            for _, _, view, title in shown:
                made, texts = views[view], []
                for row in range(min(EXAMPLES, len(made.label))):
                    lines = ["label " + _likeliest(made.target[row], names)]
                    lines += [
                        f"{network} " + _likeliest(probabilities[row], names)
                        for (network, on), probabilities in predictions.items() if on == view
                    ]
                    texts.append("\n".join(lines))
                titles.append(title)
                images.append(made.image[: len(texts)])
                captions.append(texts)
    path = directory / "preview.png"
    if records.read_record(directory) is None:
        mark.claim(directory, console.say)
    if jax.process_index() == 0:
        with workdir.writing(directory):
            image_grid(path, titles, images, captions)
    console.say(f"views of the first step: {path}")
    return path


def distinct_views(setup: Setup) -> list[tuple[int, int, str, str]]:
    """Lists the views of all phases and members, each once.

    Args:
      setup: the run.

    Returns:
      (phase, member, view, title); the member is the first of those with the view's numbers.
    """
    rows, known = [], set()
    for phase, program in enumerate(setup.programs):
        made = view_room.views_to_make(program.view_specs, program.pairs)
        for member, numbers in enumerate(setup.numbers[phase]):
            chains: dict[str | None, tuple[Any, ...]] = {None: ()}
            for spec in made:
                ops = program.config["views"][spec.name]["ops"]
                paths, _ = view_room.hparams((spec,))
                values = tuple(numbers[path].tobytes() for path in paths)
                chains[spec.name] = (*chains[spec.source], (spec.name, ops, values))
                if chains[spec.name] in known:
                    continue
                known.add(chains[spec.name])
                title = f"{spec.name}: {ops or 'as stored'}"
                fronts = tuple(f"views.{name}." for name, _, _ in chains[spec.name])
                swept = [
                    f"{path}={value}" for path, value in setup.members[member].overrides.items()
                    if path.startswith(fronts) and path in numbers
                ]
                title += f"  [{', '.join(swept)}]" if swept else ""
                if program.start_step:
                    title += f"  from epoch {program.start_step / program.steps_per_epoch:g}"
                rows.append((phase, member, spec.name, title))
    return rows


def first_batch(
    setup: Setup, phase: int, member: int
) -> tuple[dict[str, Any], dict[tuple[str, str], np.ndarray]]:
    """Makes the views of the first step of a phase and runs the frozen networks on them.

    Args:
      setup: the run.
      phase: its number.
      member: its number.

    Returns:
      `{view: View}` of NumPy arrays, and `{(network, view): f32[B,C]}` probabilities.
    """
    program = setup.programs[phase]
    start = program.start_step
    frozen = {name: program.networks[name] for name in setup.frozen}
    pairs = [pair for pair in program.pairs if pair[0] in frozen]
    selecting = {
        name for _, call in view_room.picks(program.view_specs)
        for name in view_room.networks_of(call)
        if name in program.networks
    }

    def look(constants, item, variables, hparams):
        clock = program.clock(np.asarray(start, np.int32), hparams)
        initial = {
            name: program.networks[name].model.init(
                rng.init_key(hparams["seed"], "networks/" + name), program.info.size
            )
            for name in selecting - set(variables)
        }
        made, given, _ = program.make_views(
            clock, setup.feed.batch(constants, item), hparams, {**initial, **variables}, {}
        )
        outputs, _ = networks.run(
            frozen, pairs, variables,
            {pair: known for pair, known in given.items() if pair.split("@")[0] in frozen},
            program.context(made, clock, hparams),
        )
        return made, {pair: jax.nn.softmax(output.logits) for pair, output in outputs.items()}

    item = sharding.put_batch(setup.mesh, setup.feed.select(setup.feed.item(start), member))
    made, predictions = jax.device_get(
        jax.jit(
            sharding.within(setup.mesh, look), out_shardings=sharding.replicated(setup.mesh)
        )(
            setup.feed.constants, item, setup.frozen, setup.hparams[phase][member]
        )
    )
    return made, {tuple(pair.split("@")): rows for pair, rows in predictions.items()}


def _likeliest(probabilities: np.ndarray, names: Sequence[str]) -> str:
    order = np.argsort(-probabilities, kind="stable")[:2]
    shown = [f"{printable(names[number])} {probabilities[number]:.2f}" for number in order
             if probabilities[number] >= 0.005]
    return ", ".join(shown) if probabilities[order[0]] < 1.0 else printable(names[order[0]])
