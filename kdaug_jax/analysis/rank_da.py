"""Ranks augmentations for distillation by the teacher alone: T. stddev, the lower the better.

    python -m kdaug_jax.analysis.rank_da runs/digits_kd/teacher "" "flip" "pad_crop(4)|cutmix(1.0)"

WORKDIR is the working directory of a run that trained the teacher; the views, written as in a
config, are made of the training images of that run. A view's T. stddev is the standard deviation of
the teacher's mean prediction between samples of views (Wang et al. 2022). A policy that depends on
the epoch goes through that run's epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import data, metrics, registry
from kdaug_jax.data.contents import split_digest
from kdaug_jax.data.recorded import data_changes, refuse_changes
from kdaug_jax.errors import ConfigError, UserError, suggest
from kdaug_jax.evaluation.data_sets import read_options
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment import networks, views
from kdaug_jax.experiment.fields import defaults
from kdaug_jax.experiment.frozen.stored import load
from kdaug_jax.runtime import commands, compile_cache, records, sharding, workdir
from kdaug_jax.runtime.console import table, write_lines
from kdaug_jax.types import Clock, Info

# Numbers above are slips of the pen.
MOST = 1_000_000
TEACHER = "teacher"


class Ranked(NamedTuple):
    """The teacher's predictions on one view.

    Attributes:
      text: the view.
      stddev: T. stddev.
      error: its standard error, by the jackknife over samples of views.
      agreement: share of views on which the teacher predicts the likeliest class of the label.
      classes: mean effective number of classes of a prediction.
    """

    text: str
    stddev: float
    error: float
    agreement: float
    classes: float


def measure(
    text: str,
    teacher: networks.Network,
    variables: Any,
    split: data.Split,
    info: Info,
    *,
    epochs: float = 10.0,
    batch_size: int = 64,
    group: int = metrics.GROUP,
    seed: int = 0,
    run_epochs: int = 1,
) -> Ranked:
    """Measures the predictions of a teacher on views of a training split.

    Args:
      text: the view, as in a config.
      teacher: the network.
      variables: its variables.
      split: the training split.
      info: facts of it.
      epochs: number of views of each image.
      batch_size: examples a batch; views that mix examples depend on it.
      group: views in a sample.
      seed: seed of views and order.
      run_epochs: length of a run, over whose epochs the views are spread, for policies that depend
        on the epoch; where there are more views of an image, there are as many epochs.

    Returns:
      T. stddev and what is reported beside it.

    Raises:
      ConfigError: the view does not fit, needs a student, or results in less than two samples.
    """
    passes = max(int(np.ceil(epochs)), 1)
    length = max(run_epochs, passes)
    spec = _view_spec(text, info, length)
    batch_size = min(batch_size, len(split))
    per_epoch, rows = len(split) // batch_size, views.rows_after(spec.rows, batch_size)
    steps = round(epochs * per_epoch)
    groups = steps * rows // group
    if groups < 2:
        raise ConfigError(
            "--epochs", f"{steps * rows} views of '{text}' are {groups} samples of {group}",
            "2 are needed: give more --epochs or a smaller --group",
        )
    def epoch_of(step: int) -> int:
        return step // per_epoch * length // passes

    cutter = views.cutter((spec,))
    crops = None
    if cutter.leading:
        cutter.check(split.sizes, "data.train")
        crops = data.HostCrops(
            lambda step, index, sizes: cutter.crops(seed, epoch_of(step), index, sizes),
            cutter.stored, (0,), lambda drawn, member: drawn,
        )
    feed = data.make_feed(split, seed, batch_size, device_bytes=2 * 10**9, workers=-1, crops=crops)
    sum_batch = _make_sums(spec, feed.batch, teacher, info, groups, group)
    total = None
    with contextlib.closing(feed):
        for step in range(-(-groups * group // rows)):
            batch_sums = sum_batch(
                variables, feed.constants, feed.item(step),
                Clock(np.uint32(seed), np.int32(epoch_of(step)), np.int32(step)),
            )
            total = batch_sums if total is None else metrics.merge(total, batch_sums)
    sums, agreement, classes = jax.device_get(total)
    others = [np.delete(sums, number, axis=0) for number in range(groups)] if groups > 2 else []
    jackknife = [metrics.t_stddev(part, group) for part in others]
    variance = np.var(jackknife) * (groups - 1) if jackknife else np.nan
    return Ranked(
        text, metrics.t_stddev(sums, group), float(np.sqrt(variance)),
        float(metrics.mean(agreement)), float(metrics.mean(classes)),
    )


def _view_spec(text: str, info: Info, epochs: int) -> views.ViewSpec:
    spec = views.parse("view", text, info, epochs=epochs)
    if spec.source is not None:
        raise ConfigError("VIEW", f"'{text}' starts from another view", "write its stages out")
    calls = tuple(
        call._replace(bound=call.bound._replace(static={**call.bound.static, "ratio": False}))
        if call.stage.form == "pick" else call for call in spec.calls
    )
    spec = spec._replace(calls=calls)
    for _, call in views.picks((spec,)):
        if views.networks_of(call) != (TEACHER,):
            raise ConfigError(
                "VIEW", f"'{text}' picks by a student", 'pick("teacher_entropy") needs none'
            )
    return spec


def _make_sums(
    spec: views.ViewSpec, batch: Callable[..., Any], teacher: networks.Network, info: Info,
    groups: int, group: int,
) -> Callable[..., Any]:
    """Returns the jitted function of one batch: sums by group, agreement, effective classes."""
    hparams, _ = views.hparams((spec,))

    @jax.jit
    def sum_batch(variables, constants, item, clock: Clock):
        scorer = views.Scorer({TEACHER: teacher}, {TEACHER: variables}, {spec.name: 0}, clock)
        examples = batch(constants, item)
        made = views.make_all((spec,), clock, examples, hparams, info, 1, scorer)
        view = made.views[spec.name]
        logits = teacher.model.apply(variables, view.image, train=False)[0].logits
        first = clock.step * view.mask.shape[0]
        likeliest = jnp.argmax(view.target, axis=-1)
        return (
            metrics.group_sums(jax.nn.softmax(logits), first, view.mask, groups, group),
            metrics.accuracy(logits, likeliest, view.mask),
            metrics.effective_classes(logits, view.mask),
        )

    return sum_batch


def rank(options: argparse.Namespace, say: Callable[[str], None]) -> list[Ranked]:
    """Measures all views of a command line, best first."""
    directory = workdir.place("WORKDIR", options.workdir)
    stored = records.read_record(directory)
    if stored is None:
        raise ConfigError("WORKDIR", f"{options.workdir} holds no run", "name a trained run")
    section = stored["config"]["data"]
    reading = read_options({**defaults("data"), **section}, say)
    dataset = data.load(section["source"], {"train": section["train"]}, reading)
    split = dataset.splits["train"]
    recognised = {"examples": len(split), "digest": split_digest(split)}
    now = {"class_names": list(dataset.class_names), "splits": {"train": recognised}, "sets": {},
           "files": {}}
    refuse_changes(section["source"], data_changes(stored, now), "or train again")
    info = views.with_crops(
        data.describe(dataset), {text: text for text in options.view}, "auto"
    )
    member = _member(stored["members"], options.member)
    checkpoint = f"{directory}@{member}" if member else str(directory)
    frozen = {"name": "", "checkpoint": checkpoint, "source": options.network}
    teacher = networks.build_network(TEACHER, configs.network(**frozen), info, 1, 0, "float32")
    variables = load("WORKDIR", teacher, info, say)
    variables = sharding.put_whole(sharding.make_mesh(1, options.batch), variables)
    for text in options.view:
        _view_spec(text, info, 1)  # refuse a view before the first is measured
    if len(split) < 4 * options.group:
        say(f"warning: {len(split):,} images are few for samples of {options.group} views: each "
            "sample repeats the same images, so that weak augmentations rank too high")
    ranked = []
    for text in dict.fromkeys(options.view):
        ranked.append(measure(
            text, teacher, variables, split, info, epochs=options.epochs, batch_size=options.batch,
            group=options.group, seed=options.seed,
            run_epochs=int(np.ceil(stored["config"]["train"]["epochs"])),
        ))
        say(f"{ranked[-1].stddev:.6f}  {text or '(as stored)'}")
    return sorted(ranked, key=lambda view: view.stddev)


def _member(names: Sequence[str], name: str | None) -> str:
    """Returns the name of a member of the teacher's run, "" for a plain run.

    Raises:
      ConfigError: there is no such member, or there are several and none is named.
    """
    if name is None and len(names) > 1:
        raise ConfigError(
            "--member", f"is missing, and the run has {len(names)} members",
            f"--member='{names[0]}' or another: " + "; ".join(names[1:6]),
        )
    if name is not None and name not in names:
        raise ConfigError("--member", f"the run has no member '{name}'", suggest(name, names))
    return names[0] if name is None else name


def report(ranked: Sequence[Ranked]) -> str:
    """Returns ranked views as a table."""
    rows = [("view, best first", "T. stddev", "± error", "accuracy", "effective classes")]
    rows += [
        (view.text or "(as stored)", f"{view.stddev:.6f}", f"{view.error:.6f}",
         f"{100 * view.agreement:.1f} %", f"{view.classes:.2f}")
        for view in ranked
    ]
    return table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = commands.Parser(
        prog="rank_da", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="of the teacher's run")
    parser.add_argument("view", nargs="+", metavar="VIEW", help='as in a config; "" for none')
    parser.add_argument("--network", default="", help="which network of that run, if several")
    parser.add_argument("--member", help="name of a run of a population, as in results.json")
    parser.add_argument("--allow_imports", action="store_true",
                        help="import modules that the record of the run names")
    parser.add_argument("--epochs", type=float, default=10.0, help="number of views of each image")
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--group", type=int, default=metrics.GROUP, help="views in a sample")
    parser.add_argument("--seed", type=int, default=0, help="seed of views and order")
    options = parser.parse_args(argv)
    small = min(options.epochs, options.batch, options.group) <= 0 or options.seed < 0
    large = options.epochs > MOST or max(options.batch, options.group) > MOST
    if small or large or not np.isfinite(options.epochs) or options.seed >= 2**32:
        parser.error(f"--epochs, --batch and --group must be more than 0 and at most {MOST:,}, "
                     "--seed at least 0 and below 2^32")
    compile_cache.use()
    try:
        with registry.importing(options.allow_imports, "\n".join(options.view)):
            ranked = rank(options, lambda line: write_lines(line, stream=sys.stderr))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_lines(*report(ranked).split("\n"))
    return 0


if __name__ == "__main__":
    commands.run(main)
