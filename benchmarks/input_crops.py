"""What cropping costs while images are decoded; run by `input.py`, see there."""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import numpy as np
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.stream import AHEAD, BatchPlan, CropPlan, Stream, cores
from kdaug_jax.images import batches, crops, memory, threefry

COUNT, WIDTH, HEIGHT, QUALITY = 256, 500, 375, 95
SPLITS = {"train": "train"}
RESNET = {"size": 224, "method": "bilinear", "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
STAGES = {
    "ResNet-50": [crops.Crop("random_resized_crop", RESNET)],
    "B0": [crops.Crop("inception_crop", {"size": 224})],
    "B7": [crops.Crop("inception_crop", {"size": 600})],
}
# First side, second side, and the most CPU-seconds that the first should take of the second's.
TARGETS = {
    "crop": ("one thread", "bare Pillow", 1 / 0.95),
    "crop by threads": ("threads", "bare Pillow", 1 / 0.9),
    "crop by processes": ("processes", "bare Pillow", 1 / 0.9),
    "crop and decoding": ("one thread", "decoding", None),
    "two crops": ("one decode, two crops", "two decodes", 1 / 1.3),
    "inception_crop(224)": ("cut for B0", "bicubic 224", 2.0),
    "inception_crop(600)": ("cut for B7", "bicubic 600", 2.0),
    "copying": ("copying", "one thread", None),
}
Plan = Callable[[int], BatchPlan]
Run = Callable[[int], None]


def plan_of(split: data.Split, batch: int, views: dict[str, list[crops.Crop]]) -> Plan:
    """Returns the plan of batches in the order of epochs, with a crop drawn for each view."""

    def plan(number: int) -> BatchPlan:
        epoch, place = divmod(number, len(split) // batch)
        rows = data.indices(0, epoch, len(split))[place * batch :][:batch]
        outputs = {}
        for view, leading in views.items():
            keys = threefry.example_keys(0, f"view/{view}", epoch, split.index[rows])
            words = crops.words_of(leading, functools.partial(stage_keys, leading, keys))
            steps = crops.plan(leading, words, split.sizes[rows])
            size, dtype = crops.output(leading)
            outputs[view] = CropPlan(1, crops.methods(leading), size, dtype), steps[:, None]
        return BatchPlan(rows, False, outputs)

    return plan


def stage_keys(leading: Sequence[crops.Crop], keys: np.ndarray, stage: int) -> np.ndarray:
    """Returns the keys that a stage of a view draws with."""
    return threefry.fold(keys, leading[stage].kind)


def filling(split: data.Split, *plans: Plan) -> Run:
    """Draws, reads and cuts in one thread; each plan decodes the images anew."""
    number = 0

    def run(steps: int) -> None:
        nonlocal number
        for _ in range(steps):
            for plan in plans:
                drawn = plan(number)
                layout = batches.layout_of(drawn, None)
                batch = batches.new_batch(layout, drawn)
                batches.fill(split.reader, layout, batch, 0, layout.count)
            number += 1

    return run


def bare(files: list[Path], plan: Plan, turns: int) -> Run:
    """Opens, decodes, cuts and resizes with Pillow alone; the boxes are given."""
    tasks = [
        [
            (files[row], tuple(map(int, step)))
            for row, step in zip(drawn.rows, drawn.crops["x"][1][:, 0, 0], strict=True)
        ]
        for drawn in map(plan, range(turns))
    ]
    number = 0

    def run(steps: int) -> None:
        nonlocal number
        for _ in range(steps):
            for file, (top, left, height, width, *size) in tasks[number % turns]:
                with Image.open(file) as image:
                    cut = image.crop((left, top, left + width, top + height))
                    np.asarray(cut.resize(size, Image.Resampling.BILINEAR))
            number += 1

    return run


def decoding(files: list[Path], batch: int) -> Run:
    """Decodes with Pillow, and no more."""
    position = 0

    def run(steps: int) -> None:
        nonlocal position
        for _ in range(steps * batch):
            with Image.open(files[position]) as image:
                image.load()
            position = (position + 1) % len(files)

    return run


def cutting(images: list[Image.Image], drawn: BatchPlan, methods: tuple[str, ...]) -> Run:
    """Cuts the boxes of a batch out of images that are decoded."""

    def run(steps: int) -> None:
        for _ in range(steps):
            for row, step in zip(drawn.rows, drawn.crops["x"][1][:, 0], strict=True):
                crops.cut(images[row], step, methods)

    return run


def spent() -> float:
    """Returns the CPU-seconds of this process and of its children, running and ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for thread in Path("/proc/self/task").iterdir():
        for child in (thread / "children").read_text().split():
            total += time.clock_gettime(~int(child) << 3 | 2)  # the CPU clock of a process
    return total


def streaming(split: data.Split, plan: Plan, workers: int) -> Callable[[int], common.Turn]:
    """Times batches of a stream, which begins filled and ends with its last batch."""

    def turn(steps: int) -> common.Turn:
        stream = Stream(split, plan, 0, workers, end=AHEAD + steps)
        before, now = -1.0, spent()
        while now - before > 0.002:  # until nothing more is read ahead
            time.sleep(0.1)
            before, now = now, spent()
        wall, cpu = time.perf_counter(), spent()
        for _ in range(AHEAD + steps):
            stream.next()
        return common.Turn((time.perf_counter() - wall) / steps, (spent() - cpu) / steps)

    return turn


def measure(options: argparse.Namespace, photographs: Callable) -> None:
    """Measures all sides in turn and prints a line for each pair; a table goes to stderr.

    Args:
      options: of `common.parse`; a batch holds at most `COUNT` images.
      photographs: `photographs(width, height, count)` gives images.
    """
    memory.keep_memory()  # as streams do; the loops over Pillow gain from it too
    batch = min(options.batch, COUNT)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        place = Path(directory, "data", "train", "photographs")
        place.mkdir(parents=True)
        for number, pixels in enumerate(photographs(WIDTH, HEIGHT, COUNT)):
            Image.fromarray(pixels).save(place / f"{number:05d}.jpeg", quality=QUALITY)
        files = sorted(place.iterdir())
        per_file = round(sum(file.stat().st_size for file in files) / COUNT)
        split = data.load(f"folder:{place.parents[1]}", SPLITS).splits["train"]
        plans = {name: plan_of(split, batch, {"x": stage}) for name, stage in STAGES.items()}
        plan = plans["ResNet-50"]
        two = plan_of(split, batch, dict.fromkeys("xy", STAGES["ResNet-50"]))
        other = plan_of(split, batch, {"y": STAGES["ResNet-50"]})
        made = np.zeros((batch, 224, 224, 3), np.uint8)
        images = [split.image_at(row) for row in range(COUNT)]
        runs = {
            "bare Pillow": bare(files, plan, COUNT // batch),
            "decoding": decoding(files, batch),
            "one thread": filling(split, plan),
            "one decode, two crops": filling(split, two),
            "two decodes": filling(split, plan, other),
            "B0": filling(split, plans["B0"]),
            "B7": filling(split, plans["B7"]),
            "copying": lambda steps: [made.copy() for _ in range(steps)] and None,
        }
        for name, size in (("B0", 224), ("B7", 600)):
            drawn = plans[name](0)
            runs[f"cut for {name}"] = cutting(images, drawn, drawn.crops["x"][0].methods)
            runs[f"bicubic {size}"] = cutting(images, drawn, ("bicubic",))
        for run in runs.values():
            run(1)
        sides = {name: functools.partial(common.timed, run) for name, run in runs.items()}
        sides["threads"] = streaming(split, plan, 0)
        sides["processes"] = streaming(split, plan, cores())
        load = common.rounded(os.getloadavg())
        turns = common.take_turns(sides, options)
    for name, (first, second, target) in TARGETS.items():
        pair = {side: turns[side] for side in (first, second)}
        result = common.compared(name, pair, options, ("numpy", "Pillow"))
        common.report(
            {**result, "batch": batch, "load": load, "bytes_a_file": per_file},
            target and round(target, 3), "cpu_ratio",
        )
    print(table(turns, batch), file=sys.stderr)


def table(turns: dict[str, list[common.Turn]], batch: int) -> str:
    """Returns a table of all sides, and the cores that networks need, as Markdown."""
    median = {
        side: common.Turn(*map(statistics.median, zip(*of_side, strict=True)))
        for side, of_side in turns.items()
    }
    lines = ["| | images/s | CPU-ms an image | beside bare Pillow |", "|---|---|---|---|"]
    for side, turn in median.items():
        beside = statistics.median(
            other.cpu / turn.cpu
            for turn, other in zip(turns[side], turns["bare Pillow"], strict=True)
        )
        lines.append(
            f"| {side} | {batch / turn.wall:.0f} | {1000 * turn.cpu / batch:.3f} | {beside:.2f} |"
        )
    lines += ["", "| cores for images/s | 1,000 | 5,000 |", "|---|---|---|"]
    for name, side in (("ResNet-50", "one thread"), ("B0", "B0"), ("B7", "B7")):
        seconds = median[side].cpu / batch
        lines.append(f"| {name} | {1000 * seconds:.1f} | {5000 * seconds:.1f} |")
    return "\n".join(lines)
